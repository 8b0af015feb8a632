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
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npu_parity.backends.machine import threads
from npu_parity.errors import ParityError
from npu_parity.verdict import digits, maps, rowwise
from npu_parity.verdict.per_input import Columns, PerInput
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
    return rowwise.probabilities(rows, [slice(None)])[0].reshape(values.shape)


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
    found = rowwise.ranked(given.reshape(-1, given.shape[-1]), min(k, given.shape[-1]))
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
        found = rowwise.figures(reference[block], device[block], task, heads)
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
        figures |= _overall({key: found[f"{kind}{key}"] for key in rowwise.SUMS}, width, kind)
    figures |= {
        "top1_match": float(found["top1_match"].mean()),
        "top5_overlap": float(found["top5_overlap"].mean()),
        "top5_same_order": float(found["top5_same_order"].mean()),
        "margin_min": _number(found["margin"].min()),
    }
    of_inputs = [f"{kind}{key}" for kind in kinds for key in rowwise.OF_INPUTS] + [
        "margin",
        "top1_match",
    ]
    if len(heads) == 1 and task != "segmentation":  # the five best pixels say nothing
        of_inputs += ["reference_top5", "device_top5"]
    return figures, {key: found[key] for key in of_inputs}


def _overall(rows: Mapping[str, Floats], width: int, kind: str) -> dict[str, float | None]:
    """Return the error metrics over all inputs, from `rowwise.figures` of each."""
    values = len(rows["error_sum"]) * width
    l2_error, size = (np.sqrt(rows[key].sum()) for key in ("error_squares", "size_squares"))
    one_minus_cosine = rows["one_minus_cosine"]
    figures = {
        "max_abs_error": rows["max_abs_error"].max(),
        "mean_abs_error": rows["error_sum"].sum() / values,
        "max_relative_error": rows["max_relative_error"].max(),
        "mean_relative_error": rowwise.ratio(rows["error_sum"].sum(), rows["size_sum"].sum()),
        "l2_error": l2_error,
        "relative_l2_error": rowwise.ratio(l2_error, size),
        "relative_l2_error_max": rows["relative_l2_error"].max(),
        "cosine_similarity": 1 - one_minus_cosine.mean(),
        "cosine_similarity_min": 1 - one_minus_cosine.max(),
        "one_minus_cosine": one_minus_cosine.mean(),
        "one_minus_cosine_max": one_minus_cosine.max(),
    }
    return {f"{kind}{key}": _number(value) for key, value in figures.items()}


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else float(np.mean(np.array(values, dtype=float)))


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
