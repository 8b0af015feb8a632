"""The metrics of each input: ``per_input`` in a result of `npu_parity.verdict.metrics.compare`."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Row = dict[str, Any]
Columns = dict[str, Sequence[Any] | NDArray[Any]]
BEST = np.dtype([("class", np.intp), ("score", np.float64)])
_TOGETHER = 256  # dictionaries that are made at once


class PerInput(Sequence[Row]):
    """A dictionary of metrics for each input, made when it is asked for.

    The dictionaries of many inputs take more memory than their arrays, and more time than the
    comparison. ``list(…)`` makes all of them.
    """

    def __init__(self, columns: Columns) -> None:
        """Keep the columns, which all have one entry for each input.

        Args:
            columns: lists, or arrays of numbers (inputs,), or of `BEST` (inputs, k), the k best
                classes. A number that is not finite becomes None, and so do the best classes if a
                score is not finite.
        """
        self._columns = columns

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    @overload
    def __getitem__(self, which: int) -> Row: ...
    @overload
    def __getitem__(self, which: slice) -> list[Row]: ...
    def __getitem__(self, which: int | slice) -> Row | list[Row]:
        if not isinstance(which, slice):
            number = range(len(self))[which]
            return self[number : number + 1][0]
        entries = zip(*(_entries(c[which]) for c in self._columns.values()), strict=True)
        return [dict(zip(self._columns, row, strict=True)) for row in entries]

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, len(self), _TOGETHER):
            yield from self[start : start + _TOGETHER]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    """Return numbers (inputs,) as a list; those that are not finite become None."""
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _entries(column: Sequence[Any] | NDArray[Any]) -> Sequence[Any]:
    if not isinstance(column, np.ndarray):
        return column
    if column.dtype == BEST:
        usable = np.isfinite(column["score"]).all(axis=1).tolist()
        rows = zip(usable, column.tolist(), strict=True)
        return [[list(one) for one in row] if fine else None for fine, row in rows]
    return _numbers(column) if column.dtype.kind == "f" else column.tolist()
