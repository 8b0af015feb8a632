"""Where two runs of one program part: operator by operator, added up and each alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from npu_parity.operators import OperatorResult
from npu_parity.recording import Call, tensors


@dataclass(frozen=True)
class Step:
    """How far one operator's result lies from the reference's.

    Attributes:
        index, module, operator: which.
        accumulated: relative L2 error of its result in the device's own run, all errors before
            it included; None where the result holds no numbers.
        predicted: the same of the emulated run.
        alone: its largest error with the reference's operands, as a share of its bound.
    """

    index: int
    module: str
    operator: str
    accumulated: float | None
    predicted: float | None
    alone: float | None


def divergence(
    reference: Sequence[Call],
    measured: Sequence[Call],
    predicted: Sequence[Call],
    alone: Sequence[OperatorResult],
) -> list[Step]:
    """Follow three runs of one program as far as their operators are the same.

    Args:
        reference, measured, predicted: recorded on one input (`recording.record`).
        alone: of the reference's operators, from `operators.check_operators`.
    """
    shares = {result.index: result.largest_error for result in alone}
    steps = []
    for r, m, p in zip(reference, measured, predicted, strict=False):
        if not r.operator == m.operator == p.operator:
            break
        steps.append(
            Step(
                r.index,
                r.module,
                r.operator,
                _distance(r.result, m.result),
                _distance(r.result, p.result),
                shares.get(r.index),
            )
        )
    return steps


def first_beyond(steps: Sequence[Step], envelope: float) -> Step | None:
    """Return the first operator beyond its bound, else the first beyond the envelope.

    The envelope of an operator is `envelope` times the error predicted for it.
    """
    for step in steps:
        if step.alone is not None and not step.alone <= 1:
            return step
    for step in steps:
        if step.accumulated is not None and not step.accumulated <= envelope * (
            step.predicted or 0.0
        ):
            return step
    return None


def _distance(reference: Any, other: Any) -> float | None:
    """Return the relative L2 error of an operator's first result, in float64."""
    pair = [next(iter(tensors(result)), None) for result in (reference, other)]
    if any(t is None or not t.is_floating_point() for t in pair) or pair[0].shape != pair[1].shape:
        return None
    r, o = (t.to("cpu").double() for t in pair)
    size = r.norm().item()
    return ((o - r).norm().item() / size) if size else None
