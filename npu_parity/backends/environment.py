"""The software of an Ascend NPU, checked before torch is imported.

``import torch`` imports torch_npu too. With a wrong pair of the two, or without CANN, this import
fails with a traceback or aborts the process. An abort cannot be caught. Therefore this module only
reads files and the metadata of packages; it imports neither torch nor torch_npu.
"""

import contextlib
import glob
import importlib.abc
import importlib.metadata
import mmap
import os
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from npu_parity.errors import ParityError, first_line

AUTOLOAD = "set TORCH_DEVICE_BACKEND_AUTOLOAD=0 to continue without the NPU"
INDEX = "https://download.pytorch.org/whl/cpu"
INSTALL = "make EXTRA=npu"

GPUS = "/dev/nvidia[0-9]*"
LIBRARY_CACHE = Path("/etc/ld.so.cache")
SET_ENV = (  # of CANN 9, and of older versions
    Path("/usr/local/Ascend/cann/set_env.sh"),
    Path("/usr/local/Ascend/ascend-toolkit/set_env.sh"),
)


def check(npu: bool = False) -> None:
    """Raise ParityError if torch cannot be imported with the torch_npu that is installed.

    Args:
        npu: whether the NPU will be used. Then torch_npu must be installed, and it is checked even
            if TORCH_DEVICE_BACKEND_AUTOLOAD=0 tells torch not to import it.
    """
    loaded = os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD", "1") == "1"
    if npu and not installed():
        raise ParityError(f"device npu: torch_npu is not installed; run: {INSTALL}")
    if (npu or loaded) and "torch_npu" not in sys.modules and (reason := _problem(npu)):
        raise ParityError(reason)


def installed() -> bool:
    """Return whether torch_npu is installed."""
    return "torch_npu" in sys.modules or bool(PathFinder.find_spec("torch_npu"))


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Inside this block, ``import torch`` raises ParityError instead of failing or aborting.

    What torch_npu prints during its import goes to stderr, because other programs may read stdout.
    """
    guard = _Guard()
    sys.meta_path.insert(0, guard)
    try:
        yield
    except RuntimeError as error:
        if "backend extension: torch_npu" not in str(error):
            raise
        reason = first_line(error.__cause__) if error.__cause__ else "no reason given"
        raise ParityError(
            f"torch cannot load torch_npu ({reason}); source CANN's set_env.sh, or {AUTOLOAD}"
        ) from None
    finally:
        sys.meta_path.remove(guard)


class _Guard(importlib.abc.MetaPathFinder):
    """A finder of modules that finds none itself. It acts when torch or torch_npu is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Check the environment before torch is imported; make the import of torch_npu quiet."""
        if name == "torch":
            check()
        if name != "torch_npu":
            return None
        others = (finder for finder in sys.meta_path if not isinstance(finder, _Guard))
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next(filter(None, found), None)
        if spec and spec.loader:
            spec.loader = _Quiet(spec.loader)
        return spec


class _Quiet(importlib.abc.Loader):
    """A loader that sends what a module prints during its import to stderr."""

    def __init__(self, loader: importlib.abc.Loader):
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module as its own loader does."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module."""
        with contextlib.redirect_stdout(sys.stderr):
            self.loader.exec_module(module)


def _problem(npu: bool) -> str | None:
    """Return why torch_npu cannot be imported, and the command that mends it; None if it can."""
    torch, torch_npu = _folder("torch"), _folder("torch_npu")
    if torch is None or torch_npu is None:
        return None
    library = torch_npu / "lib" / "libtorch_npu.so"
    if not library.exists():  # not the real torch_npu, but e.g. the stand-in of the tests
        return None
    cuda = torch / "lib" / "libc10_cuda.so"
    return (
        _abort(library, cuda)
        or _wrong_pair()
        or _no_cann("" if npu else f", or {AUTOLOAD}")
        or _gpu(cuda)
    )


def _abort(library: Path, cuda: Path) -> str | None:
    """Torch allows each key of the allocator's configuration once. A second one is an abort."""
    if not (cuda.exists() and _registers_keys(cuda) and _registers_keys(library)):
        return None
    version = _required()
    return (
        f"torch_npu {_version('torch-npu')} aborts beside torch {_version('torch')}, because this "
        f"torch carries CUDA; expected torch's CPU build; run: {INSTALL}, or "
        f"uv pip install torch=={version}+cpu torchvision --index-url {INDEX}"
    )


def _registers_keys(library: Path) -> bool:
    """Return whether a library registers its allocator's keys with torch when it is loaded.

    The old torch_npu 2.10.0.post4 has the key, but does not register it. torch 2.9 registers, but
    does not have the key.
    """
    with (
        library.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        words = (b"pinned_reserve_segment_size_mb", b"getMutableKeys")
        return all(content.find(word) >= 0 for word in words)


def _wrong_pair() -> str | None:
    """Each torch_npu is compiled for one version of torch."""
    found, expected = _version("torch"), _required()
    if re.match(rf"{re.escape(expected)}(?![0-9])", found):
        return None
    return (
        f"torch_npu {_version('torch-npu')} needs torch {expected}, found torch {found}; "
        f"run: {INSTALL}, or uv pip install torch=={expected}+cpu torchvision --index-url {INDEX}"
    )


def _no_cann(otherwise: str) -> str | None:
    """CANN's libraries are found only after its set_env.sh was sourced."""
    reason = _not_sourced()
    if reason is None:
        return None
    script = next((str(path) for path in SET_ENV if path.exists()), None)
    script = script or f"the set_env.sh of CANN, e.g. {SET_ENV[0]}"
    return (
        f"torch_npu {_version('torch-npu')} is installed, but it does not find CANN ({reason}); "
        f"run: source {script}{otherwise}"
    )


def _not_sourced() -> str | None:
    for name in ("ASCEND_HOME_PATH", "ASCEND_OPP_PATH"):
        if not os.environ.get(name):
            return f"{name} is not set"
        if not Path(os.environ[name]).exists():
            return f"{name} is {os.environ[name]}, which does not exist"
    folders = filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
    if any(Path(folder, "libhccl.so").exists() for folder in folders):
        return None
    with contextlib.suppress(OSError):
        if b"libhccl.so\0" in LIBRARY_CACHE.read_bytes():
            return None
    return "libhccl.so is in no folder of LD_LIBRARY_PATH"


def _gpu(cuda: Path) -> str | None:
    """Torch allows one accelerator in a process."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1")
    nodes = sorted(glob.glob(GPUS))
    if hidden or not nodes or not cuda.exists():
        return None
    return (
        f"torch {_version('torch')} finds a GPU ({nodes[0]}) beside the NPU, and allows only one "
        f"accelerator; run: export CUDA_VISIBLE_DEVICES=-1, or {AUTOLOAD}"
    )


def _folder(package: str) -> Path | None:
    """Return the folder of a package; None if there is none. Nothing is imported."""
    spec = PathFinder.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) if places else None


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _required() -> str:
    """Return the version of torch that torch_npu needs, such as 2.10.0."""
    needs = importlib.metadata.requires("torch-npu") or []
    for need in needs:
        if found := re.match(r"torch\s*\(?==\s*([0-9]+(?:\.[0-9]+)+)", need):
            return found[1]
    return re.sub(r"[^0-9.].*|\.post.*", "", _version("torch-npu"))
