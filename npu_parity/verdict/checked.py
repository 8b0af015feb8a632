"""What `npu_parity.check_port` returns: the evidence of all four questions, and a text of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from npu_parity.verdict import envelope
from npu_parity.verdict.answers import Answer, Verdict
from npu_parity.verdict.divergence import Step, first_beyond
from npu_parity.verdict.judge import Judgement
from npu_parity.verdict.operators import IDENTICAL, OperatorResult


@dataclass(frozen=True)
class Report:
    """The result of `check_port`; ``str()`` gives a readable text.

    Attributes:
        judgement: the verdict, the metrics and the numerics found.
        outputs: outputs of the port, float32 (inputs, columns).
        operators: the results of question 2, one for each operator of the reference; None if it was
            not asked.
        follow: computes `steps`.
    """

    judgement: Judgement
    outputs: NDArray[Any]
    operators: list[OperatorResult] | None
    follow: Callable[[], list[Step]] = field(repr=False)

    @property
    def verdict(self) -> Verdict:
        """PASS or FAIL, and the four answers."""
        return self.judgement.verdict

    @property
    def metrics(self) -> dict[str, Any]:
        """The result of `metrics.compare` for the port's outputs."""
        return self.judgement.metrics

    @property
    def explained(self) -> float | None:
        """The share of the difference that the predicted rounding explains."""
        return self.judgement.explained

    @property
    def numerics_found(self) -> str | None:
        """The format whose prediction is nearest to the measured outputs."""
        return self.judgement.numerics_found

    @property
    def questions(self) -> tuple[Answer, ...]:
        """The answers to the four questions."""
        return self.verdict.answers

    @property
    def passed(self) -> bool:
        """Whether the verdict is PASS."""
        return self.verdict.word == "PASS"

    @cached_property
    def steps(self) -> list[Step]:
        """The error after each operator, for the input with the largest difference."""
        return self.follow()

    @cached_property
    def first(self) -> Step | None:
        """The first operator beyond its bound or its envelope; None if the port passes."""
        return None if self.passed else first_beyond(self.steps, envelope.ENVELOPE)

    def __str__(self) -> str:
        """Return the verdict, the four answers and the most important metrics."""
        lines = [str(self.verdict), *(f"  {answer}" for answer in self.questions)]
        if self.first:
            where = f"operator {self.first.index} {self.first.operator}"
            lines.append(f"  goes wrong first at {where}, {self.first.module or 'the top level'}")
        for key in ("max_abs_error", "relative_l2_error_max", "one_minus_cosine_max"):
            value = self.metrics.get(key)
            lines.append(f"  {key}: {'not finite' if value is None else f'{value:.3g}'}")
        if self.operators is not None:
            lines.append(f"  {_summary(self.operators)}")
        if self.explained is not None:
            lines.append(f"  explained by the predicted rounding: {100 * self.explained:.1f} %")
        if self.numerics_found:
            lines.append(f"  nearest numerics: {self.numerics_found}")
        return "\n".join(lines)


def _summary(results: Sequence[OperatorResult]) -> str:
    """Return one line about the errors of operators."""
    identical = sum(r.note == IDENTICAL for r in results)
    if identical and identical == len(results):
        return f"operators: all {identical} return exactly the reference's results"
    errors = [r.largest_error for r in results if r.passed is not None and r.note != IDENTICAL]
    text = f"largest operator error: {max(errors, default=0):.3g} of its bound"
    if not identical:
        return text
    return f"{text}; {identical} of {len(results)} return exactly the reference's results"
