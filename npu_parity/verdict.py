"""The verdict: four questions, each with a bound that has a reason.

1. *Same program?* Weights, buffers, attributes, inputs and the sequence of operators are equal.
2. *Same kernels?* Each operator, fed with the reference's operands, lies within a bound of its
   exact result that follows from the arithmetic (`bounds`).
3. *Same answer?* The outputs lie within the envelope that the device's numerics predict.
4. *Enough evidence?* What a PASS is worth on these inputs and weights: it never decides.

FAIL names the first question that failed and the first operator or input that shows it. Where
nothing was measured the verdict is PREDICTED. Every threshold of the third and fourth question is
a constant of this module; those of the second are in `bounds`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu_parity import metrics
from npu_parity.errors import ParityError
from npu_parity.thresholds import Threshold

ENVELOPE = Threshold(
    4.0,
    question=3,
    decides="times the predicted relative L2 error, or that of float32 itself, is allowed",
    reason="A device adds in another order and fuses operators. Either moves the error of a "
    "network by less than its own size; 4 leaves room for both.",
)
FLIP = Threshold(
    2.0,
    question=3,
    decides="times the predicted largest error: the margin below which a top-1 flip is allowed",
    reason="Two classes change places where they move towards each other by their margin, each "
    "by at most the largest error.",
)
SATURATED = Threshold(
    0.999,
    question=4,
    decides="probability of every input's best class, beyond which softmax is saturated",
    reason="Probabilities then hardly change, whatever the logits do.",
)
FLAT = Threshold(
    10.0,
    question=4,
    decides="times the share of chance that some class must have, or softmax is flat",
    reason="Probabilities that are all near 1/classes agree whatever the logits do.",
)
SPREAD = Threshold(
    10.0,
    question=4,
    decides="times the change between devices by which outputs must differ between inputs",
    reason="Or an output that belongs to another input would pass for the right one.",
)

QUESTIONS = {1: "same program", 2: "same kernels", 3: "same answer", 4: "enough evidence"}


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        question: 1 to 4.
        passed: None where the question was not asked.
        findings: what speaks against it, the first first; each one readable line.
    """

    question: int
    passed: bool | None
    findings: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return one line: the question, the answer and the first finding."""
        word = {None: "not asked", True: "yes", False: "no"}[self.passed]
        more = f" (and {len(self.findings) - 1} more)" if len(self.findings) > 1 else ""
        told = f": {self.findings[0]}{more}" if self.findings else ""
        return f"{self.question}. {QUESTIONS[self.question]}? {word}{told}"


@dataclass(frozen=True)
class Verdict:
    """PASS, FAIL or PREDICTED, with the answers it follows from."""

    answers: tuple[Answer, ...]

    @property
    def failed(self) -> Answer | None:
        """The first question that failed; the fourth qualifies a PASS and fails nothing."""
        return next((a for a in self.answers if a.question < 4 and a.passed is False), None)

    @property
    def word(self) -> str:
        """PASS, FAIL or PREDICTED."""
        if self.failed:
            return "FAIL"
        asked = {a.question for a in self.answers if a.passed is not None}
        return "PASS" if {1, 2, 3} <= asked else "PREDICTED"

    @property
    def evidence(self) -> str:
        """``strong`` or ``weak``."""
        return "weak" if any(a.question == 4 and not a.passed for a in self.answers) else "strong"

    def __str__(self) -> str:
        """Return one line: FAIL with its place, PASS with what it is worth, or PREDICTED."""
        if self.failed:
            number, first = self.failed.question, self.failed.findings[0]
            return f"FAIL (question {number}, {QUESTIONS[number]}: {first})"
        return f"{self.word} ({self.evidence} evidence)"

    def to_dict(self) -> dict[str, Any]:
        """Return what ``metrics.json`` holds."""
        return {
            "verdict": self.word,
            "evidence": self.evidence,
            "verdict_line": str(self),
            "failed_question": self.failed.question if self.failed else None,
            "failed_first": self.failed.findings[0] if self.failed else None,
            "questions": [asdict(answer) for answer in self.answers],
        }


@dataclass(frozen=True)
class Runs:
    """Outputs of one network on one set of inputs, arrays of shape (inputs, columns).

    Attributes:
        reference: float32, from the reference device.
        exact: float64, from the reference in float64: what float32 itself loses.
        predicted: float32, the device's numerics emulated.
        measured: float32 from the device, or None where nothing was measured.
        heads: widths of the heads, in order.
    """

    reference: NDArray
    exact: NDArray
    predicted: NDArray
    measured: NDArray | None = None
    heads: Mapping[str, int] | None = None

    @property
    def columns(self) -> list[slice]:
        """Where each head lies in the columns."""
        ends = np.cumsum(list((self.heads or {"": self.reference.shape[1]}).values()))
        return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def same_answer(runs: Runs, names: Sequence[str], numerics_found: str | None = None) -> Answer:
    """Hold the measured outputs against the predicted envelope, input by input.

    The relative L2 error may be `ENVELOPE` times the predicted one, or that of float32 itself
    (the largest over the inputs) where this is more. A head's top-1 may differ only where the
    reference's margin is below `FLIP` times the predicted largest error.

    Args:
        runs: all four arrays; `measured` is not None.
        names: of the inputs.
        numerics_found: a finding that the device rounds more coarsely than it promises.

    Raises:
        ParityError: there are no inputs, or no columns.
    """
    if runs.reference.size == 0:
        raise ParityError(f"outputs are empty: shape {runs.reference.shape}")
    if runs.measured.shape != runs.reference.shape:
        found = f"outputs of shape {runs.measured.shape}, expected {runs.reference.shape}"
        return Answer(3, False, (found,))
    findings = []
    r, x, p, m = (
        a.astype(np.float64) for a in (runs.reference, runs.exact, runs.predicted, runs.measured)
    )
    size = np.linalg.norm(r, axis=1)
    floor = _share(np.linalg.norm(r - x, axis=1), np.linalg.norm(x, axis=1)).max()
    allowed = ENVELOPE * np.maximum(_share(np.linalg.norm(p - r, axis=1), size), floor)
    with np.errstate(invalid="ignore"):
        found = _share(np.linalg.norm(m - r, axis=1), size)
    for i, name in enumerate(names):
        if not np.isfinite(m[i]).all():
            column = int(np.flatnonzero(~np.isfinite(m[i]))[0])
            findings.append(f"input {name}: {m[i, column]} in column {column}")
        elif not found[i] <= allowed[i]:
            findings.append(
                f"input {name}: relative L2 error {found[i]:.3g} where the prediction allows "
                f"{allowed[i]:.3g}"
            )
        else:
            findings += _flips(name, r[i], x[i], p[i], m[i], runs.columns)
    stored = metrics.coarsened(runs.reference, runs.measured)
    if stored:
        findings.append(f"outputs {stored}: something stores them in a smaller format")
    if numerics_found:
        findings.append(numerics_found)
    return Answer(3, not findings, tuple(findings))


def enough_evidence(
    runs: Runs, task: str, pretrained: bool | None, without_bound: Sequence[str] = ()
) -> Answer:
    """Say what a PASS on these inputs and weights is worth: weak for each finding.

    Args:
        runs: `measured` may be None, the prediction then stands for the device.
        task: classification, features or digits.
        pretrained: None where nobody knows.
        without_bound: operators that the second question could not ask about.
    """
    r = runs.reference.astype(np.float64)
    comparable = runs.measured is not None and runs.measured.shape == r.shape
    d = (runs.measured if comparable else runs.predicted).astype(np.float64)
    findings = []
    if len(r) == 1:
        findings.append("there is one input only")
    elif task != "features":
        classes = [tuple(row[c].argmax() for c in runs.columns) for row in r]
        if len(set(classes)) == 1:
            findings.append(f"all {len(r)} inputs have one and the same top-1 class")
    if task != "features":
        best = [metrics.softmax(r[:, c]).max(axis=1) for c in runs.columns]
        if all((b > SATURATED).all() for b in best):
            findings.append(f"softmax is saturated: every input's best class has over {SATURATED}")
        shares = [b * (c.stop - c.start) for b, c in zip(best, runs.columns, strict=True)]
        wide = [s for s, c in zip(shares, runs.columns, strict=True) if c.stop - c.start > FLAT]
        if wide and all((s < FLAT).all() for s in wide):
            findings.append(f"softmax is flat: no class has {FLAT:g} times the share of chance")
    if len(r) > 1:
        spread = np.linalg.norm(r - r.mean(axis=0)) / np.sqrt(len(r))
        change = np.linalg.norm(np.nan_to_num(d - r)) / np.sqrt(len(r))
        if spread < SPREAD * change:
            findings.append(
                f"outputs hardly depend on the input: they differ by {spread:.3g} between inputs, "
                f"and by {change:.3g} between devices"
            )
    if without_bound:
        findings.append(f"not checked, for want of a bound: {', '.join(without_bound)}")
    if pretrained is False:
        findings.append("weights are random")
    return Answer(4, not findings, tuple(findings))


def same_kernels(results: Sequence[Any], shortfall: Sequence[str] = ()) -> Answer:
    """Answer the second question from `operators.check_operators`' results.

    `shortfall` is what a probe of the device has against its numerics (`numerics.shortfall`): a
    sum of many terms hides coarser operands from a bound that must hold for every one of its
    elements.
    """
    findings = []
    for r in results:
        if r.passed is False:
            place = f"{r.operator} at {r.module or 'the top level'}"
            note = f" ({r.note})" if r.note else ""
            findings.append(
                f"operator {r.index} {place}: {r.largest_error:.3g} times its bound{note}"
            )
    findings += shortfall
    return Answer(2, not findings, tuple(findings))


def nearest_numerics(measured: NDArray, predictions: Mapping[str, NDArray]) -> str | None:
    """Return the name of the prediction that lies nearest to the measured outputs, by L2 norm.

    None where the measured outputs are not finite. Of equally near ones the first is taken.
    """
    if not np.isfinite(measured).all():
        return None
    m = measured.astype(np.float64)
    distances = {n: np.linalg.norm(m - p.astype(np.float64)) for n, p in predictions.items()}
    finite = {n: d for n, d in distances.items() if np.isfinite(d)}
    return min(finite, key=finite.get) if finite else None


def _flips(
    name: str, r: NDArray, x: NDArray, p: NDArray, m: NDArray, columns: list[slice]
) -> list[str]:
    findings = []
    for c in columns:
        if c.stop - c.start < 2 or r[c].argmax() == m[c].argmax():
            continue
        second, first = np.sort(r[c])[-2:]
        allowed = FLIP * max(np.abs(p[c] - r[c]).max(), np.abs(r[c] - x[c]).max())
        if first - second >= allowed:
            findings.append(
                f"input {name}: top-1 is {m[c].argmax()} where the reference has {r[c].argmax()} "
                f"by a margin of {first - second:.3g}; a flip is expected below {allowed:.3g}"
            )
    return findings


def _share(error: NDArray, size: NDArray) -> NDArray:
    """Return error / size, with 0/0 = 0."""
    return np.divide(error, size, out=np.where(error == 0, 0.0, np.inf), where=size > 0)
