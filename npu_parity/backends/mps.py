"""The GPU of a Mac with Apple silicon, through Metal."""

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
        """Return the name of the processor that contains the GPU."""
        return {"name": platform.processor() or self.name}
