"""Errors, probabilities and rankings of each input: of each row of (inputs, columns).

`metrics` sums them up. Everything is in float64.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npu_parity.verdict.per_input import BEST
from npu_parity.verdict.rows import blocks

_PART = 2**10  # columns whose products are added one after another
_CANCELLED = 0.1  # of ‖d - r‖², the part across r; of ‖r‖², ‖d‖²
_SMALL = 50.0  # logits up to this overflow no sum of exponentials

Floats = NDArray[np.float64]

# What figures returns of each input, and which of it is a metric of each input.
OF_INPUTS = ("max_abs_error", "relative_l2_error", "cosine_similarity", "one_minus_cosine")
SUMS = (
    *OF_INPUTS,
    *("max_relative_error", "error_sum", "error_squares", "size_sum", "size_squares"),
)


@np.errstate(all="ignore")  # a thread has its own
def figures(
    reference: NDArray[Any], device: NDArray[Any], task: str, heads: list[slice]
) -> dict[str, NDArray[Any]]:
    """Return what the metrics need to know of each input; the first axis are the inputs."""
    rankings = [_ranking(reference[:, h], device[:, h]) for h in heads]
    r, d = reference.astype(np.float64), device.astype(np.float64)
    error = d - r
    found: dict[str, Floats] = {}
    scores: Sequence[Floats] = (r, d)
    if task not in ("features", "segmentation"):
        (p, subtracted), (q, subtracted_of_d) = (probabilities(side, heads) for side in (r, d))
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
        "relative_l2_error": ratio(np.sqrt(squares), np.sqrt(of_r)),
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
    reference, device = ranked(r, k), ranked(d, k)
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


def ranked(values: NDArray[Any], k: int) -> NDArray[np.intp]:
    """Return the columns of the k largest values of each row; in a tie, the lower first."""
    left, rows = values.copy(), np.arange(len(values))
    found = np.empty((len(values), k), np.intp)
    for rank in range(k):
        found[:, rank] = best = left.argmax(axis=1)
        left[rows, best] = -np.inf
    return found


def probabilities(logits: Floats, heads: Sequence[slice]) -> tuple[Floats, Floats]:
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


def ratio(error: ArrayLike, size: ArrayLike) -> Floats:
    """Return error / size, with 0/0 = 0."""
    return np.where(np.equal(error, 0), 0.0, np.divide(error, size))
