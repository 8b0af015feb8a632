"""The difference between a device's outputs and the reference's: one dictionary of metrics.

``compare`` returns the metrics of ``metrics.json``. It computes everything in float64. JSON has no
NaN and no infinity, so a metric that is not finite is ``None``.

r is the reference, d the device. Metrics cover all inputs and columns, unless stated otherwise:

- ``max_abs_error``, ``mean_abs_error``: largest and mean |d - r|, in the unit of the outputs
- ``max_relative_error``: largest |d - r| / |r|, the componentwise relative error
- ``l2_error``, ``relative_l2_error``: ‖d - r‖₂ and ‖d - r‖₂ / ‖r‖₂, the normwise error (Higham,
  *Accuracy and Stability of Numerical Algorithms*, section 1.2); ``relative_l2_error_max`` is the
  largest over inputs
- ``mean_relative_error``: mean|d - r| / mean|r|
- ``cosine_similarity``, ``one_minus_cosine``: mean over inputs; ``_min`` and ``_max`` are the worst
  input
- ``prob_*``: the same metrics of softmax probabilities
- ``top1_match``, ``top5_overlap``, ``top5_same_order``: shares; with fewer than five columns, top-5
  uses all of them
- ``margin``: the largest value of the reference minus its second largest
- ``pixel_agreement``: the share of pixels with the same class, of dense maps
- ``mean_iou``: intersection over union of the pixels of a class on both sides, mean over classes
- ``distinct_top1``: the number of different top-1 classes of the reference
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npu_parity.backends.machine import threads
from npu_parity.errors import ParityError
from npu_parity.verdict import digits, maps
from npu_parity.verdict.per_input import BEST, Columns, PerInput
from npu_parity.verdict.rows import blocks, checked, columns, forget

TASKS = ("classification", "features", "digits", "segmentation")
# The name of each metric in tables, in order. {} is empty, or prob_ for probabilities.
FIGURES = {
    "{}max_abs_error": "max abs error",
    "{}mean_abs_error": "mean abs error",
    "{}l2_error": "L2 error",
    "{}relative_l2_error": "relative L2 error",
    "{}relative_l2_error_max": "relative L2 error, worst input",
    "{}mean_relative_error": "mean relative error",
    "{}max_relative_error": "largest relative error",
    "{}cosine_similarity": "cosine similarity",
    "{}cosine_similarity_min": "cosine similarity, worst input",
    "{}one_minus_cosine": "1 − cosine",
    "top1_match": "top-1 match",
    "top5_overlap": "top-5 overlap",
    "top5_same_order": "top-5 in the same order",
    "digits_match": "same answer",
    "pixel_agreement": "same class of a pixel",
    "mean_iou": "mean IoU of both sides",
    "margin_min": "smallest top-1 margin of the reference",
    "distinct_top1": "distinct top-1 classes",
}
# The metrics that are shares of 1.
SHARES = frozenset(
    {
        *("top1_match", "top5_overlap", "top5_same_order", "digits_match"),
        *("pixel_agreement", "mean_iou"),
    }
)
_THREADS = 6  # at most; each needs the memory of some blocks
_BLOCK = 2**19  # values; between two operations a thread waits for the others, so each must be long
_PART = 2**10  # columns whose products are added one after another
_CANCELLED = 0.1  # of ‖d - r‖², the part across r; of ‖r‖², ‖d‖²
_SMALL = 50.0  # logits up to this overflow no sum of exponentials
_FEW = 8  # up to this rank, a search for the largest value is quicker than sorting

Floats = NDArray[np.float64]


def compare(
    reference: ArrayLike,
    device: ArrayLike,
    task: str = "classification",
    heads: Mapping[str, int] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Any]:
    """Compare ``device`` with ``reference``.

    Args:
        reference, device: floating-point arrays of shape (inputs, columns), normally float32.
        task: ``classification`` (logits; metrics of softmax probabilities are added as ``prob_``),
            ``features`` (no probabilities), ``digits`` (classification heads that spell a
            number) or ``segmentation`` (dense maps of scores: the class of each pixel).
        heads: widths of the heads, in order; their sum is the number of columns. Softmax and top-k
            are computed in each head. ``None`` means one head.
        shapes: shapes of the heads, for ``segmentation``: (classes, height, width).

    Returns:
        Metrics over all columns, ``heads`` (the same metrics for each head, if heads are given) and
        ``per_input`` (one dictionary for each input, a `PerInput`). Shares are fractions of 1. With
        several heads ``top1_match`` and ``top5_same_order`` are the share of inputs on which all
        heads agree, ``top5_overlap`` is the mean over heads, ``margin`` is the smallest over heads,
        and ``distinct_top1`` counts combinations.

        A relative error of 0/0 is 0. The cosine of a zero vector is ``None``. An input with NaN or
        infinity on either side is a mismatch, and every metric that includes it is ``None``.

    Raises:
        ParityError: shapes differ, are empty or not two-dimensional; values are not floating-point;
            the widths do not add up; the task is unknown, or ``digits`` has no heads.
    """
    reference, device = checked("reference", reference), checked("device", device)
    if reference.shape != device.shape:
        raise ParityError(
            f"device outputs have shape {device.shape}, expected the reference's {reference.shape}"
        )
    if task not in TASKS:
        raise ParityError(f"task is {task!r}, expected one of {', '.join(TASKS)}")
    if task == "digits" and not heads:
        raise ParityError("task digits has no heads, expected length and digit1 to digit5")

    by_head = columns(heads or {"": reference.shape[1]}, reference.shape[1])
    dense = {n: s for n, s in (shapes or {}).items() if len(s) > 1}
    if task == "segmentation" and not dense:
        raise ParityError(
            "task segmentation: found no dense map in the outputs, expected (inputs, classes, "
            "height, width)"
        )
    # Values that are not finite become None.
    with np.errstate(all="ignore"):
        figures, of_inputs = _figures(reference, device, task, list(by_head.values()))
        if heads:
            if task == "digits":
                answers = [digits.answers(side, heads) for side in (reference, device)]
                of_inputs |= zip(("reference_answer", "device_answer"), answers, strict=True)
                same = [a == b and a is not None for a, b in zip(*answers, strict=True)]
                figures["digits_match"] = float(np.mean(same))
            figures["heads"] = {
                name: _figures(reference[:, c], device[:, c], task, [slice(None)])[0]
                for name, c in by_head.items()
            }
        if task == "segmentation":
            by_map = {
                n: maps.agreement(reference[:, by_head[n]], device[:, by_head[n]], s)
                for n, s in dense.items()
            }
            for key in ("pixel_agreement", "mean_iou"):
                figures[key] = _mean([found[key] for found in by_map.values()])
            for name in by_map.keys() & figures.get("heads", {}).keys():
                figures["heads"][name] |= by_map[name]
        figures["per_input"] = PerInput(of_inputs)
    return figures


def worst_input(figures: Mapping[str, Any]) -> int:
    """Return the number of the input with the largest relative L2 error in a result of `compare`.

    A value that is not finite counts as the largest. The first input is returned if several are
    equal or if nothing was compared.
    """
    errors = [one["relative_l2_error"] for one in figures.get("per_input", ())]
    return int(np.argmax([np.inf if error is None else error for error in errors or [0.0]]))


def softmax(logits: ArrayLike) -> Floats:
    """Return softmax over the last axis in float64, shifted by the maximum against overflow."""
    values = np.asarray(logits, dtype=np.float64)
    rows = values.reshape(-1, values.shape[-1])
    return _softmax(rows, [slice(None)])[0].reshape(values.shape)


def l2(values: ArrayLike) -> float:
    """Return ‖values‖₂ over all axes in float64, with NumPy's fixed order of summation.

    ``numpy.linalg.norm`` uses BLAS, whose kernels differ from machine to machine.
    """
    return float(np.sqrt(np.sum(np.square(np.asarray(values, dtype=np.float64)))))


def distance(values: NDArray[Any], others: NDArray[Any]) -> float:
    """Return ‖values - others‖₂ in float64. A difference that is no number counts as 0.

    Args:
        values: (rows, columns).
        others: the same shape, or (columns,).
    """
    total = 0.0
    for block in blocks(*values.shape):
        other = others[block] if others.ndim > 1 else others
        difference = np.nan_to_num(values[block].astype(np.float64) - other)
        total += np.square(difference).sum()
    return math.sqrt(total)


def top_k(values: ArrayLike, k: int) -> NDArray[np.intp]:
    """Return the indices of the k largest values of the last axis; in a tie, the lower first."""
    given = np.asarray(values)
    if k > _FEW or not np.isfinite(given).all():
        return np.argsort(-given, axis=-1, kind="stable")[..., :k]
    found = _largest(given.reshape(-1, given.shape[-1]), min(k, given.shape[-1]))
    return found.reshape(*given.shape[:-1], -1)


def explained(measured: ArrayLike, predicted: ArrayLike, reference: ArrayLike) -> float | None:
    """Return the share of the measured difference that the prediction explains.

    This is the coefficient of determination, 1 - ‖measured - predicted‖² / ‖measured - reference‖².
    1 is a perfect prediction. A value below 0 is worse than no prediction. The result is ``None``
    if nothing differs or a value is not finite. The shapes must be equal, else ``ParityError``.
    """
    m, p, r = (np.asarray(a, dtype=np.float64) for a in (measured, predicted, reference))
    if not m.shape == p.shape == r.shape:
        raise ParityError(
            f"measured, predicted and reference have shapes {m.shape}, {p.shape} and {r.shape}, "
            "expected the same"
        )
    with np.errstate(all="ignore"):
        return _number(1 - np.sum((m - p) ** 2) / np.sum((m - r) ** 2))


def _figures(
    reference: NDArray[Any], device: NDArray[Any], task: str, heads: list[slice]
) -> tuple[dict[str, Any], Columns]:
    """Return the metrics over all inputs, and the columns of those of each input.

    It reads block after block, so arrays on disk may be larger than the memory. Each thread works
    on a block of its own, so their number changes no value.
    """
    kinds = [""] if task in ("features", "segmentation") else ["", "prob_"]

    def one(block: slice) -> dict[str, NDArray[Any]]:
        found = _rows(reference[block], device[block], task, heads)
        forget(reference)
        forget(device)
        return found

    inputs, width = reference.shape
    with ThreadPoolExecutor(min(threads(), _THREADS)) as pool:
        parts = list(pool.map(one, blocks(inputs, width, _BLOCK)))
    found = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    finite = found["finite"]
    figures = {
        "inputs": inputs,
        "columns": width,
        "finite": bool(finite.all()),
        # Two NaNs with equal bits do not agree.
        "bitwise_equal": bool((finite & found["bitwise_equal"]).all()),
        "distinct_top1": len(np.unique(found["classes"][found["finite_reference"]], axis=0)),
    }
    for kind in kinds:
        figures |= _overall({key: found[f"{kind}{key}"] for key in _SUMS}, width, kind)
    figures |= {
        "top1_match": float(found["top1_match"].mean()),
        "top5_overlap": float(found["top5_overlap"].mean()),
        "top5_same_order": float(found["top5_same_order"].mean()),
        "margin_min": _number(found["margin"].min()),
    }
    of_inputs = [f"{kind}{key}" for kind in kinds for key in _OF_INPUTS] + ["margin", "top1_match"]
    if len(heads) == 1 and task != "segmentation":  # the five best pixels say nothing
        of_inputs += ["reference_top5", "device_top5"]
    return figures, {key: found[key] for key in of_inputs}


@np.errstate(all="ignore")  # a thread has its own
def _rows(
    reference: NDArray[Any], device: NDArray[Any], task: str, heads: list[slice]
) -> dict[str, NDArray[Any]]:
    """Return what the metrics need to know of each input; the first axis are the inputs."""
    rankings = [_ranking(reference[:, h], device[:, h]) for h in heads]
    r, d = reference.astype(np.float64), device.astype(np.float64)
    error = d - r
    found: dict[str, Floats] = {}
    scores: Sequence[Floats] = (r, d)
    if task not in ("features", "segmentation"):
        (p, subtracted), (q, subtracted_of_d) = (_softmax(side, heads) for side in (r, d))
        scores = (p, q)
        errors = _errors(p, q, q - p)
        errors["size_sum"] = np.full(len(r), float(len(heads)))  # of each head, 1
        # |q - p| / p from log(q / p), because p may underflow. It grows with |log(q / p)|.
        by_head = zip(heads, (subtracted_of_d - subtracted).sum(axis=0), strict=True)
        extremes = [
            (error[:, h].max(axis=1) - by, error[:, h].min(axis=1) - by) for h, by in by_head
        ]
        ratios = [np.maximum(np.expm1(high), -np.expm1(low)) for high, low in extremes]
        errors["max_relative_error"] = np.max(ratios, axis=0)
        found = {f"prob_{key}": value for key, value in errors.items()}
    sides = zip(("reference", "device"), scores, strict=True)
    best = [_best(rankings[0][side], values[:, heads[0]]) for side, values in sides]
    found |= _errors(r, d, error)
    size = np.abs(r, out=r)
    found["size_sum"] = size.sum(axis=1)
    largest = np.fmax.reduce(np.divide(error, size, out=error), axis=1)  # without 0/0
    found["max_relative_error"] = np.where(np.isnan(largest), 0.0, largest)
    finite_reference, finite_device = _finite(reference, device, found["error_sum"])
    finite = finite_reference & finite_device
    for value in found.values():
        value[~finite] = np.nan
    for of_side, usable in zip(best, (finite_reference, finite_device), strict=True):
        of_side["score"][~usable] = np.nan  # softmax turns -inf into 0
    return found | {
        "finite": finite,
        "finite_reference": finite_reference,
        "bitwise_equal": _same_bits(reference, device, found["error_squares"] == 0),
        "classes": np.stack([x["reference"][:, 0] for x in rankings], axis=1),
        "top1_match": np.all([x["top1"] for x in rankings], axis=0) & finite,
        "top5_same_order": np.all([x["order"] for x in rankings], axis=0) & finite,
        "top5_overlap": np.mean([x["overlap"] for x in rankings], axis=0) * finite,
        "margin": np.where(
            finite_reference, np.min([x["margin"] for x in rankings], axis=0), np.nan
        ),
        "reference_top5": best[0],
        "device_top5": best[1],
    }


def _finite(
    reference: NDArray[Any], device: NDArray[Any], error_sum: Floats
) -> Iterator[NDArray[np.bool_]]:
    """Yield for each side which inputs are finite. Only one with a finite sum |d - r| surely is."""
    unsure = ~np.isfinite(error_sum)
    for side in (reference, device):
        found = ~unsure
        found[unsure] = np.isfinite(side[unsure]).all(axis=1)
        yield found


def _best(ranking: NDArray[np.intp], scores: Floats) -> NDArray[Any]:
    """Return the best columns of one side with their scores."""
    found = np.empty(ranking.shape, BEST)
    found["class"], found["score"] = ranking, np.take_along_axis(scores, ranking, axis=1)
    return found


def _same_bits(
    reference: NDArray[Any], device: NDArray[Any], close: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return which inputs have the same bits on both sides. Only those in `close` can."""
    found = close & (reference.dtype == device.dtype)
    sides = (np.ascontiguousarray(side[found]) for side in (reference, device))
    r, d = (side.view(f"u{side.itemsize}") for side in sides)
    found[found] = (r == d).all(axis=1)
    return found


def _errors(r: Floats, d: Floats, error: Floats) -> dict[str, Floats]:
    """Return the errors of each input.

    Args:
        r, d: the reference and the device.
        error: d - r. It becomes |d - r|.
    """
    squares, along, of_r = _dots(error, error), _dots(r, error), _dots(r, r)
    one_minus_cosine = _one_minus_cosine(r, d, along, squares, of_r)
    np.abs(error, out=error)
    return {
        "max_abs_error": error.max(axis=1),
        "relative_l2_error": _ratio(np.sqrt(squares), np.sqrt(of_r)),
        "cosine_similarity": 1 - one_minus_cosine,
        "one_minus_cosine": one_minus_cosine,
        "error_sum": error.sum(axis=1),
        "error_squares": squares,
        "size_squares": of_r,
    }


def _dots(a: Floats, b: Floats) -> Floats:
    """Return the scalar product of each pair of rows.

    einsum adds one product after another. Sums of parts of a row keep its error small, as the sum
    of NumPy does. BLAS would be quicker, but its kernels differ from machine to machine.
    """
    parts = [slice(start, start + _PART) for start in range(0, a.shape[1], _PART)]
    sums: Floats = np.sum([np.einsum("ij,ij->i", a[:, p], b[:, p]) for p in parts], axis=0)
    return sums


# What _errors returns, and which of it is a metric of each input.
_OF_INPUTS = ("max_abs_error", "relative_l2_error", "cosine_similarity", "one_minus_cosine")
_SUMS = (
    *_OF_INPUTS,
    *("max_relative_error", "error_sum", "error_squares", "size_sum", "size_squares"),
)


def _overall(rows: Mapping[str, Floats], width: int, kind: str) -> dict[str, float | None]:
    """Return the error metrics over all inputs, from what `_errors` returns of each."""
    values = len(rows["error_sum"]) * width
    l2_error, size = (np.sqrt(rows[key].sum()) for key in ("error_squares", "size_squares"))
    one_minus_cosine = rows["one_minus_cosine"]
    figures = {
        "max_abs_error": rows["max_abs_error"].max(),
        "mean_abs_error": rows["error_sum"].sum() / values,
        "max_relative_error": rows["max_relative_error"].max(),
        "mean_relative_error": _ratio(rows["error_sum"].sum(), rows["size_sum"].sum()),
        "l2_error": l2_error,
        "relative_l2_error": _ratio(l2_error, size),
        "relative_l2_error_max": rows["relative_l2_error"].max(),
        "cosine_similarity": 1 - one_minus_cosine.mean(),
        "cosine_similarity_min": 1 - one_minus_cosine.max(),
        "one_minus_cosine": one_minus_cosine.mean(),
        "one_minus_cosine_max": one_minus_cosine.max(),
    }
    return {f"{kind}{key}": _number(value) for key, value in figures.items()}


def _one_minus_cosine(r: Floats, d: Floats, along: Floats, squares: Floats, of_r: Floats) -> Floats:
    """Return 1 - cos of each pair of rows, from the law of cosines.

    1 minus a rounded cosine cannot resolve values below 1e-16. Here the error is about 1e-16 times
    the square of the relative L2 error. Where d - r is almost along r, or d is much smaller than r,
    too few digits are left: the result is ½‖u - v‖² of unit vectors, which resolves about 1e-32.

    Args:
        r, d: the rows.
        along: r · (d - r).
        squares: ‖d - r‖².
        of_r: ‖r‖².
    """
    growth = 2 * along + squares  # ‖d‖² - ‖r‖²
    of_d = of_r + growth
    size_of_r, size_of_d = np.sqrt([of_r, of_d])
    across = squares - np.square(growth / (size_of_r + size_of_d))
    found: Floats = across / (2 * size_of_r * size_of_d)
    # No comparison with NaN is true, so those rows are lost, too.
    lost = ~((across >= _CANCELLED * squares) & (of_d >= _CANCELLED * of_r))
    if lost.any():
        units = (side / np.sqrt(_dots(side, side))[:, None] for side in (r[lost], d[lost]))
        found[lost] = 0.5 * np.square(np.subtract(*units)).sum(axis=1)
    return found


def _ranking(r: Floats, d: Floats) -> dict[str, NDArray[Any]]:
    """Compare the top five columns of one head (all if fewer), input by input.

    An input that is not finite on either side gets any result.
    """
    k = min(5, r.shape[1])
    reference, device = _largest(r, k), _largest(d, k)
    same = reference == device
    best = np.take_along_axis(r, reference, axis=1).astype(np.float64)
    return {
        "reference": reference,
        "device": device,
        "top1": same[:, 0],
        "order": same.all(axis=1),
        "overlap": (reference[:, :, None] == device[:, None, :]).any(axis=2).mean(axis=1),
        "margin": best[:, 0] - best[:, 1] if k > 1 else np.full(len(r), np.nan),
    }


def _largest(values: NDArray[Any], k: int) -> NDArray[np.intp]:
    """Return the columns of the k largest values of each row; in a tie, the lower first."""
    left, rows = values.copy(), np.arange(len(values))
    found = np.empty((len(values), k), np.intp)
    for rank in range(k):
        found[:, rank] = best = left.argmax(axis=1)
        left[rows, best] = -np.inf
    return found


def _softmax(logits: Floats, heads: Sequence[slice]) -> tuple[Floats, Floats]:
    """Return softmax of each head of (inputs, columns), and what it subtracts from the logits.

    Those are the maximum and the logarithm of the sum: (2, heads, inputs). log softmax is a logit
    minus both.
    """
    shares, subtracted = np.empty_like(logits), np.empty((2, len(heads), len(logits)))
    for number, head in enumerate(heads):
        powers, largest = shares[:, head], logits[:, head].max(axis=1, keepdims=True)
        largest[np.abs(largest) <= _SMALL] = 0  # then there is nothing to subtract
        shifted = logits[:, head]
        if largest.any():
            shifted = np.subtract(shifted, largest, out=powers)
        np.exp(shifted, out=powers)
        total = powers.sum(axis=1, keepdims=True)
        powers /= total
        subtracted[:, number] = largest[:, 0], np.log(total[:, 0])
    return shares, subtracted


def best_share(logits: NDArray[Any]) -> Floats:
    """Return the largest softmax probability of each row of (rows, classes)."""
    found = np.empty(len(logits))
    for block in blocks(*logits.shape):
        shifted = logits[block].astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        found[block] = 1 / np.exp(shifted, out=shifted).sum(axis=1)
    return found


def _ratio(error: ArrayLike, size: ArrayLike) -> Floats:
    """Return error / size, with 0/0 = 0."""
    return np.where(np.equal(error, 0), 0.0, np.divide(error, size))


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else float(np.mean(np.array(values, dtype=float)))


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
