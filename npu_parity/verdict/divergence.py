"""Where two runs of one program diverge: the error after each operator, and of each alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # tables read results and do not need torch
    from npu_parity.verdict.recording import Call

# A backend's own operators, and the standard operators that compute the same.
_OWN_NAMES = {"cudnn_batch_norm": "native_batch_norm", "miopen_batch_norm": "native_batch_norm"}


@dataclass(frozen=True)
class Step:
    """The error of a run after one operator, including the errors of all operators before it.

    Errors are relative L2 errors of the operator's first result. An error is infinite if the result
    contains NaN or infinity. It is None if a run has no such operator or the result is not
    floating-point.

    Attributes:
        index, module, operator: the operator in the order of the reference.
        float32: error of the reference itself against float64.
        predicted: error of the emulated run.
        measured: error of the run on the device.
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
        """Return the row of ``divergence.csv``, by column."""
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
    def from_row(cls, row: Mapping[Any, Any]) -> "Step":
        """Read a row of ``divergence.csv``. An empty cell, which pandas reads as NaN, is None."""
        values: list[Any] = [
            None if isinstance(v, float) and math.isnan(v) else v for v in row.values()
        ]
        index, module, operator, *errors = values
        return cls(int(index), module or "", operator, *errors)


def divergence(
    reference: Sequence["Call"],
    exact: Sequence["Call"],
    predicted: Sequence["Call"],
    measured: Sequence["Call"] = (),
    alone: Mapping[int, float] | None = None,
) -> list[Step]:
    """Compare runs of one program on one input, operator by operator.

    A run may execute additional operators or lack some. Equal operators are paired in order.

    Args:
        reference: the reference, recorded in float32 (`recording.record`).
        exact: the reference, recorded in float64.
        predicted: the reference, recorded with the device's numerics emulated.
        measured: the port, recorded on the device; empty if nothing was measured.
        alone: largest error of each operator as a share of its bound, by its index in the predicted
            run (`operators`).
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
            alone=(alone or {}).get(emulated[call.index].index) if call.index in emulated else None,
        )
        for call in reference
    ]


def first_beyond(steps: Sequence[Step], envelope: float) -> Step | None:
    """Return the first operator that exceeds its bound, or else the first beyond the envelope.

    The envelope of an operator is `envelope` times the larger of its predicted error and the error
    of float32 itself.
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
    """Return the matching call of the other run for each call of the reference, by index."""
    ours, theirs = ([_kind(call) for call in calls] for calls in (reference, other))
    blocks = SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    return {
        reference[block.a + i].index: other[block.b + i]
        for block in blocks
        for i in range(block.size)
    }


def _kind(call: "Call") -> tuple[str, tuple[int, ...] | None]:
    shape = None if call.first is None else tuple(call.first.shape)
    return _OWN_NAMES.get(call.name, call.name), shape


def _error(expected: "Call | None", found: "Call | None") -> float | None:
    pair = [call.first for call in (expected, found) if call]
    real = [t.to("cpu").double() for t in pair if t is not None and t.is_floating_point()]
    if len(real) < 2:
        return None
    e, f = real
    error, size = (f - e).norm().item(), e.norm().item()
    if error == 0:
        return 0.0
    return error / size if size and math.isfinite(error / size) else math.inf
