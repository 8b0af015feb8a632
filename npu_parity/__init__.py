"""Does a vision model still compute the same thing on an accelerator, and how do you know?

Everything in ``__all__`` can be imported from here; docs/api.md describes it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; at run time, see `__getattr__`
    from npu_parity.backends.device import Device
    from npu_parity.backends.outputs import measure, predict
    from npu_parity.check import Original, check_port
    from npu_parity.errors import ParityError
    from npu_parity.numerics.emulation import emulate
    from npu_parity.numerics.formats import PRESETS, Numerics
    from npu_parity.numerics.probing import probe
    from npu_parity.numerics.rounding import round_to
    from npu_parity.sources.origins import Wanted
    from npu_parity.sources.weights import obtain
    from npu_parity.system import load
    from npu_parity.verdict.answers import Program
    from npu_parity.verdict.judge import Case, judge
    from npu_parity.verdict.recording import record
    from npu_parity.verdict.runs import Runs

# Where each name of the public interface is defined, in the order of docs/api.md.
_HOMES = {
    "check_port": "check",
    "Original": "check",
    "load": "system",
    "judge": "verdict.judge",
    "Case": "verdict.judge",
    "Program": "verdict.answers",
    "Runs": "verdict.runs",
    "Device": "backends.device",
    "Numerics": "numerics.formats",
    "PRESETS": "numerics.formats",
    "emulate": "numerics.emulation",
    "round_to": "numerics.rounding",
    "probe": "numerics.probing",
    "record": "verdict.recording",
    "measure": "backends.outputs",
    "predict": "backends.outputs",
    "obtain": "sources.weights",
    "Wanted": "sources.origins",
    "ParityError": "errors",
}

__all__ = [
    "PRESETS",
    "Case",
    "Device",
    "Numerics",
    "Original",
    "ParityError",
    "Program",
    "Runs",
    "Wanted",
    "check_port",
    "emulate",
    "judge",
    "load",
    "measure",
    "obtain",
    "predict",
    "probe",
    "record",
    "round_to",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: torch takes seconds, and planning a run needs none.

    If torch cannot be imported because of torch_npu, the error is one line, a ParityError.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from npu_parity.backends import environment

    with environment.guarded():
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
