"""Every kind of result is corrupted in every way: `verify` names it, and the next run mends it."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from abuse import many
from project import AS_MAKE, finished

from npu_parity import evidence
from npu_parity.audit.verify import verify
from npu_parity.errors import ParityError
from npu_parity.evidence.manifest import NAME

pytestmark = [pytest.mark.slow, pytest.mark.abuse("corrupted results")]

RUN = "results/net/npu/predicted"
FILES = (
    "results/net/weights.safetensors",
    "results/net/weights.json",
    "results/net/inputs.npy",
    "results/net/inputs.json",
    "results/net/divergence.svg",
    "results/net/card.md",
    "results/net/card.zh.md",
    "results/net/manifest.json",
    "results/net/cpu/exact/outputs.npy",
    "results/net/cpu/exact/run.json",
    "results/net/cpu/measured/latency.json",
    "results/net/cpu/measured/operators.csv",
    "results/net/cpu/measured/program.json",
    "results/net/cpu/measured/outputs.npy",
    f"{RUN}/outputs.npy",
    f"{RUN}/run.json",
    f"{RUN}/metrics.json",
    f"{RUN}/divergence.csv",
    f"{RUN}/manifest.json",
    "results/summary.json",
    "results/report.html",
    "results/manifest.json",
    "results/tables/net.md",
    "results/tables/summary.md",
    "results/tables/overview.md",
    "results/tables/manifest.json",
)
# Git does not keep these, so that `verify` does not ask for them. The next run makes them again.
NOT_KEPT = ("weights.safetensors", "inputs.npy")


def flipped(place):
    """Exchange one bit of the byte at a place, which is a share of the length."""

    def corrupt(path):
        content = bytearray(path.read_bytes())
        content[int(place * (len(content) - 1))] ^= 1
        path.write_bytes(content)

    return corrupt


def rewritten(change):
    def corrupt(path):
        path.write_bytes(change(path.read_bytes()))

    return corrupt


def older(path):
    """Put the result of another run in its place, whole and well formed."""
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"seed": 77}, indent=2) + "\n")
    else:
        path.write_bytes(path.read_bytes().replace(b"1", b"2") + b"\n")


WAYS = {
    "first byte": flipped(0),
    "middle byte": flipped(0.5),
    "last byte": flipped(1),
    **{f"byte {i}": flipped(random.Random(i).random()) for i in range(many(1, 20))},
    "half": rewritten(lambda content: content[: len(content) // 2]),
    "last byte lost": rewritten(lambda content: content[:-1]),
    "empty": rewritten(lambda content: b""),
    "a byte more": rewritten(lambda content: content + b"\n"),
    "a result of another run": older,
    "gone": lambda path: path.unlink(),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return finished(tmp_path_factory)


@pytest.fixture
def project(base, tmp_path):
    return base.copy(tmp_path)


@pytest.fixture(scope="module")
def place(base, tmp_path_factory):
    """Results that are corrupted and mended one file at a time."""
    return shutil.copytree(base.folder / "results", tmp_path_factory.mktemp("some") / "results")


def corrupt(path, way):
    """Corrupt a file; its time stays."""
    time = path.stat().st_mtime_ns
    WAYS[way](path)
    if path.exists():
        os.utime(path, ns=(time, time))


def test_every_kind_of_result_is_here(base):
    kinds = {os.path.splitext(name)[1] for name in base.files()}
    assert kinds == {os.path.splitext(name)[1] for name in FILES}
    assert {name.rpartition("/")[2] for name in base.files()} == {
        name.rpartition("/")[2] for name in FILES
    }


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", FILES)
def test_verify_names_it_and_the_command(place, file, way, monkeypatch, record_property):
    monkeypatch.chdir(place.parent)
    path = place.parent / file
    before = path.read_bytes()
    corrupt(path, way)
    try:
        lines, wrong = verify(Path("results"))
        if path.name != NAME:  # so that it reaches no table
            with pytest.raises(ParityError):
                evidence.read_bytes(file)
    finally:
        path.write_bytes(before)
    if path.name in NOT_KEPT and way == "gone":
        assert wrong == []
    else:
        assert lines == [] and len(wrong) == 1
        assert wrong[0].startswith(f"{file} ") and len(wrong[0]) < 300
        assert "run `snakemake --cores 4" in wrong[0]
    record_property("cases", 1)


# Tables and figures are made again fast; everything takes a whole run.
MENDED = many(
    {
        "results/net/divergence.svg": "half",
        "results/manifest.json": "gone",
        "results/tables/net.md": "middle byte",
        "results/tables/overview.md": "empty",
        "results/tables/summary.md": "a result of another run",
    },
    {},
)


@pytest.mark.parametrize("way", many(["some"], WAYS))
def test_the_same_command_mends_it(base, project, way, record_property):
    ways = MENDED or dict.fromkeys(FILES, way)
    for file, how in ways.items():
        corrupt(project.folder / file, how)
    command = project.command() | {"args": [sys.executable, "-m", "npu_parity", "verify"]}
    done = subprocess.run(**command)
    named = [file for file in ways if f"{file} " in done.stdout]
    assert done.returncode == 1 and "Traceback" not in done.stdout
    if way == "some":
        assert named == list(ways)
    assert len([line for line in done.stdout.splitlines() if line.startswith("error: ")]) == 1
    project.succeed(*AS_MAKE)
    assert project.comparable() == base.comparable()
    assert verify(project.folder / "results")[1] == []
    record_property("cases", len(ways))
