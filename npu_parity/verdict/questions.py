"""The four questions of the verdict, each a pure function, and the thresholds of 3 and 4.

1. *Same program?* Weights, buffers, attributes, inputs and the sequence of operators are equal. Or
   another program computes the same function in float64 (`npu_parity.verdict.function`).
2. *Same kernels?* Each operator computes on the reference's operands. Its error stays within a
   bound that follows from the arithmetic (`npu_parity.verdict.bounds`).
3. *Same answer?* The outputs differ from the reference's by no more than the device's numerics
   predict.
4. *Enough evidence?* How much a PASS proves on these inputs and weights. It never decides.

A finding is one line of text that gives a reason for "no". The first finding is the most important.
"""

import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu_parity.errors import ParityError
from npu_parity.numerics.formats import Numerics
from npu_parity.verdict import metrics, rowwise
from npu_parity.verdict.answers import QUESTIONS, Answer, Program
from npu_parity.verdict.coarseness import coarsened, coarsened_row
from npu_parity.verdict.envelope import ENVELOPE, envelope
from npu_parity.verdict.numerics_found import shortfall
from npu_parity.verdict.operators import OperatorResult, without_bound
from npu_parity.verdict.runs import Repeated, Runs
from npu_parity.verdict.thresholds import Threshold

FLIP = Threshold(
    2.0,
    question=3,
    decides="The top-1 class may change if the reference's margin is below this many times the "
    "largest predicted error.",
    reason="Two classes change places if they move towards each other by their margin. Each moves "
    "by at most the largest error.",
)
SATURATED = Threshold(
    0.999,
    question=4,
    decides="Softmax is saturated if the best class of every input has a probability above this.",
    reason="Saturated probabilities hardly change, even if the logits change.",
)
FLAT = Threshold(
    10.0,
    question=4,
    decides="Softmax is flat if no class exceeds this many times 1/classes.",
    reason="If all probabilities are near 1/classes, they agree even if the logits differ.",
)
SPREAD = Threshold(
    10.0,
    question=4,
    decides="Outputs must differ between inputs by this many times their difference between "
    "devices.",
    reason="Otherwise the output of another input would pass as correct.",
)

MOST = 20  # findings about inputs


def same_program(program: Program) -> Answer:
    """Answer question 1 from the result of `program.compare`."""
    findings = program.differences
    if program.kind == "same function":
        first, *rest = findings or ("",)
        findings = (f"the same function by another program: {first}", *rest)
    return Answer(1, program.same, findings)


def same_kernels(
    results: Sequence[OperatorResult] | None,
    promised: Numerics,
    probed: Mapping[str, Mapping[str, Any]] | None = None,
) -> Answer:
    """Answer question 2.

    Args:
        results: the result of `kernels.check_operators`; None or empty if the question was not
            asked. Nothing was compared then, so it is no "yes".
        promised: the numerics that the device promises.
        probed: the result of `numerics.probing.probe`. An element-wise bound may miss coarser
            operands in a sum of many terms. The probe uses no sums.
    """
    if not results:
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


def same_answer(
    runs: Runs,
    names: Sequence[str],
    numerics_found: str | None = None,
    repeated: Repeated | None = None,
) -> Answer:
    """Compare the outputs of the port with what float32 and the device's numerics allow.

    The first step compares the port on the reference's own device. Only float32 rounding may differ
    there, so this step sees faults of the program that a coarse device hides. The second step
    compares the port on the device with the predicted outputs. The top-1 class of a head may differ
    only if the reference's margin is below `FLIP` times the largest predicted error. A side that is
    not finite, or a reference that computes something else in a second run, is the only finding.

    Args:
        runs: all arrays; `measured` is not None.
        names: names of the inputs.
        numerics_found: a finding that the device rounds more coarsely than it promises.
        repeated: further runs on the device, and of the reference.

    Raises:
        ParityError: there are no inputs or no columns.
    """
    assert runs.measured is not None, "question 3 is asked of measured outputs only"
    repeated = repeated or Repeated()
    if runs.reference.size == 0:
        raise ParityError(f"outputs are empty: shape {runs.reference.shape}")
    if failure := unusable(runs, names, repeated):
        return failure
    r, p, m = runs.reference, runs.predicted, runs.measured
    x = r if runs.exact is None else runs.exact  # float32 has no error then, and allows none
    if runs.misfit:
        return Answer(3, False, (runs.misfit,))
    for found in (runs.hosted, m):
        if found is not None and found.shape != r.shape:
            return Answer(3, False, (f"outputs of shape {found.shape}, expected {r.shape}",))
    findings: list[str] = []
    allowed = envelope(r, x, None if np.array_equal(p, r) else p, runs.columns, runs.errors)
    if runs.hosted is not None:
        there = allowed if runs.narrow else envelope(r, x, None, runs.columns)
        hosted = there.beyond(runs.hosted, names)
        findings += _first(
            f"input {n}, already on the reference's device: {why}" for n, why in hosted
        )
    beyond = dict(allowed.beyond(m, names))
    findings += _first(f"input {name}: {why}" for name, why in beyond.items())
    findings += _first(_flips(runs, m, names, beyond))
    unrest = list(_repeats(repeated, allowed.relative))
    findings += unrest
    stored = coarsened(p, m)
    if stored is None and (row := coarsened_row(p, m)):
        stored = f"of input {names[row[0]]} {row[1]}"
    if stored:
        findings.append(f"outputs {stored}: the port rounds them, or stores them in fewer bits")
    if numerics_found and not unrest:  # outputs at random say nothing about numerics
        findings.append(numerics_found)
    return Answer(3, not findings, tuple(findings))


def _repeats(repeated: Repeated, allowed: float) -> Iterator[str]:
    """Yield a finding for each further run that differs by more than is allowed.

    Another batch size may choose other kernels, which round otherwise. It also changes the
    reference.
    """
    runs = {"a second run differs from the first": (repeated.again, 0.0)} | {
        f"a batch of {size} gives other outputs": (found, repeated.reference_batches.get(size, 0.0))
        for size, found in repeated.batches.items()
    }
    for what, (found, own) in runs.items():
        most = allowed + (ENVELOPE * own if math.isfinite(own) else 0.0)
        if not found <= most:
            yield f"{what}, by {found:.3g} (relative L2 error) where rounding allows {most:.3g}"


def unusable(runs: Runs, names: Sequence[str], repeated: Repeated) -> Answer | None:
    """Return a "no" to question 3 if there is no reference or no prediction to compare with.

    The answer has one finding: the reference computes something else in a second run (state or
    randomness), or a side is not finite. Then it names the side and its first such input.
    """
    sides = {
        "reference": runs.reference,
        "reference in float64": runs.reference if runs.exact is None else runs.exact,
        "prediction": runs.predicted,
    }
    for side, array in sides.items():
        bad = np.argwhere(~np.isfinite(array))
        if len(bad):
            number, column = bad[0]
            value, name = array[number, column], names[number]
            where = f"; {runs.overflow}" if side == "prediction" and runs.overflow else ""
            text = f"{side}, input {name}: {value} in column {column}{where}"
            return Answer(3, False, (text,))
    if repeated.reference:
        text = (
            f"reference: a second run differs by {repeated.reference:.3g} (relative L2 error); it "
            "has state or randomness, so there is nothing to compare with"
        )
        return Answer(3, False, (text,))
    return None


@np.errstate(invalid="ignore", over="ignore")  # outputs that are not finite are judged, too
def enough_evidence(
    runs: Runs,
    task: str,
    pretrained: bool | None,
    results: Sequence[OperatorResult] = (),
    not_asked: Sequence[int] = (),
    repeated: Repeated | None = None,
    notes: Sequence[str] = (),
) -> Answer:
    """Answer question 4. Each finding is a reason why a PASS proves little.

    Args:
        runs: if `measured` is None, the prediction replaces it.
        task: one of `metrics.TASKS`.
        pretrained: whether the weights are trained; None if unknown.
        results: results of question 2. They show which operators have no bound.
        not_asked: questions that this device cannot answer.
        repeated: further runs on the device.
        notes: further reasons.
    """
    r, d = runs.reference, runs.predicted
    if runs.measured is not None and runs.measured.shape == r.shape:
        d = runs.measured
    findings = []
    scores = [] if task == "features" else runs.scores(r)
    if len(r) == 1:
        findings.append("there is only one input")
    if scores:
        findings += _few_classes(scores, "pixels" if task == "segmentation" else "inputs")
    if len(r) > 1:
        spread = metrics.distance(r, r.mean(axis=0, dtype=np.float64)) / np.sqrt(len(r))
        change = metrics.distance(d, r) / np.sqrt(len(r))
        if spread < SPREAD * change:
            findings.append(
                f"outputs hardly depend on the input: they differ by {spread:.3g} between inputs, "
                f"and by {change:.3g} between devices"
            )
    if unbounded := without_bound(results):
        named = (
            f"{name} ({100 * share:.2g} % of the elements)" for name, share in unbounded.items()
        )
        findings.append(f"not checked, because no bound is known: {', '.join(named)}")
    findings += [f"question {n}, {QUESTIONS[n]}, was not asked" for n in not_asked]
    if runs.narrow:
        findings.append("the port's weights have 16 bits, and question 1 rounded the reference's")
    if runs.overflow:
        findings.append(f"the prediction has an {runs.overflow}")
    findings += notes
    if runs.measured is not None:
        findings += _device_used(runs, runs.measured, repeated or Repeated())
    if pretrained is False:
        findings.append("weights are random")
    return Answer(4, not findings, tuple(findings))


def _few_classes(scores: list[NDArray[Any]], what: str) -> Iterator[str]:
    """Yield reasons why classes prove little; scores by head are (inputs, places, classes)."""
    places = [(s.reshape(-1, s.shape[-1])) for s in scores]
    count = len(places[0])
    if count > 1 and all(len(set(p.argmax(axis=1).tolist())) == 1 for p in places):
        yield f"all {count} {what} have the same top-1 class"
    best = [rowwise.best_share(p) for p in places]
    if all((b > SATURATED).all() for b in best):
        every = what.removesuffix("s")
        yield f"softmax is saturated: the best class of every {every} exceeds {SATURATED}"
    shares = [b * p.shape[1] for b, p in zip(best, places, strict=True) if p.shape[1] > FLAT]
    if shares and all((s < FLAT).all() for s in shares):
        yield f"softmax is flat: no class exceeds {FLAT:g} times 1/classes"


def _device_used(runs: Runs, measured: NDArray[Any], repeated: Repeated) -> Iterator[str]:
    """Yield reasons why the runs on the device prove little."""
    rounds = not np.array_equal(runs.predicted, runs.reference)
    if rounds and np.array_equal(measured, runs.reference):
        yield "the outputs are the reference's, bit for bit: perhaps the device was not used"
    if repeated.again:
        yield f"two runs on the device differ by {repeated.again:.3g} (relative L2 error)"
    if repeated.batches.keys() <= {"1"}:
        yield "only a batch of one was checked"


def _first(findings: Iterable[str]) -> list[str]:
    """Return the first findings about inputs, and how many more there are."""
    found = list(findings)
    more = len(found) - MOST
    return [*found[:MOST], f"{more} more inputs are like the last"] if more > 0 else found


def _flips(
    runs: Runs, measured: NDArray[Any], names: Sequence[str], beyond: Container[str]
) -> Iterator[str]:
    """Yield a finding for each head of an input with another top-1 class, if none may flip."""
    r, p = runs.reference, runs.predicted
    x = r if runs.exact is None else runs.exact
    sides = (runs.scores(r), runs.scores(measured))
    other = [(a.argmax(-1) != b.argmax(-1)).any(-1) for a, b in zip(*sides, strict=True)]
    for i in np.flatnonzero(np.any(other, axis=0)).tolist():
        if names[i] in beyond:
            continue
        error = np.maximum(np.abs(p[i] - r[i]), np.abs(r[i] - x[i]))
        if runs.errors is not None:  # the device's error is that of any row
            error = np.abs(np.concatenate([p - r, runs.errors, [error]])).max(axis=0)
        yield from _flipped(names[i], runs, i, measured, error)


def _flipped(
    name: str, runs: Runs, i: int, measured: NDArray[Any], error: NDArray[Any]
) -> Iterator[str]:
    """Yield a finding for each head of input i whose top-1 class may not flip, but does."""
    sides = (runs.scores(array[i : i + 1]) for array in (runs.reference, measured))
    for r, m, c in zip(*sides, runs.columns.values(), strict=True):
        if r.shape[-1] < 2:
            continue
        own, found = r[0].argmax(axis=1), m[0].argmax(axis=1)
        second, first = np.partition(r[0], -2, axis=1)[:, -2:].T
        margin = np.where(own == found, 0.0, first - second)
        allowed = FLIP * error[c].max()
        worst = int(margin.argmax())
        if own[worst] != found[worst] and margin[worst] >= allowed:
            where = f" at pixel {worst}" if len(margin) > 1 else ""
            yield (
                f"input {name}: top-1{where} is {found[worst]} where the reference has "
                f"{own[worst]} with a margin of {margin[worst]:.3g}; only a margin below "
                f"{allowed:.3g} may flip"
            )
