"""Can the figures of a report be true together? Pure checks of printed intervals.

A check speaks only where every reading of the printed digits agrees. With several figures of one
name, it takes the reading that fits best. r is the reference, d the device, n the outputs of one
input.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

from npu_parity.audit.figures import Figure, Report

UNKNOWN_SPREAD = 0.2  # standard deviation of times over their mean, where none is printed


@dataclass(frozen=True)
class Finding:
    """What a check found: the relation, the figures, and whether they can be true together."""

    relation: str
    text: str
    holds: bool


@dataclass(frozen=True)
class Facts:
    """What is known about a report beside its figures; None is unknown.

    Attributes:
        outputs: the number of outputs of one input.
        inputs: the number of inputs.
    """

    outputs: int | None = None
    inputs: int | None = None


def check(report: Report, facts: Facts) -> list[Finding]:
    """Return what every check found, also where the figures agree."""
    return [finding for one in CHECKS for finding in one(report, facts)]


def _printed(figure: Figure) -> str:
    where = f"{figure.scope}, line" if figure.scope else "line"
    return f"{figure.name} {figure.text} ({where} {figure.line})"


def _below(
    smaller: list[Figure], larger: list[Figure], relation: str, factor: float = 1.0
) -> Iterator[Finding]:
    """Yield whether a figure can be at most another one, times a factor."""
    if smaller and larger:
        least = min(smaller, key=lambda f: f.low)
        most = max(larger, key=lambda f: f.high)
        text = f"{_printed(least)} and {_printed(most)}"
        yield Finding(relation, text, least.low <= factor * most.high)


def mean_and_max(report: Report, facts: Facts) -> Iterator[Finding]:
    """The mean of numbers is at most their maximum."""
    for prefix in ("", "prob_"):
        means = report.named(f"{prefix}mean_abs_error")
        for scope in dict.fromkeys(f.scope for f in means):
            yield from _below(
                [f for f in means if f.scope == scope],
                report.named(f"{prefix}max_abs_error", scope=scope),
                f"{prefix}mean_abs_error ≤ {prefix}max_abs_error",
            )


def heads_and_all(report: Report, facts: Facts) -> Iterator[Finding]:
    """The maximum of one head is at most the maximum of all."""
    overall = report.named("max_abs_error", scope="")
    heads = [f for f in report.named("max_abs_error") if f.scope]
    if overall and heads:
        largest = max(heads, key=lambda f: f.low)
        yield from _below([largest], overall, "largest of the rows ≤ max_abs_error")


def l2_between(report: Report, facts: Facts) -> Iterator[Finding]:
    """mean|e| ≤ ‖e‖₂/√n ≤ max|e|: the means of powers 1, 2, ∞ grow with the power.

    Source: Hölder's inequality (Hardy, Littlewood, Pólya, *Inequalities*, theorem 16). With several
    inputs, a report may print the L2 error of all; then only the first half is certain.
    """
    l2 = report.named("l2_error", scope="")
    if not facts.outputs or not l2:
        return
    root = math.sqrt(facts.outputs)
    mean, largest = (report.named(f"{k}_abs_error", scope="") for k in ("mean", "max"))
    yield from _below(mean, l2, f"mean_abs_error ≤ l2_error/√{facts.outputs}", 1 / root)
    if facts.inputs == 1:
        yield from _below(l2, largest, f"l2_error/√{facts.outputs} ≤ max_abs_error", root)
        yield from _below(largest, l2, "max_abs_error ≤ l2_error")


def cosine_and_l2(report: Report, facts: Facts) -> Iterator[Finding]:
    """1 − cos ≤ 1 − √(1 − ρ²) with ρ = ‖d − r‖/‖r‖ < 1, for one input.

    d lies in a ball of radius ρ‖r‖ around r, and the sine of the angle to a point of that ball is
    at most ρ.
    """
    cosines = report.named("cosine", "mean_cosine", scope="")
    for one in cosines:
        yield Finding("cosine ≤ 1", _printed(one), one.low <= 1)
    shares = [(f.high, _printed(f)) for f in report.named("relative_l2_error", scope="")]
    shares += [
        (e.high / r.low, f"{_printed(e)}, {_printed(r)}")
        for e, r in product(report.named("l2_error", scope=""), report.named("norm", scope=""))
        if r.low > 0
    ]
    if facts.inputs != 1 or not cosines or not shares:
        return
    share, text = max(shares)
    best = max(cosines, key=lambda f: f.high)
    if share < 1:
        allowed = share**2 / (1 + math.sqrt(1 - share**2))  # 1 − √(1 − ρ²) without cancellation
        text = f"{_printed(best)} and {text}"
        yield Finding("1 − cosine ≤ 1 − √(1 − ρ²)", text, 1 - best.high <= allowed)


def l2_and_norm(report: Report, facts: Facts) -> Iterator[Finding]:
    """The relative L2 error is the L2 error over the norm of the reference, for one input."""
    triples = product(
        *(report.named(n, scope="") for n in ("relative_l2_error", "l2_error", "norm"))
    )
    if facts.inputs == 1:
        found = [
            (share.high * norm.high >= l2.low and share.low * norm.low <= l2.high, share, l2, norm)
            for share, l2, norm in triples
        ]
        if found:
            holds, *figures = max(found, key=lambda one: one[0])
            text = ", ".join(map(_printed, figures))
            yield Finding("relative_l2_error = l2_error/norm", text, holds)


def probabilities_and_logits(report: Report, facts: Facts) -> Iterator[Finding]:
    """Errors of softmax follow from errors e of the logits.

    Its derivative is p_i(δ_ij − p_j). Along the way from r to d:
    |Δp_i| ≤ ∫ Σ_j |p_i(δ_ij − p_j)| max|e| = ∫ 2 p_i(1 − p_i) max|e| ≤ max|e|/2;
    |Δ log p_i| ≤ 2 max|e|, so the relative error is at most exp(2 max|e|) − 1;
    Σ|Δp_i| ≤ ∫ Σ p_i|e_i − Σ p_j e_j| ≤ max|e|, because a deviation from the mean of numbers in
    [−1, 1] is 1 on average at most.
    """
    logits = report.named("max_abs_error", scope="")
    if not logits:
        return
    largest = max(logits, key=lambda f: f.high)
    yield from _below(
        report.named("prob_max_abs_error"), logits, "prob_max_abs_error ≤ max_abs_error/2", 0.5
    )
    if relative := report.named("prob_max_relative_error"):
        least = min(relative, key=lambda f: f.low)
        allowed = math.expm1(min(2 * largest.high, 500))
        text = f"{_printed(least)} and {_printed(largest)}"
        relation = "prob_max_relative_error ≤ exp(2 max_abs_error) − 1"
        yield Finding(relation, text, least.low <= allowed)
    if facts.outputs:
        yield from _below(
            report.named("prob_mean_abs_error"),
            logits,
            f"prob_mean_abs_error ≤ max_abs_error/{facts.outputs}",
            1 / facts.outputs,
        )


def mean_of_cosines(report: Report, facts: Facts) -> Iterator[Finding]:
    """A mean cosine is the mean of the cosines in a table with a row for each input."""
    rows = [f for f in report.named("cosine") if f.scope]
    overall = report.named("mean_cosine", scope="")
    if len(rows) > 1 and len({f.table for f in rows}) == 1 and overall:
        low, high = (sum(getattr(f, end) for f in rows) / len(rows) for end in ("low", "high"))
        text = f"{_printed(overall[0])} and {len(rows)} rows with mean {low:.8g} to {high:.8g}"
        holds = any(low <= f.high and f.low <= high for f in overall)
        yield Finding("mean cosine of the rows", text, holds)


def speedups(report: Report, facts: Facts) -> Iterator[Finding]:
    """A speed-up is the ratio of the times, or of the throughputs, beside it.

    The mean of ratios exceeds the ratio of means by the square of the spread of the times at most,
    to second order (Jensen's inequality).
    """
    for speedup in report.named("speedup"):
        if speedup.side == "cpu" and speedup.table:  # 1.00 in its own row
            continue
        for name, slow, fast in _pairs(report, speedup):
            if min(slow.low, fast.low) <= 0:
                continue
            over, under = (slow, fast) if name == "latency" else (fast, slow)
            low = over.low / under.high
            high = over.high / under.low * (1 + _spread(report, fast) ** 2)
            text = f"{_printed(speedup)}; {_printed(over)} over {_printed(under)} is "
            holds = speedup.low <= high and low <= speedup.high
            yield Finding("speed-up = ratio", f"{text}{low:.4g} to {high:.4g}", holds)


def throughputs(report: Report, facts: Facts) -> Iterator[Finding]:
    """In one row, the throughput is the batch size over the latency, up to the same spread."""
    for batch in report.named("batch"):
        beside = {f.name: f for f in report.figures if f.row == batch.row and f.row}
        if {"latency", "throughput"} <= beside.keys() and beside["latency"].low > 0:
            time, rate = beside["latency"], beside["throughput"]
            count = round((batch.low + batch.high) / 2)
            low, high = 1000 * count / time.high, 1000 * count / time.low
            holds = rate.low <= high * (1 + UNKNOWN_SPREAD**2) and low <= rate.high
            text = f"{_printed(rate)}; {count} inputs in {time.text} are {low:.5g} to {high:.5g}/s"
            yield Finding("throughput = batch/latency", text, holds)


CHECKS: tuple[Callable[[Report, Facts], Iterator[Finding]], ...] = (
    mean_and_max,
    heads_and_all,
    l2_between,
    cosine_and_l2,
    l2_and_norm,
    probabilities_and_logits,
    mean_of_cosines,
    speedups,
    throughputs,
)


def _pairs(report: Report, speedup: Figure) -> list[tuple[str, Figure, Figure]]:
    """Return the name and the only figures of the CPU and the NPU that are nearest to a speed-up.

    They are in its row, else in its table. Outside tables, figures with a deviation come first:
    they were measured more than once.
    """
    figures, timed = report.figures, {f.line for f in report.named("deviation")}
    places = [
        [f for f in figures if speedup.row and f.row == speedup.row],
        [f for f in figures if speedup.table and f.table == speedup.table],
        [f for f in figures if not speedup.table and f.line in timed],
        [f for f in figures if not speedup.table and not f.table],
    ]
    for place in places:
        found = []
        for name in ("latency", "throughput"):
            sides = [[f for f in place if (f.name, f.side) == (name, s)] for s in ("cpu", "npu")]
            if all(len(side) == 1 for side in sides):
                found.append((name, sides[0][0], sides[1][0]))
        if found:
            return found
    return []


def _spread(report: Report, time: Figure) -> float:
    """Return the standard deviation over the mean of a time, if the report prints it."""
    deviations = [f for f in report.named("deviation") if f.line == time.line]
    return deviations[0].high / time.low if deviations else UNKNOWN_SPREAD
