"""Outputs with fewer bits, decimals or values than they should have."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npu_parity.verdict.rows import blocks
from npu_parity.verdict.thresholds import Threshold

MANY = Threshold(
    32,
    question=3,
    decides="An array is checked for missing mantissa bits, and for few decimals, if it has at "
    "least this many values.",
    reason="If mantissa bits are random, 32 values all end in a zero bit only once in 2^32. They "
    "all have few decimals only once in 16^32.",
)

FEW = 256  # values that decide most cases
MOST = 2**22  # values that are sorted to count the different ones

FRACTION = np.uint32(2**23 - 1)  # the bits of a float32 that are its mantissa


def mantissa_bits(values: ArrayLike) -> int:
    """Return how many explicit mantissa bits of float32 the values use together, 0 to 23.

    float32 results of sums use all 23 bits. Values that were once stored as float16 or bfloat16 use
    at most 10 or 7 bits. NaN and infinities are ignored.
    """
    array = np.ascontiguousarray(values, dtype=np.float32)
    used = int(np.bitwise_or.reduce(array[np.isfinite(array)].view(np.uint32), initial=0))
    fraction = used & int(FRACTION)
    return 23 - ((fraction & -fraction).bit_length() - 1) if fraction else 0


def decimals(values: ArrayLike) -> int | None:
    """Return how many decimals the values have together, 0 to 6; None if they have more.

    Values count only if float32 has at least 16 numbers between two numbers with so many decimals.
    The result is None if fewer than `MANY` values count, or if they are not finite.

    >>> decimals(np.arange(40, dtype=np.float32) / 8), decimals(np.float32(1) / np.arange(1, 40))
    (3, None)
    """
    array = np.asarray(values, dtype=np.float32).ravel()
    for count in range(7):
        for part in (array[:FEW], array):  # a few values decide most cases
            few = _have_decimals(part, count)
            if few is False:
                break
        if few is None:
            return None
        if few:
            return count
    return None


def _have_decimals(values: NDArray[np.float32], count: int) -> bool | None:
    """Return whether all values that count have so few decimals; None if too few count."""
    with np.errstate(invalid="ignore"):
        fine = values[np.spacing(np.abs(values)) * 16 <= 10.0**-count]  # all of them are finite
    if len(fine) < MANY:
        return None
    return bool((np.round(fine.astype(np.float64), count).astype(np.float32) == fine).all())


def coarsened(reference: ArrayLike, values: ArrayLike) -> str | None:
    """Return a finding if `MANY` or more values are coarser than the reference.

    They have fewer mantissa bits, fewer decimals, or less than half as many different values.
    """
    if np.size(values) < MANY:
        return None
    bits, expected = mantissa_bits(values), mantissa_bits(reference)
    if bits < expected:
        return f"use {bits} mantissa bits where the reference uses {expected}"
    found, own = decimals(values), decimals(reference)
    if found is not None and (own is None or found < own):
        return f"have {found} decimals where the reference has {'more' if own is None else own}"
    step = 1 + np.size(values) // MOST  # of very many values, every second or third
    a, b = (np.ravel(array)[::step] for array in (reference, values))
    kinds = len(np.unique(b))
    if 2 * kinds < a.size and 2 * kinds < (others := len(np.unique(a))):
        return f"take {kinds} values where the reference takes {others}"
    return None


def coarsened_row(reference: NDArray[Any], values: NDArray[Any]) -> tuple[int, str] | None:
    """Return the first row that is `coarsened`, and its finding.

    Args:
        reference, values: (rows, columns).
    """
    if values.shape[1] < MANY:
        return None
    for block in blocks(*values.shape):
        a, b = (np.asarray(array[block], dtype=np.float32) for array in (reference, values))
        for row in np.flatnonzero(_suspicious(a, b)):
            if found := coarsened(a[row], b[row]):
                return block.start + int(row), found
    return None


def _suspicious(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which rows of b may be coarser than those of a. It looks at all rows at once."""
    lost = _trailing_zeros(b) > _trailing_zeros(a)
    # Values with few decimals stay the same if they are rounded to more decimals.
    some = b[:, :FEW]
    with np.errstate(invalid="ignore"):
        counts = np.spacing(np.abs(some)) * 16 <= 1e-6
    rounded = np.round(some.astype(np.float64), 6).astype(np.float32)
    short = ~(counts & (rounded != some)).any(axis=1)
    ordered = np.sort(b, axis=1)
    kinds = 1 + (ordered[:, 1:] > ordered[:, :-1]).sum(axis=1)  # NaN come last
    found: NDArray[np.bool_] = lost | short | (2 * kinds < b.shape[1])
    return found


def _trailing_zeros(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Return the lowest mantissa bit that each row uses, as a power of two."""
    bits = np.where(np.isfinite(values), values.view(np.uint32), np.uint32(0))
    used = np.bitwise_or.reduce(bits, axis=1) & FRACTION
    lowest: NDArray[np.uint32] = used & (~used + np.uint32(1))
    return np.where(lowest, lowest, np.uint32(2**23))
