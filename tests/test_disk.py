"""Full disks, folders that cannot be written or vanish, older layouts, wrong clocks.

One line says what is wrong. The same command completes the run when the cause is gone.
"""

import os
import resource
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from abuse import many
from project import AS_MAKE, finished

from npu_parity import evidence
from npu_parity.audit.verify import verify
from npu_parity.errors import ParityError
from npu_parity.evidence import manifest
from npu_parity.sources.weights import save

pytestmark = [
    pytest.mark.slow,
    pytest.mark.abuse("full, read-only or vanishing folders"),
]

INPUTS = "results/net/inputs.npy"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return finished(tmp_path_factory)


@pytest.fixture
def project(base, tmp_path, record_property):
    """A finished run."""
    record_property("cases", 1)
    return base.copy(tmp_path)


@pytest.fixture
def fresh(project):
    """A folder in which nothing was run."""
    return project.empty()


@contextmanager
def mounted(place, *options):
    """Let a folder be another file system; skip if this is not allowed."""
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, place], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not permitted: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def refused(project, *targets):
    """The one line with the cause, the last that is printed."""
    done = project.run(*AS_MAKE, *targets)
    assert done.returncode != 0 and "Traceback" not in done.stdout, done.stdout
    line = done.stdout.splitlines()[-1]
    assert "error: " in line and len(line) < 300, done.stdout
    return line


def recovers(project, base, *targets):
    project.succeed(*AS_MAKE, *targets)
    found, expected = project.comparable(), base.comparable()
    assert all(found[name] == expected[name] for name in targets)
    assert [n for n in found if n.endswith(".partial")] == []


# A full disk


@pytest.mark.parametrize("size", many(["8k"], ["8k", "24k", "32k"]))
def test_full_results(base, fresh, size):
    """Nothing incomplete is left, and what was complete before is still there."""
    with mounted(fresh.folder / "results", "-t", "tmpfs", "-o", f"size={size}", "tmpfs"):
        line = refused(fresh, INPUTS)
        assert line.startswith("logs/net/inputs.log: error: results/net/inputs.")
        assert line.endswith("cannot be written: No space left on device")
        assert not list((fresh.folder / "results").rglob(".*"))
    recovers(fresh, base, INPUTS)


def test_full_folder_of_the_run(base, fresh):
    """Snakemake's own log and memory are on the full disk too."""
    kept = shutil.copytree(fresh.folder, fresh.place / "kept")
    with mounted(fresh.folder, "-t", "tmpfs", "-o", "size=64k", "tmpfs"):
        shutil.copytree(kept, fresh.folder, dirs_exist_ok=True)
        line = refused(fresh, INPUTS)
        assert "No space left on device" in line
    recovers(fresh, base, INPUTS)


@pytest.mark.parametrize("write", ["array", "json", "tensors"])
def test_a_limit_of_file_size(tmp_path, write, monkeypatch):
    """As on a full disk: the writer itself says so, in one line, and leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    large = np.zeros(10_000)
    writers = {
        "array": lambda: evidence.write_array("results/a.npy", large),
        "json": lambda: evidence.write_json("results/a.json", large.tolist()),
        "tensors": lambda: save({"a": torch.zeros(10_000)}, Path("results/a.safetensors")),
    }
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(ParityError, match=r"^results/a\S* cannot be written: .*File too large"):
            writers[write]()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


# Folders that cannot be written


@contextmanager
def read_only(place):
    with mounted(place, "--bind", place):
        subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
        yield


@pytest.mark.parametrize("name", many(["results"], ["results", "logs", "."]))
def test_read_only(base, project, name):
    """Root may write everywhere, but not into a file system that is read-only."""
    with read_only(project.folder / name):
        line = refused(project, INPUTS)
        assert line.startswith("error: ") and " cannot be written: " in line
    recovers(project, base, INPUTS)


@pytest.mark.parametrize("name", many(["results/net"], ["results/net", "logs/net", "logs"]))
def test_a_file_in_place_of_a_folder(base, project, name):
    path, kept = project.folder / name, project.place / "kept"
    path.rename(kept)
    path.write_text("a file")
    line = refused(project, INPUTS)
    assert line == f"error: {name} is no folder, expected a folder: move it to another place"
    assert path.read_text() == "a file"
    path.unlink()
    kept.rename(path)
    recovers(project, base, INPUTS)


# Python runs this before each program. One program deletes all results, at its start or its end.
PLANTED = """
import atexit, os, shutil, sys

if any("scripts/outputs.py" in part for part in sys.orig_argv):
    delete = lambda: shutil.rmtree("results")
    delete() if os.environ["DELETED"] == "start" else atexit.register(delete)
"""
CAUSES = {
    "start": "logs/net/cpu/measured/outputs.log: error: results/net/inputs.json is missing: run ",
    "end": "error: Snakemake stopped: Job 0 completed successfully, but some output files are",
}


@pytest.mark.parametrize("moment", many(["start"], ["start", "end"]))
def test_results_are_deleted_in_the_middle_of_a_run(base, fresh, moment):
    target = "results/net/cpu/measured/outputs.npy"
    (fresh.place / "sitecustomize.py").write_text(PLANTED)
    path = os.pathsep.join([str(fresh.place), str(fresh.repository)])
    fresh.env = {"PYTHONPATH": path, "DELETED": moment}
    line = refused(fresh, target)
    assert line.startswith(CAUSES[moment]), line
    fresh.env = {}
    recovers(fresh, base, target)


# Results of an older version


def test_an_older_layout(base, project):
    """No manifest, no folder of a run, sidecars that lack keys: all is made again, nothing lost."""
    old = project.folder / "results/net/cpu/outputs.npy"
    shutil.copy(project.folder / "results/net/cpu/measured/outputs.npy", old)
    for file in project.files("results/**/manifest.json").values():
        file.unlink()
    (project.folder / "results/net/inputs.json").write_text("{}")
    shutil.rmtree(project.folder / ".snakemake")
    content = old.read_bytes()
    with pytest.raises(ParityError, match=r"there are no results with a manifest\.json here$"):
        verify(project.folder / "results")
    assert {"inputs net", "weights net", "summary"} < project.plan()
    recovers(project, base, INPUTS)
    assert old.read_bytes() == content
    (line,) = (x for x in verify(project.folder / "results")[1] if f"{old.parent}/manifest" in x)
    assert "is missing: run `snakemake" in line and line.endswith("remove what it does not make")


@pytest.mark.parametrize(
    ("file", "read"),
    [
        (INPUTS.replace("npy", "json"), lambda: evidence.read_inputs(INPUTS)),
        ("results/net/npu/predicted/metrics.json", lambda: verify(Path("results"))),
        ("results/net/npu/predicted/run.json", lambda: verify(Path("results"))),
        ("results/net/weights.json", lambda: verify(Path("results"))),
    ],
)
def test_a_sidecar_without_todays_keys(project, file, read, monkeypatch):
    monkeypatch.chdir(project.folder)
    with manifest.job("older", "0", []):
        evidence.write_json(file, {"made": "long ago"})
    with pytest.raises(ParityError) as error:
        read()
    assert str(error.value).startswith(f"{file} lacks '") and len(str(error.value)) < 300
    assert f"run `snakemake --cores 4 {file}`" in str(error.value)


# A clock that goes backwards


@pytest.mark.parametrize("pattern", ["results/**/*", "results/net/*"])
def test_results_from_the_future(base, project, pattern):
    """Times count for nothing: what is up to date stays, what is not is made again."""
    for path in project.files(pattern).values():
        future = path.stat().st_mtime + 1e8
        os.utime(path, (future, future))
    assert project.plan() == set()
    assert project.comparable() == base.comparable()


def test_a_result_is_made_before_what_it_is_made_from(base, project):
    future = {n: p for n, p in project.files().items() if n != INPUTS}
    for path in future.values():
        os.utime(path, (4e9, 4e9))
    (project.folder / INPUTS).write_bytes(b"damaged")
    recovers(project, base, INPUTS)
    assert "inputs net" not in project.plan()
