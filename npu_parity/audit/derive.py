"""Figures computed again from arrays and samples, by other formulas than those that wrote them.

`npu_parity.verdict.metrics` and `npu_parity.backends.latency` write the figures of ``metrics.json``
and ``latency.json``. Nothing here uses them. Sums are exact (`math.fsum`), and 1 - cosine comes
from the part of d - r across r instead of from unit vectors. A mistake in one of the two is a
difference between them.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npu_parity.evidence.tolerance import tolerance
from npu_parity.verdict.criteria import CRITERIA, RELATIONS, Condition

Floats = NDArray[np.float64]
DIGITS = ("digit1", "digit2", "digit3", "digit4", "digit5")
BLANK = 10


def compared(
    reference: ArrayLike,
    device: ArrayLike,
    task: str,
    heads: Mapping[str, int] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Any]:
    """Return all figures of ``metrics.json`` that follow from two arrays (inputs, columns).

    The arguments are those of `npu_parity.verdict.metrics.compare`. A figure that is not finite is
    None.
    """
    r, d = np.asarray(reference), np.asarray(device)
    widths = dict(heads or {"": r.shape[1]})
    starts = np.cumsum([0, *widths.values()]).tolist()
    columns = {n: slice(a, a + widths[n]) for n, a in zip(widths, starts, strict=False)}
    with np.errstate(all="ignore"):
        found = _figures(r, d, task, list(columns.values()))
        maps = {n: s for n, s in (shapes or {}).items() if len(s) > 1 and task == "segmentation"}
        pixels = {n: _pixels(r[:, columns[n]], d[:, columns[n]], s[0]) for n, s in maps.items()}
        if maps:
            for key in ("pixel_agreement", "mean_iou"):
                parts = [math.nan if (x := one[key]) is None else x for one in pixels.values()]
                found[key] = _number(math.fsum(parts) / len(parts))
        if heads:
            if task == "digits":
                answers = [_answers(side, columns) for side in (r, d)]
                for one, *both in zip(found["per_input"], *answers, strict=True):
                    one["reference_answer"], one["device_answer"] = both
                agree = [a == b and a is not None for a, b in zip(*answers, strict=True)]
                found["digits_match"] = sum(agree) / len(agree)
            found["heads"] = {
                name: _figures(r[:, c], d[:, c], task, [slice(None)]) | pixels.get(name, {})
                for name, c in columns.items()
            }
            for one in found["heads"].values():
                del one["per_input"]
    return found


def criteria(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return every published criterion, applied to the result of `compared`."""
    found = {}
    for name, criterion in CRITERIA.items():
        conditions = [_condition(figures, condition) for condition in criterion.conditions]
        deciding = next((c for c in conditions if not c["pass"]), conditions[0])
        found[name] = {"rule": criterion.rule, **deciding, "conditions": conditions}
    return found


def explained(measured: ArrayLike, predicted: ArrayLike, reference: ArrayLike) -> float | None:
    """Return 1 - ‖measured - predicted‖² / ‖measured - reference‖²."""
    m, p, r = (np.asarray(a, dtype=np.float64) for a in (measured, predicted, reference))
    whole = _squares(m - r)
    return _number(1 - _squares(m - p) / whole) if whole else None


def timings(samples: Sequence[float], size: int) -> dict[str, float | None]:
    """Return the statistics of ``latency.json`` from samples in ms of batches of `size` images."""
    count, ordered = len(samples), sorted(samples)
    mean = math.fsum(samples) / count
    found: dict[str, float | None] = {"mean": mean, "throughput": 1000 * size / mean, "std": None}
    if count > 1:
        found["std"] = math.sqrt(math.fsum((x - mean) ** 2 for x in samples) / (count - 1))
    for percent in (50, 95, 99):
        place = percent / 100 * (count - 1)
        found[f"p{percent}"] = float(np.interp(place, range(count), ordered))
    return found


def shifted(data: Any, by: float, errors: Mapping[str, Any] | None = None, name: str = "") -> Any:
    """Return figures moved by their tolerance, up (`by` = 1) or down (-1).

    Another machine computes a figure between the two.

    Args:
        data: the content of a JSON file with figures.
        by: how many tolerances.
        errors: the mapping with the relative L2 errors that the tolerance depends on.
        name: the name of a figure.
    """
    if isinstance(data, Mapping):
        errors = data if "relative_l2_error" in data else errors
        metric = data.get("metric")  # of the value in a criterion
        # The other way for the reference, so that differences between both sides move, too.
        ways = {key: -by if str(key).startswith("reference_") else by for key in data}
        return {
            key: shifted(
                value, ways[key], errors, metric if metric and key == "value" else str(key)
            )
            for key, value in data.items()
        }
    if isinstance(data, list):
        return [shifted(value, by, errors, name) for value in data]
    if isinstance(data, float):
        return by * _allowed(name, float(data), errors or {}) + data  # which keeps its origin
    return data


def _allowed(name: str, value: float, errors: Mapping[str, Any]) -> float:
    """Return the tolerance of a figure in its unit, see `npu_parity.evidence.tolerance`."""
    least = tolerance(None)  # of 1, if it is no difference of close numbers
    if "cosine_similarity" in name:  # 1 minus something
        return least
    if not re.search("error|one_minus|explained", name):
        return least * value
    prefix = "prob_" if name.startswith("prob_") else ""
    error = errors.get(f"{prefix}relative_l2_error")
    allowed = tolerance(error if isinstance(error, float) else None) * value
    # It may be much larger than the others, because it counts probabilities that are almost 0.
    return max(allowed, least) if value and name == "prob_max_relative_error" else allowed


def _figures(
    reference: NDArray[Any], device: NDArray[Any], task: str, heads: Sequence[slice]
) -> dict[str, Any]:
    r, d = _rows(reference), _rows(device)
    whole = ~np.isnan(r + d).any(axis=1)
    probable = task not in ("features", "segmentation")
    overall, rows = _errors(r, d, _share(np.abs(d - r), np.abs(r)))
    scores = [r, d]
    if probable:
        scores = [np.hstack([_softmax(side[:, h]) for h in heads]) for side in (r, d)]
        logs = np.hstack([_log_ratio(r[:, h], d[:, h]) for h in heads])
        more, more_rows = _errors(scores[0], scores[1], np.abs(np.expm1(logs)))
        overall |= {f"prob_{key}": value for key, value in more.items()}
        for one, other in zip(rows, more_rows, strict=True):
            one |= {f"prob_{key}": value for key, value in other.items()}
    best = [[_best(side[:, h]) for h in heads] for side in (r, d)]  # by side and head
    same = [np.equal(a, b) for a, b in zip(*best, strict=True)]
    top1 = np.all([s[:, 0] for s in same], axis=0) & whole
    ordered = np.all([s.all(axis=1) for s in same], axis=0) & whole
    shared = [
        [len({*a} & {*b}) / len(a) for a, b in zip(*sides, strict=True)]
        for sides in zip(*best, strict=True)
    ]
    overlap = np.mean(shared, axis=0) * whole
    margins = np.min([_margin(r[:, h]) for h in heads], axis=0)
    seen = ~np.isnan(r).any(axis=1)
    classes = {tuple(row) for row in np.stack([b[:, 0] for b in best[0]], axis=1)[seen].tolist()}
    overall |= {
        "top1_match": _mean(top1),
        "top5_overlap": _mean(overlap),
        "top5_same_order": _mean(ordered),
        "margin_min": np.min(margins),
    }
    for i, one in enumerate(rows):
        one |= {"margin": _number(margins[i]), "top1_match": bool(top1[i])}
        if len(heads) == 1 and task != "segmentation":
            for side, score, order in zip(("reference", "device"), scores, best, strict=True):
                listed = [[c, float(score[i, c])] for c in order[0][i].tolist()]
                one[f"{side}_top5"] = listed if np.isfinite(score[i]).all() else None
    return {
        "inputs": len(r),
        "columns": r.shape[1],
        "finite": bool(whole.all()),
        "bitwise_equal": bool(whole.all()) and reference.tobytes() == device.tobytes(),
        "distinct_top1": len(classes),
        **{key: _number(value) for key, value in overall.items()},
        "per_input": rows,
    }


def _rows(values: NDArray[Any]) -> Floats:
    """Return the values in float64. A row with NaN or infinity becomes NaN."""
    finite = np.isfinite(values).all(axis=1, keepdims=True)
    return np.where(finite, values.astype(np.float64), np.nan)


def _errors(r: Floats, d: Floats, relative: Floats) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    error = np.abs(d - r)
    lengths = [[math.sqrt(_squares(row)) for row in side] for side in (error, r)]
    ratios = [_share(*pair).item() for pair in zip(*lengths, strict=True)]
    apart = [_one_minus_cosine(*rows) for rows in zip(r, d, strict=True)]
    l2 = math.sqrt(_squares(error))
    overall = {
        "max_abs_error": error.max(),
        "mean_abs_error": _mean(error),
        "max_relative_error": relative.max(),
        "mean_relative_error": _share(_mean(error), _mean(np.abs(r))),
        "l2_error": l2,
        "relative_l2_error": _share(l2, math.sqrt(_squares(r))),
        "relative_l2_error_max": np.max(ratios),
        "cosine_similarity": 1 - _mean(apart),
        "cosine_similarity_min": 1 - np.max(apart),
        "one_minus_cosine": _mean(apart),
        "one_minus_cosine_max": np.max(apart),
    }
    rows = [
        {
            "max_abs_error": _number(row.max()),
            "relative_l2_error": _number(ratio),
            "cosine_similarity": _number(1 - far),
            "one_minus_cosine": _number(far),
        }
        for row, ratio, far in zip(error, ratios, apart, strict=True)
    ]
    return overall, rows


def _one_minus_cosine(r: Floats, d: Floats) -> float:
    lengths = [math.sqrt(_squares(side)) for side in (r, d)]
    if not all(lengths) or math.isnan(sum(lengths)):
        return math.nan
    along = _sum((d - r) * r) / lengths[0] ** 2  # d - r is along·r and a part across
    cosine = (1 + along) * lengths[0] / lengths[1]
    sine_squared = _squares(d - r - along * r) / lengths[1] ** 2
    return sine_squared / (1 + cosine) if cosine > 0 else 1 - cosine


def _softmax(values: Floats) -> Floats:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(powers / np.reshape([_sum(row) for row in powers], (-1, 1)))


def _log_ratio(r: Floats, d: Floats) -> Floats:
    """Return log(q / p) of the probabilities of a head; differences first, so no digit is lost."""
    largest = [side.max(axis=1, keepdims=True) for side in (r, d)]
    sums = [
        np.reshape([np.log(_sum(row)) for row in np.exp(side - most)], (-1, 1))
        for side, most in zip((r, d), largest, strict=True)
    ]
    return np.asarray((d - r) - (largest[1] - largest[0]) - (sums[1] - sums[0]))


def _best(values: Floats) -> NDArray[np.intp]:
    """Return the columns of the five largest values of each row, the lower column in a tie."""
    order = [sorted(range(len(row)), key=lambda i, row=row: -row[i])[:5] for row in values.tolist()]  # type: ignore[misc]
    return np.asarray(order)


def _margin(values: Floats) -> Floats:
    if values.shape[1] < 2:
        return np.full(len(values), np.nan)
    largest = np.sort(values, axis=1)
    return np.asarray(largest[:, -1] - largest[:, -2])


def _answers(outputs: NDArray[Any], columns: Mapping[str, slice]) -> list[str | None]:
    found: list[str | None] = []
    for row in outputs:
        length = int(row[columns["length"]].argmax())
        digits = [int(row[columns[name]].argmax()) for name in DIGITS][:length]
        text = "".join("_" if digit == BLANK else str(digit) for digit in digits)
        found.append(text if np.isfinite(row).all() else None)
    return found


def _pixels(reference: NDArray[Any], device: NDArray[Any], classes: int) -> dict[str, float | None]:
    sides = [side.reshape(len(side), classes, -1) for side in (reference, device)]
    if not all(np.isfinite(side).all() for side in sides):
        return {"pixel_agreement": None, "mean_iou": None}
    r, d = (side.argmax(axis=1) if classes > 1 else side[:, 0] > 0 for side in sides)
    shares = [
        float(((r == one) & (d == one)).sum() / ((r == one) | (d == one)).sum())
        for one in np.unique(r)
    ]
    return {
        "pixel_agreement": _number(_mean(r == d)),
        "mean_iou": math.fsum(shares) / len(shares),
    }


def _condition(figures: Mapping[str, Any], condition: Condition) -> dict[str, Any]:
    name = condition.metric
    name = name if name in figures else name.removeprefix("prob_")
    value = figures[name]
    return {
        "metric": name,
        "value": value,
        "relation": condition.relation,
        "threshold": condition.threshold,
        "pass": value is not None and RELATIONS[condition.relation](value, condition.threshold),
    }


def _sum(values: ArrayLike) -> float:
    listed = np.asarray(values, dtype=np.float64).ravel().tolist()
    return math.fsum(listed)


def _squares(values: ArrayLike) -> float:
    return _sum(np.square(np.asarray(values, dtype=np.float64)))


def _mean(values: ArrayLike) -> float:
    return _sum(values) / np.asarray(values).size


def _share(error: ArrayLike, size: ArrayLike) -> Floats:
    """Return error / size, where 0/0 is 0."""
    return np.where(np.equal(error, 0), 0.0, np.divide(error, size))


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
