"""The four questions of the verdict, each a pure function, and the thresholds of the last two.

1. *Same program?* Weights, buffers, attributes, inputs and the sequence of operators are equal.
2. *Same kernels?* Each operator computes on the reference's operands. Its error stays within a
   bound that follows from the arithmetic (`npu_parity.verdict.bounds`).
3. *Same answer?* The outputs differ from the reference's by no more than the device's numerics
   predict.
4. *Enough evidence?* How much a PASS proves on these inputs and weights. It never decides.

A finding is one line of text that speaks against a yes. The first finding is the most telling.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu_parity.errors import ParityError
from npu_parity.numerics.formats import FORMATS, Numerics
from npu_parity.verdict import metrics
from npu_parity.verdict.answers import QUESTIONS, Answer
from npu_parity.verdict.operators import OperatorResult, without_bound
from npu_parity.verdict.thresholds import Threshold

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


def same_program(differences: Sequence[str] | None) -> Answer:
    """Answer question 1 from what `program.differences` found; None: it was not asked."""
    if differences is None:
        return Answer(1, None)
    return Answer(1, not differences, tuple(differences))


def same_kernels(
    results: Sequence[OperatorResult] | None,
    promised: Numerics,
    probed: Mapping[str, Mapping[str, Any]] | None = None,
) -> Answer:
    """Answer question 2.

    Args:
        results: what `kernels.check_operators` found; None: the question was not asked.
        promised: the numerics that the device states.
        probed: what `numerics.probing.probe` found. A sum of many terms hides coarser operands
            from a bound that each of its elements must keep; the probe has no sums.
    """
    if results is None:
        return Answer(2, None)
    findings = []
    for r in results:
        if r.passed is False:
            place = f"{r.operator} at {r.module or 'the top level'}"
            note = f" ({r.note})" if r.note else ""
            findings.append(
                f"operator {r.index} {place}: {r.largest_error:.3g} times its bound{note}"
            )
    if probed is not None:
        findings += shortfall(probed, promised)
    return Answer(2, not findings, tuple(findings))


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
    runs: Runs,
    task: str,
    pretrained: bool | None,
    results: Sequence[OperatorResult] = (),
    not_asked: Sequence[int] = (),
) -> Answer:
    """Answer question 4: each finding is a reason why a PASS proves little.

    Args:
        runs: `measured` may be None, the prediction then stands for the device.
        task: classification, features or digits.
        pretrained: None where nobody knows.
        results: of question 2; operators without a bound were not checked.
        not_asked: questions that could not be asked of this device.
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
        spread = metrics.l2(r - r.mean(axis=0)) / np.sqrt(len(r))
        change = metrics.l2(np.nan_to_num(d - r)) / np.sqrt(len(r))
        if spread < SPREAD * change:
            findings.append(
                f"outputs hardly depend on the input: they differ by {spread:.3g} between inputs, "
                f"and by {change:.3g} between devices"
            )
    if unbounded := without_bound(results):
        findings.append(f"not checked, for want of a bound: {', '.join(unbounded)}")
    findings += [f"question {n}, {QUESTIONS[n]}, was not asked" for n in not_asked]
    if pretrained is False:
        findings.append("weights are random")
    return Answer(4, not findings, tuple(findings))


def nearest(distances: Mapping[str, float | None]) -> str | None:
    """Return the name of the smallest finite distance, the first of equal ones; None without one.

    >>> nearest({"fp32": 2.0, "hf32": 0.5, "tf32": None})
    'hf32'
    """
    finite = {name: d for name, d in distances.items() if d is not None and np.isfinite(d)}
    return min(finite, key=lambda name: finite[name]) if finite else None


def distances(
    measured: NDArray[Any], predictions: Mapping[str, NDArray[Any]]
) -> dict[str, float | None]:
    """Return how far each prediction lies from the measured outputs, as an L2 norm.

    None where it is not finite.
    """
    m = measured.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        found = {n: metrics.l2(m - p.astype(np.float64)) for n, p in predictions.items()}
    return {name: d if np.isfinite(d) else None for name, d in found.items()}


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


def coarser(found: str | None, promised: Numerics) -> str | None:
    """Return a finding where the numerics found are coarser than every promised format."""
    if found is None:
        return None
    coarsest = min(FORMATS[name].mantissa_bits for name in promised.formats)
    if FORMATS[found].mantissa_bits >= coarsest:
        return None
    formats = "/".join(sorted(promised.formats))
    return f"the device computes as {found} would, where {formats} was promised"


def shortfall(probed: Mapping[str, Mapping[str, Any]], promised: Numerics) -> list[str]:
    """Return a finding for each kind of product that keeps less of its operands than promised.

    Args:
        probed: what `probe` found.
        promised: what the device says of itself.
    """
    findings = []
    for kind in ("conv", "matmul"):
        wanted, found = FORMATS[getattr(promised, kind)], probed[kind]
        if found["format"] is None:  # an algorithm that does not return what it multiplies by 1
            continue
        kept = FORMATS[found["format"]]
        if kept.mantissa_bits < wanted.mantissa_bits or kept.exponent_bits < wanted.exponent_bits:
            findings.append(
                f"{kind} keeps {kept.mantissa_bits} mantissa bits of its operands ({kept.name}) "
                f"where {wanted.name} was promised"
            )
    return findings
