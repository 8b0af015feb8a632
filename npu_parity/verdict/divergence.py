"""Where two runs of one program part: operator by operator, added up and each alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # tables read what was found, and need no torch for it
    from npu_parity.verdict.recording import Call

# What a backend calls an operator of its own that computes the same.
_OWN_NAMES = {"cudnn_batch_norm": "native_batch_norm", "miopen_batch_norm": "native_batch_norm"}


@dataclass(frozen=True)
class Step:
    """How far the results of one operator lie from the reference's, all errors before it included.

    Errors are relative L2 errors of the operator's first result, infinite where it holds NaN or
    infinity; None where a run has no such operator, or its result holds no real numbers.

    Attributes:
        index, module, operator: which, as the reference executes it.
        float32: error of the reference itself, against float64.
        predicted: error of the emulated run.
        measured: error of the device's own run.
        alone: largest error on the device with the reference's operands, as a share of its bound.
    """

    index: int
    module: str
    operator: str
    float32: float | None
    predicted: float | None
    measured: float | None
    alone: float | None

    def row(self) -> dict[str, Any]:
        """Return what ``divergence.csv`` says of it, by column."""
        return {
            "index": self.index,
            "module": self.module,
            "operator": self.operator,
            "float32_relative_l2_error": self.float32,
            "predicted_relative_l2_error": self.predicted,
            "measured_relative_l2_error": self.measured,
            "max_error_of_bound": self.alone,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Step":
        """Read a row of ``divergence.csv`` back; an empty cell, NaN to pandas, is None."""
        values = [None if isinstance(v, float) and math.isnan(v) else v for v in row.values()]
        index, module, operator, *errors = values
        return cls(int(index), module or "", operator, *errors)


def divergence(
    reference: Sequence["Call"],
    exact: Sequence["Call"],
    predicted: Sequence["Call"],
    measured: Sequence["Call"] = (),
    alone: Mapping[int, float] | None = None,
) -> list[Step]:
    """Follow runs of one program on one input, operator by operator of the reference.

    Runs may execute other operators too, or lack some: equal ones are paired in order.

    Args:
        reference: recorded in float32 (`recording.record`).
        exact: the same in float64.
        predicted: the same with the device's numerics emulated.
        measured: of the port on the device; empty where nothing was measured.
        alone: largest error of each operator as a share of its bound, by index (`operators`).
    """
    float64, emulated, device = (_paired(reference, run) for run in (exact, predicted, measured))
    return [
        Step(
            call.index,
            call.module,
            call.operator,
            float32=_error(float64.get(call.index), call),
            predicted=_error(call, emulated.get(call.index)),
            measured=_error(call, device.get(call.index)),
            alone=(alone or {}).get(call.index),
        )
        for call in reference
    ]


def first_beyond(steps: Sequence[Step], envelope: float) -> Step | None:
    """Return the first operator beyond its bound, else the first beyond the envelope.

    The envelope of an operator is `envelope` times the error predicted for it, or that of float32
    itself where this is more.
    """
    for step in steps:
        if step.alone is not None and step.alone > 1:
            return step
    for step in steps:
        allowed = envelope * max(step.predicted or 0.0, step.float32 or 0.0)
        if step.measured is not None and step.measured > allowed:
            return step
    return None


def _paired(reference: Sequence["Call"], other: Sequence["Call"]) -> dict[int, "Call"]:
    """Return the call of the other run that stands for each of the reference's, by index."""
    names = [[_kind(call) for call in calls] for calls in (reference, other)]
    blocks = SequenceMatcher(None, *names, autojunk=False).get_matching_blocks()
    return {
        reference[block.a + i].index: other[block.b + i]
        for block in blocks
        for i in range(block.size)
    }


def _kind(call: "Call") -> tuple:
    shape = None if call.first is None else tuple(call.first.shape)
    return _OWN_NAMES.get(call.name, call.name), shape


def _error(expected: "Call | None", found: "Call | None") -> float | None:
    pair = [call.first for call in (expected, found) if call]
    if len(pair) < 2 or not all(t is not None and t.is_floating_point() for t in pair):
        return None
    e, f = (t.to("cpu").double() for t in pair)
    error, size = (f - e).norm().item(), e.norm().item()
    if error == 0:
        return 0.0
    return error / size if size and math.isfinite(error / size) else math.inf
