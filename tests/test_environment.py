"""What is installed for an NPU: the right pair, or one line before torch is imported.

No test has an NPU or CANN. The slow tests have the real torch_npu.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import stub_cann
import yaml
from project import ROOT

import npu_parity
from npu_parity.backends import environment
from npu_parity.errors import ParityError

UV = shutil.which("uv")
needs_uv = pytest.mark.skipif(UV is None, reason="needs uv")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, GROUPS = PYPROJECT["project"], PYPROJECT["dependency-groups"]
EXTRAS = PROJECT["optional-dependencies"]
REGISTERS = b"pinned_reserve_segment_size_mb getMutableKeys"  # what torch allows only once

specification = importlib.util.spec_from_file_location("install", ROOT / "envs/install.py")
install = importlib.util.module_from_spec(specification)
specification.loader.exec_module(install)


# Installed packages: a folder with their files and metadata, nothing that can be imported


def add_package(site, name, version, requires="", files=(), code=""):
    """Write a package as an installer leaves it."""
    about = site / f"{name}-{version}.dist-info"
    about.mkdir(parents=True)
    requires = f"Requires-Dist: {requires}\n" if requires else ""
    metadata = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
    (about / "METADATA").write_text(metadata + requires)
    (site / name / "lib").mkdir(parents=True)
    (site / name / "__init__.py").write_text(code or f"raise SystemExit('{name} was imported')\n")
    for file, content in dict(files).items():
        (site / name / "lib" / file).write_bytes(content)


def add_torch(site, version, cuda=None):
    add_package(site, "torch", version, files={"libc10_cuda.so": cuda} if cuda else {})


def add_torch_npu(site, version, requires="", library=b"nothing"):
    add_package(site, "torch_npu", version, requires, {"libtorch_npu.so": library})


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder in which this process finds packages first; torch loads torch_npu by itself."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delenv("TORCH_DEVICE_BACKEND_AUTOLOAD", raising=False)
    monkeypatch.setattr(environment, "GPUS", str(tmp_path / "nvidia[0-9]*"))
    monkeypatch.setattr(environment, "LIBRARY_CACHE", tmp_path / "ld.so.cache")
    monkeypatch.setattr(environment, "SET_ENV", (tmp_path / "set_env.sh",))
    (tmp_path / "site").mkdir()
    return tmp_path / "site"


def cann(folder):
    """CANN's environment, with a library that cannot be loaded."""
    (folder / "opp").mkdir(parents=True, exist_ok=True)
    (folder / "libhccl.so").touch()
    return {
        "ASCEND_HOME_PATH": str(folder),
        "ASCEND_OPP_PATH": str(folder / "opp"),
        "LD_LIBRARY_PATH": f"/nowhere:{folder}",
    }


@pytest.fixture
def sourced(tmp_path, monkeypatch):
    for name, value in cann(tmp_path / "cann").items():
        monkeypatch.setenv(name, value)


def refusal(npu=False):
    with pytest.raises(ParityError) as refused:
        environment.check(npu)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# Pairs


def test_without_torch_npu_only_the_npu_is_refused(site):
    add_torch(site, "2.14.1", cuda=REGISTERS)
    environment.check()
    assert not environment.installed()
    assert refusal(npu=True) == "device npu: torch_npu is not installed; run: make EXTRA=npu"


@pytest.mark.parametrize(
    ("torch", "cuda", "version", "requires"),
    [
        ("2.9.0", None, "2.9.0", "torch==2.9.0"),
        ("2.9.0+cpu", None, "2.9.0", "torch==2.9.0+cpu"),
        ("2.10.0", None, "2.10.0.post4", "torch ==2.10.0"),
        ("2.10.0", REGISTERS, "2.10.0.post4", "torch ==2.10.0+cpu"),
        ("2.14.0+cpu", None, "2.14.0", "torch==2.14.0.*"),
        ("2.9.1", None, "2.9.1.post3", ""),
    ],
)
def test_pairs_that_start(site, sourced, torch, cuda, version, requires):
    add_torch(site, torch, cuda)
    add_torch_npu(site, version, requires)
    environment.check()
    environment.check(npu=True)


@pytest.mark.abuse("software that would abort")
@pytest.mark.parametrize(
    ("torch", "version", "requires", "needed"),
    [
        ("2.14.1", "2.10.0.post4", "torch ==2.10.0+cpu", "2.10.0"),
        ("2.14.1", "2.14.0", "torch==2.14.0.*", "2.14.0"),
        ("2.10.0", "2.1.0.post17", "torch==2.1.0", "2.1.0"),
        ("2.9.1", "2.9.0.post9", "", "2.9.0"),
    ],
)
def test_wrong_pair(site, sourced, torch, version, requires, needed):
    add_torch(site, torch)
    add_torch_npu(site, version, requires)
    line = refusal()
    assert f"torch_npu {version} needs torch {needed}, found torch {torch}; run: make EXTRA" in line
    assert f"uv pip install torch=={needed}+cpu torchvision --index-url https://" in line


@pytest.mark.abuse("software that would abort")
def test_pair_that_aborts(site, sourced):
    add_torch(site, "2.10.0", cuda=REGISTERS)
    add_torch_npu(site, "2.10.0.post7", "torch ==2.10.0+cpu", library=REGISTERS)
    line = refusal()
    assert "torch_npu 2.10.0.post7 aborts beside torch 2.10.0" in line and "CPU build" in line
    assert "run: make EXTRA=npu, or uv pip install torch==2.10.0+cpu torchvision" in line


def test_libraries_that_register_nothing_do_not_abort(site, sourced):
    add_torch(site, "2.9.0", cuda=b"getMutableKeys")
    add_torch_npu(site, "2.9.0.post9", "torch==2.9.0+cpu", library=REGISTERS)
    environment.check()


def test_torch_npu_that_torch_does_not_load_is_refused_where_it_is_used(site, monkeypatch):
    monkeypatch.setenv("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
    add_torch(site, "2.14.1", cuda=REGISTERS)
    add_torch_npu(site, "2.14.0", "torch==2.14.0.*", library=REGISTERS)
    environment.check()
    assert "aborts beside" in refusal(npu=True)


# CANN and GPUs


@pytest.mark.abuse("software that would abort")
@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("ASCEND_HOME_PATH", "", "ASCEND_HOME_PATH is not set"),
        ("ASCEND_HOME_PATH", "/gone", "ASCEND_HOME_PATH is /gone, which does not exist"),
        ("ASCEND_OPP_PATH", "", "ASCEND_OPP_PATH is not set"),
        ("LD_LIBRARY_PATH", "", "libhccl.so is in no folder of LD_LIBRARY_PATH"),
    ],
)
def test_cann_that_is_not_sourced(site, sourced, monkeypatch, name, value, reason):
    add_torch(site, "2.9.0")
    add_torch_npu(site, "2.9.0")
    monkeypatch.setenv(name, value)
    line = refusal()
    assert f"torch_npu 2.9.0 is installed, but it does not find CANN ({reason}); run: " in line
    assert line.endswith("or set TORCH_DEVICE_BACKEND_AUTOLOAD=0 to continue without the NPU")
    assert "AUTOLOAD" not in refusal(npu=True)


def test_script_of_cann_is_named_if_it_is_there(site):
    add_torch(site, "2.9.0")
    add_torch_npu(site, "2.9.0")
    script = environment.SET_ENV[0]
    assert f"run: source the set_env.sh of CANN, e.g. {script}" in refusal()
    script.touch()
    assert f"run: source {script}, or" in refusal()


def test_libraries_of_cann_may_be_in_the_cache_of_the_loader(site, sourced, monkeypatch):
    add_torch(site, "2.9.0")
    add_torch_npu(site, "2.9.0")
    monkeypatch.delenv("LD_LIBRARY_PATH")
    environment.LIBRARY_CACHE.write_bytes(b"\0libhccl.so\0/opt/libhccl.so\0")
    environment.check()


def test_gpu_beside_the_npu(site, sourced, monkeypatch):
    add_torch(site, "2.9.0", cuda=b"nothing")
    add_torch_npu(site, "2.9.0")
    node = site.parent / "nvidia0"
    node.touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    line = refusal()
    assert f"torch 2.9.0 finds a GPU ({node}) beside the NPU" in line
    assert "run: export CUDA_VISIBLE_DEVICES=-1, or set TORCH_DEVICE_BACKEND_AUTOLOAD=0" in line
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    environment.check()


def test_cpu_build_of_torch_sees_no_gpu(site, sourced):
    add_torch(site, "2.9.0+cpu")
    add_torch_npu(site, "2.9.0")
    (site.parent / "nvidia0").touch()
    environment.check()


# The import of torch


@pytest.fixture
def again(monkeypatch):
    """Let torch and torch_npu be imported once more; the real ones come back later."""
    for name in ("torch", "torch_npu"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_torch_is_refused_before_its_import(site, again):
    add_torch(site, "2.14.1", cuda=REGISTERS)
    add_torch_npu(site, "2.14.0", library=REGISTERS)
    finders = list(sys.meta_path)
    with pytest.raises(ParityError, match="aborts beside"), environment.guarded():
        import torch  # noqa: F401
    assert sys.meta_path == finders


def test_prints_of_torch_npu_go_to_stderr(site, again, capsys):
    code = "print('Warning: ASCEND_HOME_PATH environment variable is not set.')\n"
    add_package(site, "torch_npu", "2.9.0", code=code)
    with environment.guarded(), environment.guarded():
        import torch_npu

        print("an answer")
    assert torch_npu.__spec__.name == "torch_npu" and torch_npu.__path__
    del sys.modules["torch_npu"]
    out, err = capsys.readouterr()
    assert (out, err) == ("an answer\n", code[7:-3] + "\n")


@pytest.mark.parametrize("known", [True, False])
def test_failed_import_is_one_line(known):
    name = "torch_npu" if known else "other"
    expected = (ParityError, r"torch_npu \(libascend_hal.so: gone\); source CANN's set_env.sh")
    failure = RuntimeError(f"Failed to load the backend extension: {name}. You can …")
    failure.__cause__ = ImportError("libascend_hal.so: gone\nmore")
    kind, words = expected if known else (RuntimeError, "extension: other")
    with pytest.raises(kind, match=words), environment.guarded():
        raise failure


# Every door: the command line, the workflow and Python, with packages in front of the real ones

CONFIG = {
    "reference": "cpu",
    "devices": {"cpu": {"backend": "cpu"}, "npu": {"backend": "npu", "measure": "never"}},
    "models": {
        "tiny": {"architecture": "timm:resnet18", "weights": ["seed:1"], "inputs": ["random:1"]}
    },
}
LAUNCH = """
import runpy, sys
from npu_parity.backends import environment

environment.GPUS = sys.argv.pop(1)
sys.argv.pop(0)
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
PYTHON = """
import npu_parity

for use in (
    lambda: npu_parity.load("tiny"),
    lambda: npu_parity.check_port,
    lambda: npu_parity.obtain(npu_parity.Wanted("timm:resnet18", {}, ["seed:1"])),
):
    try:
        use()
    except npu_parity.ParityError as error:
        lines = {f"error: {error}"}
assert npu_parity.Numerics(conv="hf32")  # needs no torch
raise SystemExit(lines.pop())
"""
DOORS = {
    "probe": ["npu_parity", "probe"],
    "predict": ["npu_parity", "predict", "--system", "tiny", "--image", "a.png"],
    "snakemake": ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "1", "-n"],
    "Python": ["using"],
}


@pytest.fixture
def told(tmp_path):
    """Run a door with `site` in front of the installed packages; return its only line."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (tmp_path / "using.py").write_text(PYTHON)

    def told(door, site, variables, more=(), gpus="/nowhere"):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ASCEND", "TORCH_DEVICE"))}
        path = os.pathsep.join([str(site), str(ROOT), str(tmp_path)])
        done = subprocess.run(
            [sys.executable, "-c", LAUNCH, str(gpus), *DOORS[door], *more],
            cwd=tmp_path,
            env=kept | variables | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1, done.stderr
        assert done.stdout == ""
        lines = done.stderr.splitlines()
        if door == "snakemake":  # it names the profile first
            lines = [line for line in lines if not line.startswith("Using workflow specific")]
        assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
        return lines[0]

    return told


@pytest.mark.abuse("software that would abort")
@pytest.mark.parametrize("door", [pytest.param(d, marks=pytest.mark.slow) for d in DOORS])
def test_every_door_refuses(door, told, tmp_path):
    add_torch(tmp_path / "site", "2.14.1", cuda=REGISTERS)
    add_torch_npu(tmp_path / "site", "2.14.0", library=REGISTERS)
    assert "torch_npu 2.14.0 aborts beside torch 2.14.1" in told(door, tmp_path / "site", {})


NPU = ["--config", "devices={'npu': {'measure': 'always'}}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("door", "more"),
    [("probe", ["--device", "npu"]), ("snakemake", NPU)],
    ids=["probe", "snakemake"],
)
def test_npu_without_torch_npu(door, more, told, tmp_path):
    if environment.installed():
        pytest.skip("this Python has torch_npu")
    line = told(door, tmp_path, {}, more)
    assert line == "error: device npu: torch_npu is not installed; run: make EXTRA=npu"


def test_npu_without_torch_npu_in_python():
    if environment.installed():
        pytest.skip("this Python has torch_npu")
    with pytest.raises(ParityError, match="torch_npu is not installed; run: make EXTRA=npu"):
        npu_parity.Device("npu").implementation.target()


# The real torch_npu


def wheel(version, place):
    """Install the real torch_npu alone; without it, skip the test."""
    if UV is None or sys.platform != "linux":
        pytest.skip("needs uv and Linux to fetch torch_npu")
    target = ["--target", str(place), "--python", sys.executable]
    command = [UV, "pip", "install", "--quiet", "--no-deps", *target, f"torch-npu=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=place)
    if done.returncode:
        pytest.skip(f"torch_npu {version} cannot be had: {done.stderr.strip().splitlines()[-1]}")
    return place


@pytest.fixture(scope="module")
def newest(tmp_path_factory):
    """A torch_npu that aborts beside a torch with CUDA."""
    return wheel("2.14.0", tmp_path_factory.mktemp("newest"))


@pytest.fixture
def older(tmp_path):
    """The torch_npu of an extra, which does not abort; beside it, no torch yet."""
    (tmp_path / "older").mkdir()
    return wheel("2.10.0.post4", tmp_path / "older")


def cuda_build():
    (place,) = importlib.util.find_spec("torch").submodule_search_locations
    library = Path(place, "lib", "libc10_cuda.so")
    return library.exists() and b"getMutableKeys" in library.read_bytes()


beside_cuda = pytest.mark.skipif(not cuda_build(), reason="torch carries no CUDA here")


@pytest.mark.abuse("software that would abort")
@pytest.mark.slow
@beside_cuda
@pytest.mark.parametrize("door", DOORS)
def test_real_pair_that_aborts(door, newest, told, tmp_path):
    line = told(door, newest, cann(tmp_path / "cann"))
    assert "torch_npu 2.14.0 aborts beside torch" in line and "make EXTRA=npu" in line


@pytest.mark.slow
@beside_cuda
def test_it_would_really_abort(newest, told, tmp_path):
    """With functions that do nothing instead of CANN's, `import torch` ends by SIGABRT."""
    preload = stub_cann.build(newest / "torch_npu", tmp_path / "stub", abort=True)
    preload["PYTHONPATH"] = str(newest)
    done = subprocess.run(
        [sys.executable, "-c", "import torch"],
        env=os.environ | preload,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -6 and "Duplicated key" in done.stderr, done.stderr
    assert "aborts beside" in told("probe", newest, cann(tmp_path / "cann"))


@pytest.mark.abuse("software that would abort")
@pytest.mark.slow
@beside_cuda
def test_real_wrong_pair(older, told, tmp_path):
    line = told("probe", older, cann(tmp_path / "cann"))
    assert "torch_npu 2.10.0.post4 needs torch 2.10.0, found torch" in line


@pytest.mark.abuse("software that would abort")
@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
def test_real_torch_npu_without_cann(door, older, told):
    add_torch(older, "2.10.0")
    line = told(door, older, {"LD_LIBRARY_PATH": ""})
    assert "torch_npu 2.10.0.post4 is installed, but it does not find CANN" in line


@pytest.mark.abuse("software that would abort")
@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
def test_real_torch_npu_beside_a_gpu(door, older, told, tmp_path):
    add_torch(older, "2.10.0", cuda=REGISTERS)
    (tmp_path / "nvidia0").touch()
    variables = cann(tmp_path / "cann") | {"CUDA_VISIBLE_DEVICES": "0"}
    line = told(door, older, variables, gpus=tmp_path / "nvidia[0-9]*")
    assert f"torch 2.10.0 finds a GPU ({tmp_path}/nvidia0) beside the NPU" in line


@pytest.mark.slow
def test_real_torch_npu_that_is_not_loaded(newest, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    variables = {"PYTHONPATH": f"{newest}:{ROOT}", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "npu_parity", "probe"],
        cwd=tmp_path,
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "cpu conv: 23 mantissa bits" in done.stdout, done.stderr


# The lock

CUDA = re.compile(r"(nvidia|cuda|triton|pytorch-triton)\b.*")


def resolved(extra, machine):
    """Names and versions that uv would install on another machine."""
    command = [UV, "export", "--quiet", "--locked", "--extra", extra, "--no-hashes"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    from packaging.markers import Marker

    target = {"platform_machine": machine, "sys_platform": "linux", "platform_system": "Linux"}
    pins = re.findall(r"^([\w.-]+)==(\S+)(?: ; (.*))?$", done.stdout, re.MULTILINE)
    return {n: v for n, v, marker in pins if not marker or Marker(marker).evaluate(target)}


def wanted(extra, machine):
    """Names and versions in pyproject.toml."""
    needs = [need.partition(" ; ") for need in EXTRAS[extra]]
    return dict(
        need.split("==")
        for need, _, marker in needs
        if not marker or ("== 'aarch64'" in marker) == (machine == "aarch64")
    )


@needs_uv
@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
@pytest.mark.parametrize("extra", EXTRAS)
def test_lock_of_every_extra(extra, machine):
    found = resolved(extra, machine)
    assert wanted(extra, machine).items() <= found.items()
    assert not any(name.startswith(("triton", "pytorch-triton")) for name in found)
    if machine == "aarch64":
        assert [name for name in found if CUDA.fullmatch(name)] == []


@needs_uv
@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
@pytest.mark.parametrize("extra", EXTRAS)
def test_dry_run_of_every_extra(extra, machine, tmp_path):
    """Everything in the lock has a file for the machine. Nothing is fetched."""
    target = ["--python-platform", f"{machine}-manylinux_2_28", "--offline", "--dry-run"]
    done = subprocess.run(
        [UV, "sync", "--locked", "--extra", extra, "--no-editable", *target],
        cwd=ROOT,
        env=os.environ | {"UV_PROJECT_ENVIRONMENT": str(tmp_path / "none")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "none").exists()
    added = dict(re.findall(r"^ \+ ([\w.-]+)==(\S+)", done.stderr, re.MULTILINE))
    assert wanted(extra, machine).items() <= added.items()
    if machine == "aarch64":
        assert [name for name in added if CUDA.fullmatch(name)] == []


# make EXTRA=npu


def write_cann(folder, file, text):
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return folder


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without CANN."""
    for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(install, "FOLDERS", [str(tmp_path / "root"), str(tmp_path / "latest")])
    return tmp_path


@pytest.mark.parametrize(
    ("file", "text", "extra"),
    [
        ("version.cfg", "# version: 1.0\nruntime_running_version=[7.7.0.1:8.5.0]\n", "npu-cann8"),
        ("version.cfg", "toolkit_running_version=[9.1.0]\n", "npu-cann9"),
        ("x86_64-linux/ascend_toolkit_install.info", "name=x\nversion=8.5.1\n", "npu-cann8"),
        ("aarch64-linux/ascend_toolkit_install.info", "version=9.1.0.beta1\n", "npu-cann9"),
        ("compiler/version.info", "Version=9.1.0\nversion_dir=9.1.0\n", "npu-cann9"),
    ],
)
@pytest.mark.parametrize("place", ["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "latest"])
def test_extra_for_the_cann_that_is_found(machine, monkeypatch, place, file, text, extra):
    folder = write_cann(machine / "latest" if place == "latest" else machine / "own", file, text)
    if place != "latest":
        write_cann(machine / "latest", "version.cfg", "runtime_running_version=[8.0.0]")
        monkeypatch.setenv(place, str(folder))
    assert install.chosen("npu") == extra
    assert install.chosen("cpu") == "cpu"


def test_no_cann_and_unknown_cann_are_one_line(machine):
    command = [sys.executable, ROOT / "envs/install.py", "npu", "--dry-run"]
    with pytest.raises(LookupError, match=r"found no CANN in ASCEND_HOME_PATH, .*root or .*latest"):
        install.chosen("npu")
    write_cann(machine / "old", "version.cfg", "runtime_running_version=[7.6.0.1.220:8.0.0]\n")
    variables = os.environ | {"ASCEND_HOME_PATH": str(machine / "old")}
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert (
        f"error: EXTRA=npu: found CANN 8.0.0 in {machine}/old, expected 8.5 or 9.1" in done.stderr
    )
    assert "make EXTRA=npu-cann8 (CANN 8.5) or EXTRA=npu-cann9 (CANN 9.1)" in done.stderr


def test_every_pair_is_an_extra():
    assert sorted(install.PAIRS.values()) == sorted(set(EXTRAS) - {"cpu"})


def test_plain_installation_is_the_lock():
    assert install.commands("npu-cann8", "uv", None) == [
        ["uv", "sync", "--locked", "--extra", "npu-cann8", "--compile-bytecode"]
    ]


@needs_uv
def test_cpu_builds_come_from_another_index(tmp_path):
    """PyTorch's own index is imitated: two wheels without content."""
    pages = tmp_path / "index"
    serve = partial(Quiet, directory=pages)
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        index = f"http://127.0.0.1:{server.server_port}"
        sync, build = install.commands("npu-cann9", UV, index)
        for name, version in (("torch", "2.10.0+cpu"), ("torchvision", "0.25.0+cpu")):
            write_wheel(pages / name, name, version)
        target = ["--target" if word == "--python" else word for word in build]
        target[target.index(".venv")] = str(tmp_path / "site")
        subprocess.run([*target, "--python", sys.executable], check=True, capture_output=True)
        server.shutdown()
    assert {path.name for path in (tmp_path / "site").glob("*.dist-info")} == {
        "torch-2.10.0+cpu.dist-info",
        "torchvision-0.25.0+cpu.dist-info",
    }
    done = subprocess.run(
        [word if word != "--compile-bytecode" else "--dry-run" for word in sync],
        cwd=ROOT,
        env=os.environ | {"UV_PROJECT_ENVIRONMENT": str(tmp_path / "none"), "UV_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    added = re.findall(r"^ \+ ([\w.-]+)==", done.stderr, re.MULTILINE)
    assert "timm" in added and "torch-npu" in added, done.stderr
    assert not [name for name in added if CUDA.fullmatch(name) or name.startswith("torchv")]
    assert "torch" not in added


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        """Print nothing."""


def write_wheel(folder, name, version):
    folder.mkdir(parents=True)
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/RECORD", "")


# conda


@pytest.mark.parametrize("name", ["cpu", "npu", "cuda"])
def test_conda_files_list_what_the_project_needs(name):
    file = yaml.safe_load((ROOT / f"envs/{name}.yaml").read_text())
    *_, pip = file["dependencies"]
    found = {line for line in pip["pip"] if not line.startswith("--")}
    # The programs do not use Snakemake; an extra replaces torch and torchvision.
    common = {need for need in PROJECT["dependencies"] if not re.match("snakemake|torch", need)}
    common |= set(GROUPS["witnesses"])
    extra = {"cpu": EXTRAS["cpu"], "npu": EXTRAS["npu-cann9"]}.get(name)
    extra = extra or [need.partition(" ; ")[0] for need in EXTRAS["cpu"] if "!=" in need]
    assert found == common | set(extra)


CONDA = """#!/bin/sh
case "$1" in
  info) echo '{"conda_prefix": "/nowhere", "platform": "linux-64", "conda_version": "25.1.0"}' ;;
  config) echo '{"get": {"channel_priority": "strict"}}' ;;
  *) echo conda 25.1.0 ;;
esac
"""


@pytest.mark.slow
def test_snakemake_accepts_the_conda_files(tmp_path):
    """A dry run with a conda that only answers questions."""
    (tmp_path / "conda").write_text(CONDA)
    (tmp_path / "conda").chmod(0o755)
    devices = CONFIG["devices"] | {
        "npu": {"backend": "npu", "measure": "always"},
        "gpu": {"backend": "cuda", "measure": "always"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG | {"devices": devices}))
    command = ["-m", *DOORS["snakemake"], "--sdm", "conda"]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    created = re.findall(r"envs/(\w+)\.yaml will be created", done.stdout + done.stderr)
    assert sorted(created) == ["cpu", "cuda", "npu"]
