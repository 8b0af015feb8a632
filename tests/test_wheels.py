"""The wheels of a bundle: from the lock, for another machine, installed without a network."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from project import ROOT, SMALL, Project, sha256

from npu_parity.errors import ParityError
from npu_parity.sources import wheels

UV = shutil.which("uv")


def has_pip():
    command = [UV, "tool", "run", "--offline", "pip", "--version"]
    return UV and subprocess.run(command, capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_pip(), reason="needs uv with pip in its cache"),
]

PROJECT = """
[project]
name = "npu-parity"
version = "1.0"
requires-python = ">=3.11"
dependencies = ["alpha", "elsewhere ; sys_platform == 'win32'"]

[project.optional-dependencies]
npu-one = ["beta==1.0"]
npu-two = ["beta==2.0"]

[tool.uv]
conflicts = [[{ extra = "npu-one" }, { extra = "npu-two" }]]
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def wheel(folder, name, version, tag="py3-none-any", **files):
    """Write a wheel with one module, and files by name; `entry_points` is one of its metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"tag = {tag!r}\n")
        archive.writestr(
            f"{about}/METADATA",
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n",
        )
        for file, content in files.items():
            inside = f"{about}/{file}.txt" if file == "entry_points" else f"{name}.{file}"
            archive.writestr(inside, content)
        archive.writestr(f"{about}/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
        archive.writestr(f"{about}/RECORD", f"{name}.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n")
    listed(folder)
    return path


def listed(folder):
    """Write the page of an index with the hashes of a package's files."""
    links = (f'<a href="{p.name}#sha256={sha256(p)}">{p.name}</a>' for p in folder.glob("*.whl"))
    (folder / "index.html").write_text("<!DOCTYPE html><html><body>" + "".join(links))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a lock of a local index, and the index."""
    index = tmp_path / "index"
    wheel(index / "alpha", "alpha", "1.0")
    wheel(index / "elsewhere", "elsewhere", "1.0")
    for version in ("1.0", "2.0"):
        for machine in ("aarch64", "x86_64"):
            wheel(index / "beta", "beta", version, f"cp311-cp311-manylinux_2_28_{machine}")
    handler = functools.partial(Quiet, directory=index)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        folder = tmp_path / "project"
        folder.mkdir()
        (folder / "pyproject.toml").write_text(PROJECT)
        subprocess.run([UV, "lock", "--quiet", "--default-index", url], cwd=folder, check=True)
        monkeypatch.setenv("PIP_INDEX_URL", url)
        monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
        monkeypatch.setenv("UV_OFFLINE", "1")  # pip is in the cache of uv
        yield folder
        server.shutdown()


@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
def test_wheels_of_another_machine(project, machine):
    room = project / "wheels"
    wheels.download(wheels.Target("npu", machine), project, room)
    named = {path.name for path in room.glob("*.whl")}
    beta = [f"beta-{n}.0-cp311-cp311-manylinux_2_28_{machine}.whl" for n in (1, 2)]
    assert named == {"alpha-1.0-py3-none-any.whl", *beta}
    for extra, file in zip(("npu-one", "npu-two"), beta, strict=True):
        lines = (room / f"{extra}.txt").read_text().splitlines()
        assert lines == [
            f"alpha==1.0 --hash=sha256:{sha256(room / 'alpha-1.0-py3-none-any.whl')}",
            f"beta=={file[5:8]} --hash=sha256:{sha256(room / file)}",
        ]


def test_another_hash_than_the_locks_is_refused(project):
    path = project.parent / "index/alpha/alpha-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more.py", "")
    listed(path.parent)
    with pytest.raises(ParityError, match=r"uv tool failed: .*(hash|HASH)") as error:
        wheels.download(wheels.Target("npu-one", "aarch64"), project, project / "wheels")
    assert len(str(error.value).splitlines()) == 1


def test_no_wheel_for_the_machine(project):
    with pytest.raises(ParityError, match=r"uv tool failed: .*beta==1\.0"):
        wheels.download(wheels.Target("npu-one", "s390x"), project, project / "wheels")


def test_a_bundle_installs_itself_without_a_network(project):
    """As `make` does it, on a machine with Python only."""
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        pytest.skip("a network namespace is not permitted")
    room, python = project / "wheels", "{}.{}".format(*sys.version_info)
    for version in ("1.0", "2.0"):
        tag = "cp{0}{1}-cp{0}{1}-manylinux_2_17_{2}".format(
            *sys.version_info[:2], os.uname().machine
        )
        wheel(project.parent / "index/beta", "beta", version, tag)
    relock = [UV, "lock", "--quiet", "--upgrade", "--default-index", os.environ["PIP_INDEX_URL"]]
    subprocess.run(relock, cwd=project, check=True, env=os.environ | {"UV_OFFLINE": "0"})
    wheels.download(wheels.Target("npu-two", os.uname().machine, python), project, room)
    wheel(room, "npu_parity", "1.0")  # which `wheels.build` makes
    (project / "envs").mkdir()
    shutil.copy(ROOT / "envs/install.py", project / "envs")
    install = [sys.executable, "envs/install.py", "npu-two"]
    subprocess.run(["unshare", "--net", *install], cwd=project, check=True, capture_output=True)
    code = "import alpha, beta, npu_parity, importlib.metadata as m; print(m.version('beta'))"
    done = subprocess.run(
        [project / ".venv/bin/python", "-I", "-c", code], capture_output=True, text=True
    )
    assert done.stdout.strip() == "2.0", done.stderr


WHOLE = """
[project]
name = "npu-parity"
version = "0.2.0"
requires-python = ">=3.11"
dependencies = ["alpha"]

[project.optional-dependencies]
cpu = ["host==1.0"]

[build-system]
requires = ["uv_build>=0.9"]
build-backend = "uv_build"

[tool.uv.build-backend]
module-root = ""
"""


def test_make_in_a_bundle_runs_a_system_without_a_network(tmp_path, monkeypatch):
    """The wheel of `host` stands for all large packages: it leads to those of this environment."""
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        pytest.skip("a network namespace is not permitted")
    online = Project.make(tmp_path / "online", SMALL)
    online.configure(lambda config: config["devices"].pop("absent"))
    for name in ("Makefile", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, online.repository)
    (online.repository / "pyproject.toml").write_text(WHOLE)
    index, packages = tmp_path / "index", sysconfig.get_paths()["purelib"]
    wheel(index / "alpha", "alpha", "1.0")
    script = "[console_scripts]\nsnakemake = snakemake.cli:main\n"
    wheel(index / "host", "host", "1.0", pth=packages, entry_points=script)
    handler = functools.partial(Quiet, directory=index)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setenv("PIP_INDEX_URL", url)
        monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
        lock = [UV, "lock", "--quiet", "--default-index", url]
        subprocess.run(lock, cwd=online.repository, check=True)
        monkeypatch.setenv("UV_OFFLINE", "1")  # pip and uv_build are in the cache of uv
        packed = subprocess.run(
            [
                *(sys.executable, "-m", "npu_parity", "bundle", "--to", "b.tar"),
                *("--environment", "cpu", "--platform", os.uname().machine),
                *("--python", "{}.{}".format(*sys.version_info)),
            ],
            cwd=online.folder,
            env=online.command()["env"],
            capture_output=True,
            text=True,
        )
        server.shutdown()
    assert packed.returncode == 0, packed.stderr
    with tarfile.open(online.folder / "b.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    bundle = tmp_path / "b"
    assert "make EXTRA=cpu" in (bundle / "BUNDLE.txt").read_text()
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        ["unshare", "--net", "make", "EXTRA=cpu", "CORES=2"],
        cwd=bundle,
        env=kept | {"HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    rows = json.loads((bundle / "results/summary.json").read_text())["rows"]
    assert {(row["system"], row["device"], row["run"]) for row in rows} == {
        ("net", "cpu", "measured"),
        ("net", "npu", "predicted"),
    }
    assert (bundle / ".venv/.ready").read_text() == "cpu\n"


def test_make_needs_no_uv_in_a_bundle(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "uv.lock"):
        (tmp_path / name).touch()
    commands = ["make", "--dry-run", ".venv/.ready", "EXTRA=npu"]

    def planned():
        env = os.environ | {"PATH": "/usr/bin:/bin"}
        return subprocess.run(
            commands, cwd=tmp_path, env=env, capture_output=True, text=True
        ).stdout

    assert "pip install" in planned() and "--uv .uv/bin/uv" in planned()
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels/npu-cann9.txt").touch()
    assert re.search(r"^python3 envs/install.py npu *$", planned(), re.MULTILINE)
    assert "--uv" not in planned()
