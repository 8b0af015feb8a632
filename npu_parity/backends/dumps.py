"""Dumps: outputs that another tool computed, perhaps on another machine, such as ATC and OM."""

from typing import Any

from npu_parity.backends.cpu import Cpu
from npu_parity.numerics.formats import Numerics


class Dumps(Cpu):
    """Outputs in files. Nothing is executed here, so there are no operators and no latency."""

    name = "dumps"
    formats = ()
    questions = frozenset({3, 4})
    executes = False

    def missing(self, numerics: Numerics) -> str | None:
        """Return None: any machine can read files."""
        return None

    def lacking(self, form: str) -> str | None:
        """Return None: any machine can read files."""
        return None

    def describe(self) -> dict[str, Any]:
        """Return that nothing is known about the device."""
        return {"name": "unknown: outputs of another tool"}

    def switches(self, numerics: Numerics) -> dict[str, Any]:
        """Return nothing: files have no switches."""
        return {}
