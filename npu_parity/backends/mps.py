"""The GPU of a Mac with Apple silicon, through Metal."""

import os
import platform
import sys
from typing import Any

from npu_parity.backends.base import Backend
from npu_parity.numerics.formats import Numerics


class Mps(Backend):
    """Apple's GPU with torch's default settings, which do not round float32 operands."""

    name = "mps"
    hint = "run on a Mac with Apple silicon"

    def missing(self, numerics: Numerics) -> str | None:
        """Return why this machine cannot measure; None on a Mac with Apple silicon."""
        found = (sys.platform, platform.machine()) == ("darwin", "arm64")
        return None if found else "this machine is not a Mac with Apple silicon"

    def describe(self) -> dict[str, Any]:
        """Return the name of the processor with the GPU, and whether its fast math is on."""
        fast = os.environ.get("PYTORCH_MPS_FAST_MATH", "0") == "1"
        return {"name": platform.processor() or self.name, "fast_math": fast}

    def peak_memory(self) -> int | None:
        """Return the bytes that Metal has allocated for this process; it has no peak."""
        return int(self._module().driver_allocated_memory())

    def _event(self) -> Any:
        """Return the class of events in its own place."""
        return self._module().event.Event
