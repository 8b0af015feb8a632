"""The GPU of a Mac with Apple silicon, through Metal."""

import platform
import sys
from typing import Any

from npu_parity.backends.base import Backend
from npu_parity.numerics.formats import Numerics


class Mps(Backend):
    """Apple's GPU, as torch sets it up: float32 operands are not rounded."""

    name = "mps"
    hint = "run on a Mac with Apple silicon"

    def missing(self, numerics: Numerics) -> str | None:
        """Return why this machine cannot measure: it is another kind of machine."""
        found = (sys.platform, platform.machine()) == ("darwin", "arm64")
        return None if found else "this is no Mac with Apple silicon"

    def describe(self) -> dict[str, Any]:
        """Return the name of the processor that the GPU is part of."""
        return {"name": platform.processor() or self.name}
