"""Outputs as arrays of (inputs, columns): checked, by head, and in blocks.

An array on disk may be larger than the memory, and a block fits the cache of a processor.
"""

import mmap
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npu_parity.errors import ParityError

_BLOCK = 2**17  # values: a megabyte in float64
_KEPT = 2**21  # values in float64: 16 megabytes


def checked(name: str, values: ArrayLike) -> NDArray[np.floating]:
    """Return floating-point outputs (inputs, columns) as an array; ParityError if they are not.

    ``name`` is whose they are, for the message.
    """
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


def blocks(inputs: int, width: int, values: int = _BLOCK) -> Iterator[slice]:
    """Yield the inputs in blocks of so many values, by default as many as fit a processor's cache.

    >>> list(blocks(3, 2**16))
    [slice(0, 2, None), slice(2, 4, None)]
    """
    # After so much was freed once, glibc keeps the memory of a block for the next one. It takes
    # longer to get memory from the system than to compute.
    np.empty(_KEPT)
    length = max(1, values // width)
    for start in range(0, inputs, length):
        yield slice(start, start + length)


def forget(array: NDArray[Any]) -> None:
    """Free the memory of what was read of an array on disk. It can be read again.

    The system would keep all of it for this process.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    # What a process has written into a private copy would be lost.
    if isinstance(base, mmap.mmap) and memoryview(base).readonly and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
