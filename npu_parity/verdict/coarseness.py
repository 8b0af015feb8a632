"""Outputs with fewer bits, decimals or values than they should have."""

import numpy as np
from numpy.typing import ArrayLike

from npu_parity.verdict.thresholds import Threshold

MANY = Threshold(
    32,
    question=3,
    decides="An array is checked for missing mantissa bits, and for few decimals, if it has at "
    "least this many values.",
    reason="If mantissa bits are random, 32 values all end in a zero bit only once in 2^32. They "
    "all have few decimals only once in 16^32.",
)


def mantissa_bits(values: ArrayLike) -> int:
    """Return how many explicit mantissa bits of float32 the values use together, 0 to 23.

    float32 results of sums use all 23 bits. Values that were once stored as float16 or bfloat16 use
    at most 10 or 7 bits. NaN and infinities are ignored.
    """
    array = np.ascontiguousarray(values, dtype=np.float32)
    used = int(np.bitwise_or.reduce(array[np.isfinite(array)].view(np.uint32), initial=0))
    fraction = used & (2**23 - 1)
    return 23 - ((fraction & -fraction).bit_length() - 1) if fraction else 0


def decimals(values: ArrayLike) -> int | None:
    """Return how many decimals the values have together, 0 to 6; None if they have more.

    Values count only if float32 has at least 16 numbers between two numbers with so many decimals.
    The result is None if fewer than `MANY` values count, or if they are not finite.

    >>> decimals(np.arange(40, dtype=np.float32) / 8), decimals(np.float32(1) / np.arange(1, 40))
    (3, None)
    """
    array = np.asarray(values, dtype=np.float32).ravel()
    array = array[np.isfinite(array)]
    for count in range(7):
        fine = array[np.spacing(np.abs(array)) * 16 <= 10.0**-count]
        if len(fine) < MANY:
            return None
        for part in (fine[: int(MANY)], fine):  # a few values decide most cases
            if (np.round(part.astype(np.float64), count).astype(np.float32) != part).any():
                break
        else:
            return count
    return None


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
    kinds, others = (len(np.unique(array)) for array in (values, reference))
    if 2 * kinds < others:
        return f"take {kinds} values where the reference takes {others}"
    return None
