"""Does a vision model still compute the same thing on an accelerator, and how do you know?

>>> import npu_parity
>>> system = npu_parity.load("efficientnet_lite0", device="cpu")
>>> print(*system.predict(["cat.jpg"]))
"""

from typing import Any

__all__ = ["ParityError", "load"]


def __getattr__(name: str) -> Any:
    """Import what is asked for only now: torch takes seconds, and planning a run needs none."""
    if name == "load":
        from npu_parity.system import load

        return load
    if name == "ParityError":
        from npu_parity.errors import ParityError

        return ParityError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
