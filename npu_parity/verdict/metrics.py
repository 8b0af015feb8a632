"""How far a device's outputs lie from the reference's: one dictionary of figures.

``compare`` returns what ``metrics.json`` holds. Everything is computed in float64, whatever the
outputs' precision. JSON knows no NaN and no infinity: a figure that is not finite is ``None``.

With reference r and device d, over all inputs and columns unless the name says otherwise:

- ``max_abs_error``, ``mean_abs_error``: of |d - r|, in the outputs' unit
- ``max_relative_error``: largest |d - r| / |r|, the componentwise relative error, and
  ``l2_error``, ``relative_l2_error``: ‖d - r‖₂ and ‖d - r‖₂ / ‖r‖₂, the normwise one (Higham,
  *Accuracy and Stability of Numerical Algorithms*, section 1.2); ``relative_l2_error_max`` is the
  largest over inputs
- ``mean_relative_error``: mean|d - r| / mean|r|
- ``cosine_similarity``, ``one_minus_cosine``: mean over inputs; ``_min``, ``_max`` the worst input
- ``prob_*``: the same of softmax probabilities
- ``top1_match``, ``top5_overlap``, ``top5_same_order``: shares; top-k of fewer than five columns
  takes all of them
- ``margin``: the reference's largest value minus its second largest
- ``distinct_top1``: how many classes the reference puts first
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npu_parity.errors import ParityError
from npu_parity.verdict.thresholds import Threshold

TASKS = ("classification", "features", "digits")
DIGITS = ("digit1", "digit2", "digit3", "digit4", "digit5")
MANY = Threshold(
    32,
    question=3,
    decides="values and more are asked whether they use fewer mantissa bits than the reference's",
    reason="As many end in a zero bit by chance once in 2^32.",
)
SYMBOLS = "0123456789_"  # class 10 is blank

Floats = NDArray[np.float64]


def compare(
    reference: ArrayLike,
    device: ArrayLike,
    task: str = "classification",
    heads: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Measure ``device`` against ``reference``.

    Parameters
    ----------
    reference, device
        Floating-point arrays of shape (inputs, columns), normally float32.
    task
        ``classification``: logits, the error figures also on softmax probabilities (``prob_``).
        ``features``: no probabilities. ``digits``: classification heads that spell a number.
    heads
        Ordered widths of the heads; they add up to ``columns``. Softmax and top-k are taken in
        each head; ``None`` is one head.

    Returns:
    -------
    dict
        Flat figures over all columns, ``heads`` (the same figures by head, where heads are
        given) and ``per_input`` (one dictionary an input). Shares are fractions of 1. With
        several heads ``top1_match`` and ``top5_same_order`` are the share of inputs on which
        every head agrees, ``top5_overlap`` is the mean and ``margin`` the smallest over heads,
        ``distinct_top1`` counts combinations.

        Relative figures take 0/0 as 0: a feature that is zero on both sides is no error. The
        cosine of a zero vector is ``None``. An input with NaN or infinity on either side is a
        mismatch, and every figure that includes it is ``None``.

    Raises:
    ------
    ParityError
        Shapes differ, are empty or not two-dimensional; values are not floating-point; the
        widths do not add up; the task is unknown, or ``digits`` without its heads.

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

    columns = _columns(heads or {"": reference.shape[1]}, reference.shape[1])
    with np.errstate(all="ignore"):  # what is not finite is reported as None
        figures, rows = _figures(reference, device, task, list(columns.values()))
        if task == "digits":
            figures["digits_match"] = _decode(reference, device, heads, rows)
        if heads:
            figures["heads"] = {
                name: _figures(reference[:, c], device[:, c], task, [slice(None)])[0]
                for name, c in columns.items()
            }
    figures["per_input"] = [
        dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)
    ]
    return figures


def worst_input(figures: Mapping[str, Any]) -> int:
    """Return the number of the input with the largest relative L2 error, of what `compare` found.

    One that is not finite counts as largest; of equal ones the first is taken.
    """
    errors = [one["relative_l2_error"] for one in figures["per_input"]]
    return int(np.argmax([np.inf if error is None else error for error in errors]))


def softmax(logits: ArrayLike) -> Floats:
    """Softmax over the last axis in float64, shifted by the maximum so that it cannot overflow."""
    powers = np.exp(_shifted(logits))
    return powers / powers.sum(axis=-1, keepdims=True)


def l2(values: ArrayLike) -> float:
    """Return ‖values‖₂ over all axes in float64, from sums in NumPy's own fixed order.

    ``numpy.linalg.norm`` leaves the sum to BLAS, whose kernels differ from machine to machine.
    """
    return float(np.sqrt(np.sum(np.square(np.asarray(values, dtype=np.float64)))))


def top_k(values: ArrayLike, k: int) -> NDArray[np.intp]:
    """Return the indices of the k largest values of the last axis; ties: the lower index first."""
    return np.argsort(-np.asarray(values), axis=-1, kind="stable")[..., :k]


def decode_digits(outputs: ArrayLike, heads: Mapping[str, int]) -> list[str]:
    """Spell the house number in each row of SVHN outputs.

    ``outputs`` has shape (inputs, columns). Head ``length`` says how many of ``digit1`` to
    ``digit5`` count (at most 5); class 10 is blank, shown as ``_``.

    Raises ``ParityError`` where a head is missing or a digit head is not 11 wide.
    """
    outputs = _outputs("digit", outputs)
    for name in DIGITS:
        if heads.get(name) != len(SYMBOLS):
            raise ParityError(f"head {name} has width {heads.get(name)}, expected {len(SYMBOLS)}")
    if "length" not in heads:
        raise ParityError(f"digit heads are {', '.join(heads)}, expected a head length")
    columns = _columns(heads, outputs.shape[1])
    lengths = outputs[:, columns["length"]].argmax(axis=1)
    digits = np.stack([outputs[:, columns[name]].argmax(axis=1) for name in DIGITS], axis=1)
    return [
        "".join(SYMBOLS[digit] for digit in row[:length])
        for row, length in zip(digits, lengths, strict=True)
    ]


def mantissa_bits(values: ArrayLike) -> int:
    """Return how many explicit mantissa bits of float32 any of the values makes use of, 0 to 23.

    float32 results of sums use all 23; values that were stored as float16 or bfloat16 on their
    way use at most 10 or 7. NaN and infinities are left out.
    """
    array = np.ascontiguousarray(values, dtype=np.float32)
    used = int(np.bitwise_or.reduce(array[np.isfinite(array)].view(np.uint32), initial=0))
    fraction = used & (2**23 - 1)
    return 23 - ((fraction & -fraction).bit_length() - 1) if fraction else 0


def coarsened(reference: ArrayLike, values: ArrayLike) -> str | None:
    """Return a finding where `MANY` values use fewer mantissa bits than the reference's do."""
    if np.size(values) < MANY:
        return None
    bits, expected = mantissa_bits(values), mantissa_bits(reference)
    if bits >= expected:
        return None
    return f"carry {bits} mantissa bits where the reference's carry {expected}"


def explained(measured: ArrayLike, predicted: ArrayLike, reference: ArrayLike) -> float | None:
    """Return the share of the measured difference that the prediction accounts for.

    1 - ‖measured - predicted‖² / ‖measured - reference‖², the coefficient of determination; 1
    is a perfect prediction, below 0 it is worse than none. ``None`` where nothing differs or a
    value is not finite. The arrays have one shape, else ``ParityError``.
    """
    m, p, r = (np.asarray(a, dtype=np.float64) for a in (measured, predicted, reference))
    if not m.shape == p.shape == r.shape:
        raise ParityError(
            f"measured, predicted and reference have shapes {m.shape}, {p.shape} and {r.shape}, "
            "expected the same"
        )
    with np.errstate(all="ignore"):
        return _number(1 - np.sum((m - p) ** 2) / np.sum((m - r) ** 2))


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


def _columns(heads: Mapping[str, int], width: int) -> dict[str, slice]:
    """Where each head lies in the columns."""
    if min(heads.values()) < 1 or sum(heads.values()) != width:
        raise ParityError(
            f"heads {dict(heads)} add up to {sum(heads.values())} columns, expected {width}, "
            "at least one each"
        )
    ends = np.cumsum(list(heads.values())).tolist()
    return {name: slice(end - heads[name], end) for name, end in zip(heads, ends, strict=True)}


def _figures(
    reference: NDArray, device: NDArray, task: str, heads: list[slice]
) -> tuple[dict[str, Any], dict[str, list]]:
    """Return the flat figures, and those by input as one list each."""
    r, d = _finite_rows(reference), _finite_rows(device)
    finite = ~np.isnan(r + d).any(axis=1)
    classifier = task != "features"

    figures, rows = _errors(r, d, _ratio(np.abs(d - r), np.abs(r)))
    if classifier:
        p, q = (np.hstack([softmax(a[:, h]) for h in heads]) for a in (r, d))
        # |q - p| / p from log-probabilities, because p may underflow.
        log_ratio = [_log_softmax(d[:, h]) - _log_softmax(r[:, h]) for h in heads]
        of_probabilities = _errors(p, q, np.abs(np.expm1(np.hstack(log_ratio))))
        for ours, theirs in zip((figures, rows), of_probabilities, strict=True):
            ours |= {f"prob_{key}": value for key, value in theirs.items()}

    rankings = [_ranking(r[:, h], d[:, h]) for h in heads]
    top1, same_order = (np.all([x[key] for x in rankings], 0) & finite for key in ("top1", "order"))
    overlap = np.mean([x["overlap"] for x in rankings], axis=0) * finite
    margin = np.min([x["margin"] for x in rankings], axis=0)
    classes = np.stack([x["reference"][:, 0] for x in rankings], axis=1)
    figures |= {
        "top1_match": top1.mean(),
        "top5_overlap": overlap.mean(),
        "top5_same_order": same_order.mean(),
        "margin_min": margin.min(),
    }
    rows |= {"margin": margin}
    figures = {key: _number(value) for key, value in figures.items()}
    rows = {key: [_number(value) for value in values] for key, values in rows.items()}
    rows["top1_match"] = top1.tolist()
    if len(heads) == 1:
        for side, values in (("reference", r), ("device", d)):
            scores = softmax(values) if classifier else values
            rows[f"{side}_top5"] = [
                [[int(i), float(s[i])] for i in best] if np.isfinite(s).all() else None
                for s, best in zip(scores, rankings[0][side], strict=True)
            ]
    counts = {
        "inputs": len(r),
        "columns": r.shape[1],
        "finite": bool(finite.all()),
        # Equal bits of two NaNs are not agreement.
        "bitwise_equal": bool(finite.all()) and reference.tobytes() == device.tobytes(),
        "distinct_top1": len(np.unique(classes[~np.isnan(r).any(axis=1)], axis=0)),
    }
    return counts | figures, rows


def _finite_rows(values: NDArray) -> Floats:
    """Return float64 values in which an input that is not wholly finite is NaN throughout.

    Softmax would turn -inf into an innocent 0.
    """
    values = values.astype(np.float64)
    values[~np.isfinite(values).all(axis=1)] = np.nan
    return values


def _errors(r: Floats, d: Floats, relative: Floats) -> tuple[dict[str, Any], dict[str, Floats]]:
    """Return the error figures over all and by input; ``relative`` is |d - r| / |r| by element."""
    error = np.abs(d - r)
    one_minus_cosine = _one_minus_cosine(r, d)
    relative_l2 = _ratio(_norm(error), _norm(r))[:, 0]
    overall = {
        "max_abs_error": error.max(),
        "mean_abs_error": error.mean(),
        "max_relative_error": relative.max(),
        "mean_relative_error": _ratio(error.mean(), np.abs(r).mean()),
        "l2_error": l2(error),
        "relative_l2_error": _ratio(l2(error), l2(r)),
        "relative_l2_error_max": relative_l2.max(),
        "cosine_similarity": 1 - one_minus_cosine.mean(),
        "cosine_similarity_min": 1 - one_minus_cosine.max(),
        "one_minus_cosine": one_minus_cosine.mean(),
        "one_minus_cosine_max": one_minus_cosine.max(),
    }
    by_input = {
        "max_abs_error": error.max(axis=1),
        "relative_l2_error": relative_l2,
        "cosine_similarity": 1 - one_minus_cosine,
        "one_minus_cosine": one_minus_cosine,
    }
    return overall, by_input


def _one_minus_cosine(r: Floats, d: Floats) -> Floats:
    """1 - cos of each row as ½‖u - v‖² of unit vectors, by the law of cosines.

    1 minus a rounded cosine knows nothing below 1e-16; here rounding costs about 1e-32.
    """
    return 0.5 * np.sum((d / _norm(d) - r / _norm(r)) ** 2, axis=1)


def _ranking(r: Floats, d: Floats) -> dict[str, NDArray]:
    """Compare the top five (or all, of fewer columns) of one head, input by input."""
    k = min(5, r.shape[1])
    reference, device = top_k(r, k), top_k(d, k)
    same = reference == device
    best = np.take_along_axis(r, reference, axis=1)
    return {
        "reference": reference,
        "device": device,
        "top1": same[:, 0],
        "order": same.all(axis=1),
        "overlap": (reference[:, :, None] == device[:, None, :]).any(axis=2).mean(axis=1),
        "margin": best[:, 0] - best[:, 1] if k > 1 else np.full(len(r), np.nan),
    }


def _decode(reference: NDArray, device: NDArray, heads: Mapping[str, int], rows: dict) -> float:
    """Add both sides' answers to the rows and return the share that agrees."""
    for side, outputs in (("reference", reference), ("device", device)):
        rows[f"{side}_answer"] = [
            answer if np.isfinite(row).all() else None
            for answer, row in zip(decode_digits(outputs, heads), outputs, strict=True)
        ]
    pairs = zip(rows["reference_answer"], rows["device_answer"], strict=True)
    return float(np.mean([a == b and a is not None for a, b in pairs]))


def _shifted(logits: ArrayLike) -> Floats:
    logits = np.asarray(logits, dtype=np.float64)
    return logits - logits.max(axis=-1, keepdims=True)


def _log_softmax(logits: ArrayLike) -> Floats:
    shifted = _shifted(logits)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _norm(values: Floats) -> Floats:
    return np.linalg.norm(values, axis=1, keepdims=True)


def _ratio(error: ArrayLike, size: ArrayLike) -> Floats:
    """Return error / size, with 0/0 = 0."""
    return np.where(np.equal(error, 0), 0.0, np.divide(error, size))


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
