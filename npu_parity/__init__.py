"""Does a vision model still compute the same thing on an accelerator, and how do you know?

>>> import npu_parity
>>> system = npu_parity.load("efficientnet_lite0", device="cpu")
>>> print(*system.predict(["cat.jpg"]))

>>> print(npu_parity.check_port(reference, ported, inputs, device="npu"))
"""

import importlib
from typing import Any

__all__ = ["ParityError", "check_port", "load"]

_HOMES = {"load": "system", "check_port": "check", "ParityError": "errors"}


def __getattr__(name: str) -> Any:
    """Import what is asked for only now: torch takes seconds, and planning a run needs none."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"npu_parity.{_HOMES[name]}"), name)
