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

import contextlib
import gc
import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npu_parity.backends.machine import threads
from npu_parity.errors import ParityError

TASKS = ("classification", "features", "digits", "segmentation")
DIGITS = ("digit1", "digit2", "digit3", "digit4", "digit5")
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
SYMBOLS = "0123456789_"  # class 10 is blank
_BLOCK = 2**17  # values that are compared at once: a megabyte in float64
_KEPT = 2**21  # values in float64: 16 megabytes
_THREADS = 8  # at most; each needs the memory of some blocks
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
        ``per_input`` (one dictionary for each input). Shares are fractions of 1. With several heads
        ``top1_match`` and ``top5_same_order`` are the share of inputs on which all heads agree,
        ``top5_overlap`` is the mean over heads, ``margin`` is the smallest over heads, and
        ``distinct_top1`` counts combinations.

        A relative error of 0/0 is 0. The cosine of a zero vector is ``None``. An input with NaN or
        infinity on either side is a mismatch, and every metric that includes it is ``None``.

    Raises:
        ParityError: shapes differ, are empty or not two-dimensional; values are not floating-point;
            the widths do not add up; the task is unknown, or ``digits`` has no heads.
    """
    reference, device = _outputs("reference", reference), _outputs("device", device)
    if reference.shape != device.shape:
        raise ParityError(
            f"device outputs have shape {device.shape}, expected the reference's {reference.shape}"
        )
    if task not in TASKS:
        raise ParityError(f"task is {task!r}, expected one of {', '.join(TASKS)}")
    if task == "digits" and not heads:
        raise ParityError("task digits has no heads, expected length and digit1 to digit5")

    by_head = columns(heads or {"": reference.shape[1]}, reference.shape[1])
    maps = {n: s for n, s in (shapes or {}).items() if len(s) > 1}
    if task == "segmentation" and not maps:
        raise ParityError(
            "task segmentation: found no dense map in the outputs, expected (inputs, classes, "
            "height, width)"
        )
    # Values that are not finite become None.
    with np.errstate(all="ignore"), _without_collections():
        figures, rows = _figures(reference, device, task, list(by_head.values()))
        if heads:
            if task == "digits":
                figures["digits_match"] = _decode(reference, device, heads, rows)
            figures["heads"] = {
                name: _figures(reference[:, c], device[:, c], task, [slice(None)])[0]
                for name, c in by_head.items()
            }
        if task == "segmentation":
            by_map = {
                n: _pixels(reference[:, by_head[n]], device[:, by_head[n]], s)
                for n, s in maps.items()
            }
            for key in ("pixel_agreement", "mean_iou"):
                figures[key] = _mean([found[key] for found in by_map.values()])
            for name in by_map.keys() & figures.get("heads", {}).keys():
                figures["heads"][name] |= by_map[name]
        figures["per_input"] = [
            dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)
        ]
    return figures


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Let Python look for no cycles inside: it takes longer than making millions of numbers."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def worst_input(figures: Mapping[str, Any]) -> int:
    """Return the number of the input with the largest relative L2 error in a result of `compare`.

    A value that is not finite counts as the largest. The first input is returned if several are
    equal or if nothing was compared.
    """
    errors = [one["relative_l2_error"] for one in figures.get("per_input", ())]
    return int(np.argmax([np.inf if error is None else error for error in errors or [0.0]]))


def softmax(logits: ArrayLike) -> Floats:
    """Return softmax over the last axis in float64, shifted by the maximum against overflow."""
    return _log_and_softmax(np.asarray(logits, dtype=np.float64))[1]


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
    left = given.reshape(-1, given.shape[-1]).copy()
    rows = np.arange(len(left))
    found = np.empty((len(left), min(k, left.shape[1])), np.intp)
    for rank in range(found.shape[1]):
        found[:, rank] = best = left.argmax(axis=1)
        left[rows, best] = -np.inf
    return found.reshape(*given.shape[:-1], found.shape[1])


def decode_digits(outputs: ArrayLike, heads: Mapping[str, int]) -> list[str]:
    """Spell the house number in each row of SVHN outputs.

    ``outputs`` has shape (inputs, columns). Head ``length`` gives the number of valid heads among
    ``digit1`` to ``digit5`` (at most 5). Class 10 is blank, shown as ``_``.

    Raises ``ParityError`` if a head is missing or a digit head does not have width 11.
    """
    outputs = _outputs("digit", outputs)
    for name in DIGITS:
        if heads.get(name) != len(SYMBOLS):
            raise ParityError(f"head {name} has width {heads.get(name)}, expected {len(SYMBOLS)}")
    if "length" not in heads:
        raise ParityError(f"digit heads are {', '.join(heads)}, expected a head length")
    by_head = columns(heads, outputs.shape[1])
    lengths = outputs[:, by_head["length"]].argmax(axis=1)
    digits = np.stack([outputs[:, by_head[name]].argmax(axis=1) for name in DIGITS], axis=1)
    return [
        "".join(SYMBOLS[digit] for digit in row[:length])
        for row, length in zip(digits, lengths, strict=True)
    ]


def places(outputs: NDArray[Any], shape: Sequence[int] | None) -> NDArray[Any]:
    """Return the scores of one head as (inputs, places, classes).

    Args:
        outputs: (inputs, columns).
        shape: (classes, height, width) of a dense map, whose pixels are the places. Any other head
            has one place.

    >>> places(np.arange(8).reshape(1, 8), (2, 2, 2)).tolist()
    [[[0, 4], [1, 5], [2, 6], [3, 7]]]
    """
    if shape is None or len(shape) < 2:
        return outputs[:, None, :]
    return outputs.reshape(len(outputs), shape[0], -1).swapaxes(1, 2)


def pixel_classes(scores: NDArray[Any]) -> NDArray[Any]:
    """Return the class of each place; scores are (..., classes). A single score has two classes.

    Its sign decides.
    """
    found: NDArray[Any] = scores.argmax(-1) if scores.shape[-1] > 1 else scores[..., 0] > 0
    return found


def _pixels(
    reference: NDArray[Any], device: NDArray[Any], shape: Sequence[int]
) -> dict[str, float | None]:
    """Compare the classes of the pixels of both sides of one dense map, (inputs, columns)."""
    counts = np.zeros((3, max(shape[0], 2)), np.int64)  # both sides, reference, device
    for block in blocks(*reference.shape):
        r, d = reference[block], device[block]
        if not (np.isfinite(r).all() and np.isfinite(d).all()):
            return {"pixel_agreement": None, "mean_iou": None}
        r, d = (pixel_classes(places(side, shape)) for side in (r, d))
        for count, classes in zip(counts, (r[r == d], r, d), strict=True):
            count += np.bincount(classes.ravel(), minlength=len(count))
    both, of_reference, of_device = counts
    seen = of_reference > 0  # classes of the device alone lower the others
    ious = both[seen] / (of_reference + of_device - both)[seen]
    return {
        "pixel_agreement": float(both.sum() / of_reference.sum()),
        "mean_iou": float(np.mean(ious)),
    }


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


def blocks(inputs: int, width: int) -> Iterator[slice]:
    """Yield the inputs in blocks that fit a processor's cache.

    >>> list(blocks(3, 2**16))
    [slice(0, 2, None), slice(2, 4, None)]
    """
    # After so much was freed once, glibc keeps the memory of a block for the next one. It takes
    # longer to get memory from the system than to compute.
    np.empty(_KEPT)
    length = max(1, _BLOCK // width)
    for start in range(0, inputs, length):
        yield slice(start, start + length)


def _outputs(name: str, values: ArrayLike) -> NDArray[np.floating]:
    array = np.asarray(values)
    if array.ndim != 2:
        raise ParityError(f"{name} outputs have shape {array.shape}, expected (inputs, columns)")
    if not array.size:
        raise ParityError(
            f"{name} outputs are empty: shape {array.shape}, expected at least (1, 1)"
        )
    if not np.issubdtype(array.dtype, np.floating):
        raise ParityError(f"{name} outputs are {array.dtype}, expected float32")
    return array


def columns(heads: Mapping[str, int], width: int) -> dict[str, slice]:
    """Return the columns of each head; ParityError if the widths of the heads do not fit."""
    if min(heads.values()) < 1 or sum(heads.values()) != width:
        raise ParityError(
            f"heads {dict(heads)} add up to {sum(heads.values())} columns, expected {width}, "
            "at least one each"
        )
    ends = np.cumsum(list(heads.values())).tolist()
    return {name: slice(end - heads[name], end) for name, end in zip(heads, ends, strict=True)}


def _figures(
    reference: NDArray[Any], device: NDArray[Any], task: str, heads: list[slice]
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Return the metrics over all inputs, and one list per metric with its value for each input.

    It reads block after block, so arrays on disk may be larger than the memory. Each thread works
    on a block of its own, so their number changes no value.
    """

    def rows_of(block: slice) -> dict[str, NDArray[Any]]:
        found = _rows(reference[block], device[block], task, heads)
        _forget(reference)
        _forget(device)
        return found

    with ThreadPoolExecutor(min(threads(), _THREADS)) as pool:
        parts = list(pool.map(rows_of, blocks(*reference.shape)))
    found = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    width, finite = reference.shape[1], found["finite"]
    kinds = [""] if task in ("features", "segmentation") else ["", "prob_"]
    figures = {
        "inputs": len(finite),
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
    of_inputs = [f"{kind}{key}" for kind in kinds for key in _OF_INPUTS] + ["margin"]
    rows: dict[str, list[Any]] = {key: _numbers(found[key]) for key in of_inputs}
    rows["top1_match"] = found["top1_match"].tolist()
    if len(heads) == 1 and task != "segmentation":  # the five best pixels say nothing
        for side in ("reference", "device"):
            best, scores = found[f"{side}_best"], found[f"{side}_scores"]
            pairs = np.empty((*best.shape, 2), dtype=object)  # a class is an int, its score a float
            pairs[..., 0], pairs[..., 1] = best, scores
            usable = np.isfinite(scores).all(axis=1).tolist()
            top5 = zip(usable, pairs.tolist(), strict=True)
            rows[f"{side}_top5"] = [one if fine else None for fine, one in top5]
    return figures, rows


@np.errstate(all="ignore")  # a thread has its own
def _rows(
    reference: NDArray[Any], device: NDArray[Any], task: str, heads: list[slice]
) -> dict[str, NDArray[Any]]:
    """Return what the metrics need to know of each input; the first axis are the inputs."""
    r, d = _finite_rows(reference), _finite_rows(device)
    finite_reference = ~np.isnan(r[:, 0])
    finite = finite_reference & ~np.isnan(d[:, 0])
    error = np.abs(d - r)
    found = _errors(r, d, error, _max_relative(error, r))
    scores: Sequence[Floats] = (r, d)
    if task not in ("features", "segmentation"):
        sides = [[_log_and_softmax(side[:, h]) for h in heads] for side in (r, d)]
        p, q = scores = [_joined([shares for _, shares in side]) for side in sides]
        # |q - p| / p from log-probabilities, because p may underflow. It grows with |log(q / p)|.
        ratios = [b - a for (a, _), (b, _) in zip(*sides, strict=True)]
        largest = np.max([ratio.max(axis=1) for ratio in ratios], axis=0)
        smallest = np.min([ratio.min(axis=1) for ratio in ratios], axis=0)
        relative = np.maximum(np.expm1(largest), -np.expm1(smallest))
        errors = _errors(p, q, np.abs(q - p), relative)
        found |= {f"prob_{key}": value for key, value in errors.items()}
    rankings = [_ranking(reference[:, h], device[:, h]) for h in heads]
    first = rankings[0]
    bits = [np.ascontiguousarray(s).view(f"u{s.dtype.itemsize}") for s in (reference, device)]
    same_type = reference.dtype == device.dtype
    return found | {
        "finite": finite,
        "finite_reference": finite_reference,
        "bitwise_equal": (
            (bits[0] == bits[1]).all(axis=1) if same_type else np.zeros(len(r), bool)
        ),
        "classes": np.stack([x["reference"][:, 0] for x in rankings], axis=1),
        "top1_match": np.all([x["top1"] for x in rankings], axis=0) & finite,
        "top5_same_order": np.all([x["order"] for x in rankings], axis=0) & finite,
        "top5_overlap": np.mean([x["overlap"] for x in rankings], axis=0) * finite,
        "margin": np.where(
            finite_reference, np.min([x["margin"] for x in rankings], axis=0), np.nan
        ),
        **{
            f"{side}_{key}": value
            for side, of_side in zip(("reference", "device"), scores, strict=True)
            for key, value in (
                ("best", first[side]),
                ("scores", np.take_along_axis(of_side[:, heads[0]], first[side], axis=1)),
            )
        },
    }


def _forget(array: NDArray[Any]) -> None:
    """Free the memory of what was read of an array on disk. It can be read again.

    The system would keep all of it for this process.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    # What a process has written into a private copy would be lost.
    if isinstance(base, mmap.mmap) and memoryview(base).readonly and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def _joined(parts: list[Floats]) -> Floats:
    return np.hstack(parts) if len(parts) > 1 else parts[0]


def _finite_rows(values: NDArray[Any]) -> Floats:
    """Return the values in float64, with NaN in all columns of an input that is not finite.

    Otherwise softmax would turn -inf into 0.
    """
    usable = np.isfinite(values).all(axis=1)
    values = values.astype(np.float64)
    values[~usable] = np.nan
    return values


def _max_relative(error: Floats, r: Floats) -> Floats:
    """Return the largest |d - r| / |r| of each input; `error` is |d - r|."""
    ratio = np.abs(r)
    np.divide(error, ratio, out=ratio)
    ratio[error == 0] = 0.0  # also 0/0
    largest: Floats = ratio.max(axis=1)
    return largest


def _errors(r: Floats, d: Floats, error: Floats, max_relative: Floats) -> dict[str, Floats]:
    """Return the errors of each input.

    Args:
        r, d: the reference and the device.
        error: |d - r|.
        max_relative: the largest |d - r| / |r| of each input.
    """
    squares, size = np.square(error).sum(axis=1), _norm(r)
    one_minus_cosine = _one_minus_cosine(r / size, d / _norm(d))
    return {
        "max_abs_error": error.max(axis=1),
        "max_relative_error": max_relative,
        "relative_l2_error": _ratio(np.sqrt(squares), size[:, 0]),
        "cosine_similarity": 1 - one_minus_cosine,
        "one_minus_cosine": one_minus_cosine,
        "error_sum": error.sum(axis=1),
        "error_squares": squares,
        "size_sum": np.abs(r).sum(axis=1),
        "size_squares": np.square(size[:, 0]),
    }


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


def _one_minus_cosine(u: Floats, v: Floats) -> Floats:
    """Return 1 - cos of each pair of unit rows, computed as ½‖u - v‖² (law of cosines).

    1 minus a rounded cosine cannot resolve values below 1e-16. This formula resolves about 1e-32.
    The values of `u` are lost.
    """
    u -= v
    squares: Floats = np.square(u, out=u).sum(axis=1)
    return 0.5 * squares


def _ranking(r: Floats, d: Floats) -> dict[str, NDArray[Any]]:
    """Compare the top five columns of one head (all if fewer), input by input.

    An input that is not finite on either side gets any result.
    """
    k = min(5, r.shape[1])
    reference, device = top_k(r, k), top_k(d, k)
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


def _decode(
    reference: NDArray[Any],
    device: NDArray[Any],
    heads: Mapping[str, int],
    rows: dict[str, list[Any]],
) -> float:
    """Add the decoded answers of both sides to the rows and return the share that agrees."""
    for side, outputs in (("reference", reference), ("device", device)):
        rows[f"{side}_answer"] = [
            answer if np.isfinite(row).all() else None
            for answer, row in zip(decode_digits(outputs, heads), outputs, strict=True)
        ]
    pairs = zip(rows["reference_answer"], rows["device_answer"], strict=True)
    return float(np.mean([a == b and a is not None for a, b in pairs]))


def _log_and_softmax(logits: Floats) -> tuple[Floats, Floats]:
    """Return the logarithms of softmax over the last axis, and softmax."""
    shifted: Floats = logits - logits.max(axis=-1, keepdims=True)
    powers = np.exp(shifted)
    total = powers.sum(axis=-1, keepdims=True)
    shifted -= np.log(total)
    powers /= total
    return shifted, powers


def best_share(logits: NDArray[Any]) -> Floats:
    """Return the largest softmax probability of each row of (rows, classes)."""
    found = np.empty(len(logits))
    for block in blocks(*logits.shape):
        shifted = logits[block].astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        found[block] = 1 / np.exp(shifted, out=shifted).sum(axis=1)
    return found


def _norm(values: Floats) -> Floats:
    norms: Floats = np.sqrt(np.square(values).sum(axis=1, keepdims=True))
    return norms


def _ratio(error: ArrayLike, size: ArrayLike) -> Floats:
    """Return error / size, with 0/0 = 0."""
    return np.where(np.equal(error, 0), 0.0, np.divide(error, size))


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else float(np.mean(np.array(values, dtype=float)))


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _numbers(values: Floats) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]
