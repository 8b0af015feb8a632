"""Devices: whether this machine has one, how to set its numerics, wait for it and describe it."""

import contextlib
import glob
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npu_parity.errors import ParityError, first_line

if TYPE_CHECKING:  # torch takes seconds to import, and planning a run needs none of it
    import torch

# What an accelerator's driver puts into /dev, and what to do where it does not answer.
NODES = {"npu": "/dev/davinci[0-9]*", "cuda": "/dev/nvidia[0-9]*", "xpu": "/dev/dri/renderD*"}
HINTS = {
    "npu": "install the npu extra, and source CANN's set_env.sh",
    "cuda": "install a CUDA build of torch and NVIDIA's driver",
    "xpu": "install an XPU build of torch and Intel's driver",
    "mps": "run on a Mac with Apple silicon",
}
# What float32 operands may become on a backend: by a flag, or (float16 on Ascend 910A) anyway.
CHOICES = {
    "cpu": ("fp32", "bf16"),
    "npu": ("fp32", "hf32", "fp16"),
    "cuda": ("fp32", "tf32"),
}
# oneDNN rounds float32 convolutions to bf16 on AMX only: AVX512-BF16 alone leaves them float32.
BF16_UNITS = "amx_bf16"


@dataclass(frozen=True)
class Device:
    """A named target: the backend that computes, and its numerics as `Numerics` takes them."""

    backend: str
    numerics: dict[str, str] = field(default_factory=dict)


def missing(device: Device) -> str | None:
    """Return why this machine cannot measure `device`, or None where it seems able to.

    Looks at the operating system only, so that planning a run does not import torch.
    """
    if device.backend == "cpu":
        conv = device.numerics.get("conv", "fp32")
        if conv == "fp32":
            return None
        if conv != "bf16":
            return f"no CPU computes convolutions in {conv}"
        if BF16_UNITS not in _cpu_flags():
            return "this CPU has no bf16 matrix units (amx_bf16)"
        if _torch_version() < (2, 9):
            return "torch before 2.9 cannot switch convolutions to bf16"
        return None
    if device.backend == "mps":
        found = (sys.platform, platform.machine()) == ("darwin", "arm64")
        return None if found else "this is no Mac with Apple silicon"
    if device.backend not in NODES:
        return f"there is no backend {device.backend}"
    if not glob.glob(NODES[device.backend]):
        return f"this machine has no {NODES[device.backend]}"
    return None


def torch_device(backend: str) -> "torch.device":
    """Return the torch device of `backend`; ParityError, with what to do, where it has none."""
    try:
        import torch

        if backend == "npu" and not hasattr(torch, "npu"):
            import torch_npu  # noqa: F401  (loads itself unless TORCH_DEVICE_BACKEND_AUTOLOAD=0)
    except ImportError as error:
        raise ParityError(
            f"device {backend}: {first_line(error)}; {HINTS['npu']}; "
            "TORCH_DEVICE_BACKEND_AUTOLOAD=0 lets torch go on without the NPU"
        ) from None
    except RuntimeError as error:  # torch_npu is there, CANN is not
        raise ParityError(
            f"device {backend}: torch cannot load its backend ({first_line(error)}); source CANN's "
            "set_env.sh, or set TORCH_DEVICE_BACKEND_AUTOLOAD=0 to go on without the NPU"
        ) from None
    if backend not in ("cpu", *HINTS):
        raise ParityError(f"device {backend}: expected one of cpu, {', '.join(HINTS)}")
    module = getattr(torch, backend, None)
    if backend != "cpu" and (module is None or not module.is_available()):
        raise ParityError(f"device {backend}: torch finds none on this machine; {HINTS[backend]}")
    return torch.device(backend)


@contextlib.contextmanager
def configured(device: Device) -> Iterator["torch.device"]:
    """Yield the torch device, its reduced precision switched on or off as the numerics say.

    Where a device's numerics cannot be chosen (float16 operands on Ascend 910A) nothing is set.

    Raises:
        ParityError: there is no such device here, or not with these numerics; or what is done
            with an accelerator fails.

    """
    target = torch_device(device.backend)
    import torch

    for kind in ("conv", "depthwise_conv", "matmul"):
        found = device.numerics.get(kind) or "fp32"
        if found not in CHOICES.get(device.backend, (found,)):
            raise ParityError(
                f"device {device.backend}: found numerics {found} for {kind}, expected one of "
                f"{', '.join(CHOICES[device.backend])}"
            )

    if device.backend == "npu":
        # Compiling every operator for its shape takes minutes; the adapted reports use binaries.
        torch.npu.set_compile_mode(jit_compile=False)
    with contextlib.ExitStack() as stack:
        for holder, attribute, value in _switches(device):
            stack.callback(setattr, holder, attribute, getattr(holder, attribute))
            setattr(holder, attribute, value)
        try:
            yield target
        except RuntimeError as error:  # whatever the driver says: no memory, a broken set-up
            if device.backend == "cpu":
                raise
            raise ParityError(f"device {device.backend} failed: {first_line(error)}") from error


def synchronize(backend: str) -> None:
    """Wait until the device has finished all that was launched (nothing to wait for on a CPU)."""
    import torch

    getattr(torch, backend).synchronize()


def describe(backend: str) -> dict[str, Any]:
    """Return the device as found: its name and the versions of what drives it."""
    import torch

    if backend == "cpu":
        return {"name": _cpu_name(), "capability": torch.backends.cpu.get_cpu_capability()}
    found = {"name": backend}
    with contextlib.suppress(AttributeError):
        found["name"] = getattr(torch, backend).get_device_name(0)
    if backend == "npu":
        found["cann"] = _cann_version()
        found["soc"] = os.environ.get("ASCEND_SOC_VERSION", found["name"])
    elif backend == "cuda":
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return found


def use_threads(wanted: int, device: Device) -> int:
    """Let torch use at most `wanted` threads and no more than there are CPUs; return how many.

    More threads than CPUs makes latency worse, and differs from what the record says. A CPU that
    is to round convolutions gets two at least: with one, torch keeps 1x1 convolutions of small
    batches from oneDNN, and they would stay float32.
    """
    import torch

    rounds = device.backend == "cpu" and device.numerics.get("conv", "fp32") != "fp32"
    count = max(2 if rounds else 1, min(wanted, cpus()))
    torch.set_num_threads(count)
    return count


def cpus() -> int:
    """Return how many CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _switches(device: Device) -> list[tuple[Any, str, Any]]:
    """Return the settings (holder, attribute, value) that make the backend's numerics so."""
    import torch

    conv = device.numerics.get("conv", "fp32")
    matmul = device.numerics.get("matmul", "fp32")
    if device.backend == "npu":
        return [
            (torch.npu.conv, "allow_hf32", conv == "hf32"),
            (torch.npu.matmul, "allow_hf32", matmul == "hf32"),
        ]
    if device.backend == "cuda":
        return [
            (torch.backends.cudnn, "allow_tf32", conv == "tf32"),
            (torch.backends.cuda.matmul, "allow_tf32", matmul == "tf32"),
        ]
    if device.backend == "cpu" and hasattr(torch.backends.mkldnn, "conv"):  # torch 2.9 and newer
        names = {"fp32": "ieee", "bf16": "bf16"}
        return [
            (torch.backends.mkldnn.conv, "fp32_precision", names[conv]),
            (torch.backends.mkldnn.matmul, "fp32_precision", names[matmul]),
        ]
    return []


def _cann_version() -> str | None:
    """Return CANN's version; None where this torch_npu or CANN does not tell."""
    import torch

    with contextlib.suppress(ImportError):
        from torch_npu.utils import get_cann_version

        return get_cann_version() or None
    return getattr(torch.version, "cann", None)


def _cpu_flags() -> set[str]:
    """Return the flags of /proc/cpuinfo; none where the system has no such file."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    return set()


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _torch_version() -> tuple[int, int]:
    major, minor = importlib.metadata.version("torch").split(".")[:2]
    return int(major), int(minor)
