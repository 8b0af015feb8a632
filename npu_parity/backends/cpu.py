"""The CPU: the reference, and also a device if its matrix units round operands."""

import importlib.metadata
import resource
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from npu_parity.backends import machine
from npu_parity.backends.base import Backend
from npu_parity.numerics.formats import Numerics

if TYPE_CHECKING:
    import torch

# oneDNN rounds the operands of convolutions to bf16 only on AMX. AVX512-BF16 alone does not.
BF16_UNITS = "amx_bf16"

# Features of a processor that computes in 16 bits. Torch computes in 16 bits on any CPU, but slowly
# and in float32.
NARROW_UNITS = {
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),  # the last one on Arm
    "fp16": ("avx512_fp16", "amx_fp16", "asimdhp"),
}

# n threads are about n ** SPEED_UP times as fast as one: 1.7 times for 2, 8 times for 16.
SPEED_UP = 0.75


class Cpu(Backend):
    """The CPU, through torch. The fpmath mode of oneDNN can round operands to bf16."""

    name = "cpu"
    formats: ClassVar[tuple[str, ...]] = ("fp32", "bf16")
    hint = "install torch"

    def missing(self, numerics: Numerics) -> str | None:
        """Return why this CPU cannot round convolutions to the numerics; None if it can."""
        if numerics.conv == "fp32":
            return None
        if numerics.conv != "bf16":
            return f"no CPU computes convolutions in {numerics.conv}"
        if BF16_UNITS not in machine.cpu_flags():
            return f"this CPU has no bf16 matrix units ({BF16_UNITS})"
        if torch_version() < (2, 9):
            return "torch before 2.9 cannot switch convolutions to bf16"
        return None

    def lacking(self, form: str) -> str | None:
        """Return which units for 16-bit networks this CPU does not have; None if it has some."""
        units = NARROW_UNITS.get(form, ())
        if not units or machine.cpu_flags().intersection(units):
            return None
        return f"this CPU has no {form} units ({' or '.join(units[:2])})"

    def describe(self) -> dict[str, Any]:
        """Return the processor's name and the instruction set that torch uses."""
        capability = self.load().backends.cpu.get_cpu_capability()
        return {"name": machine.cpu_name(), "capability": capability}

    def switches(self, numerics: Numerics) -> dict[str, Any]:
        """Return oneDNN's precision of convolutions and matrix products (torch 2.9 and newer)."""
        if not hasattr(self.load().backends.mkldnn, "conv"):
            return {}
        names = {"fp32": "ieee", "bf16": "bf16"}
        return {
            "backends.mkldnn.conv.fp32_precision": names[numerics.conv],
            "backends.mkldnn.matmul.fp32_precision": names[numerics.matmul],
        }

    def target(self) -> "torch.device":
        """Return the CPU, which is always available."""
        device: torch.device = self.load().device("cpu")
        return device

    def failure(self, error: RuntimeError) -> Exception:
        """Return the error itself, because it comes from the network and not from a driver."""
        return error

    def peak_memory(self) -> int | None:
        """Return the peak memory of this process in bytes."""
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def _event(self) -> Any:
        """Return None: the CPU has no clock of its own."""
        return None

    def quiet_seconds(self, run: Callable[[], Any]) -> float:
        """Return the CPU time of `run` with one thread, divided by the speed-up of all threads.

        Threads wait for each other after every operator. If a busy process delays one of them, the
        others wait too and use CPU time. So beside two busy processes a pass with two threads took
        20 to 40 times as long as on a quiet machine. The CPU time of one thread grew by 40 %.
        """
        torch = self.load()
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            start = time.process_time()
            run()
            seconds = time.process_time() - start
        finally:
            torch.set_num_threads(threads)
        return float(seconds / threads**SPEED_UP)

    def least_threads(self, numerics: Numerics) -> int:
        """Return two if the CPU rounds operands.

        With one thread, torch does not use oneDNN for small 1x1 convolutions and does not round.
        """
        return 1 if numerics.conv == "fp32" else 2


def torch_version() -> tuple[int, int]:
    """Return torch's major and minor version without importing it."""
    major, minor = importlib.metadata.version("torch").split(".")[:2]
    return int(major), int(minor)
