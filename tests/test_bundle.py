"""A bundle runs where there is no network, and what it makes has the same bytes."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from hub_server import HubServer, hub_env
from project import CONFIG, ROOT, Project, draw, sha256, system
from safetensors.torch import save

from npu_parity import bundle as bundling
from npu_parity.errors import ParityError
from npu_parity.sources import architectures
from npu_parity.sources.seeds import draw as drawn

pytestmark = pytest.mark.slow

ISOLATED = ("unshare", "--net")  # a network namespace without any network
UV = shutil.which("uv")


def command(project, *arguments):
    """`npu-parity` of the project's own copy, in its folder."""
    done = subprocess.run(
        [sys.executable, "-m", "npu_parity", *map(str, arguments)],
        cwd=project.folder,
        env=project.command()["env"],
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Two systems after the main job: weights of a hub, the user's own files. And a new one."""
    devices = {name: CONFIG["devices"][name] for name in ("cpu", "npu")}
    project = Project.make(tmp_path_factory.mktemp("online"), {**CONFIG, "devices": devices})
    for name in ("Makefile", "pyproject.toml", "uv.lock", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project.repository)
    architecture = f"{project.folder}/tiny.py:net"
    models = {
        "hub": system(weights=["huggingface:owner/net", "seed:1"], inputs=["random:2"]),
        "own": system(weights=["path:own/m.safetensors"], inputs=["photo.png", "album"]),
    }
    models["own"]["labels"] = "labels.txt"
    (project.folder / "own").mkdir()
    state = drawn(3, lambda: architectures.build(architecture)).state_dict()
    (project.folder / "own/m.safetensors").write_bytes(save(state))
    project.configure(lambda config: config.update(models=models))
    with HubServer() as server:
        server.add("owner/net", "model.safetensors", save(state))
        project.env = server.env()
        project.succeed("all")
    project.configure(lambda config: config["models"].update(other=system()))
    project.env = hub_env(server.url, tmp_path_factory.mktemp("caches"))  # nobody is there now
    return project


@pytest.fixture(scope="module")
def packed(project):
    done = command(project, "bundle", "--to", project.place / "b.tar.gz", "hub", "own")
    assert done.returncode == 0, done.stderr
    return project.place / "b.tar.gz"


@pytest.fixture
def unpacked(packed, tmp_path):
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "b"


def test_every_file_has_its_hash(unpacked):
    lines = (unpacked / "SHA256SUMS").read_text().splitlines()
    stated = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    files = {str(p.relative_to(unpacked)): p for p in unpacked.rglob("*") if p.is_file()}
    assert stated == {name: sha256(p) for name, p in files.items() if name != "SHA256SUMS"}
    assert {"album/one.png", "photo.png", "tiny.py", "labels.txt", "own/m.safetensors"} <= set(
        files
    )
    assert {"Snakefile", "Makefile", "weights.lock.yaml", "results/hub/inputs.npy"} <= set(files)
    assert not [n for n in files if "other" in n or "/cpu/" in n or "__pycache__" in n]
    assert yaml.safe_load((unpacked / "config.yaml").read_text())["models"].keys() == {"hub", "own"}
    if UV:
        assert list(unpacked.glob("wheels/npu_parity-*.whl"))


def test_the_same_command_makes_the_same_bytes_without_a_network(project, unpacked, tmp_path):
    if subprocess.run([*ISOLATED, "true"], capture_output=True).returncode:
        pytest.skip("a network namespace is not permitted")
    with HubServer() as server:
        reach = f"import socket; socket.create_connection(('127.0.0.1', {server.port}))"
        for prefix, refused in (((), 0), (ISOLATED, 1)):
            done = subprocess.run([*prefix, sys.executable, "-c", reach], capture_output=True)
            assert done.returncode == refused
    env = {k: v for k, v in project.command()["env"].items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [*ISOLATED, sys.executable, "-m", "snakemake", "--cores", "2", "all"],
        cwd=unpacked,
        env=env | {"HOME": str(tmp_path), "PYTHONPATH": str(unpacked)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "rule weights" not in done.stdout and "rule inputs" not in done.stdout
    there = Project(tmp_path)
    shutil.move(unpacked, there.folder)
    found, online = there.comparable(), project.comparable()
    assert len(found) > 30
    assert [name for name in found if found[name] != online.get(name)] == []


def test_a_bundle_makes_what_is_missing_first(project, tmp_path):
    copy = project.copy(tmp_path)
    copy.configure(lambda config: config["models"].update(new=system(weights=["seed:5"])))
    done = command(copy, "bundle", "--to", "folder", "new")
    assert done.returncode == 0, done.stderr
    assert (copy.folder / "folder/results/new/weights.safetensors").is_file()
    copy.configure(lambda c: c["models"].update(new=system(weights=["huggingface:owner/none"])))
    done = command(copy, "bundle", "--to", "second", "new")
    assert done.returncode == 1 and "weights and inputs cannot be made: " in done.stderr
    assert "no source is left" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not [p for p in copy.folder.iterdir() if "second" in p.name]


@pytest.fixture
def here(project, monkeypatch, tmp_path):
    """A copy of the project as the working directory; Snakemake is not run."""
    copy = project.copy(tmp_path)
    monkeypatch.chdir(copy.folder)
    monkeypatch.setattr(bundling, "_make", lambda systems: None)
    return copy


def names():
    return {path.name for path in Path().iterdir()}


def test_what_fails_leaves_nothing(here, monkeypatch):
    before = names()
    monkeypatch.setattr(bundling.wheels, "build", lambda *_: None)
    with monkeypatch.context() as patch:

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        patch.setattr(shutil, "make_archive", full)
        with pytest.raises(ParityError, match=r"b\.tar cannot be written: No space left on device"):
            bundling.bundle(Path("b.tar"), ["own"])
    assert names() == before
    file = Path("results/own/inputs.npy")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ParityError, match=r"own/inputs\.npy was changed since it was made"):
        bundling.bundle(Path("b.tar"), ["own"])
    assert names() == before


def test_what_cannot_be_packed_is_one_line(here, tmp_path):
    with pytest.raises(ParityError, match="album exists already: give another name"):
        bundling.bundle(Path("album"))
    with pytest.raises(ParityError, match="no system 'none', expected hub, own, other"):
        bundling.bundle(Path("b"), ["none"])
    draw(tmp_path / "outside.png", 3)
    for name in ("../outside.png", str(tmp_path / "outside.png")):
        here.configure(lambda config, name=name: config["models"]["own"].update(inputs=[name]))
        with pytest.raises(ParityError, match=r"outside\.png is not below the folder of config"):
            bundling.bundle(Path("b"), ["own"])
    target = bundling.wheels.Target("gpu", "aarch64")
    with pytest.raises(ParityError, match="environment 'gpu' is unknown: expected one of npu, cpu"):
        target.extras(ROOT)
