"""Parts of large tensors. Several steps on a part run in the cache of a processor.

The same steps on whole tensors read and write memory each time, which takes several times as long.
"""

import itertools
import math
import operator
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

SIZE = 2**16  # elements: eight arrays in float64 take 4 MB
Index = tuple[slice, ...]


def blocks(shape: Sequence[int]) -> Iterator[Index]:
    """Yield indices of consecutive parts, which cover a tensor of this shape once.

    A part has at most `SIZE` elements. An index of a broadcast tensor makes no copy.

    >>> list(blocks((2, 3)))
    [(slice(0, 2, None),)]
    """
    if 0 in shape:
        return
    axis = next((d for d in range(len(shape)) if math.prod(shape[d + 1 :]) <= SIZE), 0)
    if not shape:
        yield ()
        return
    step = max(1, SIZE // math.prod(shape[axis + 1 :]))
    for first in itertools.product(*map(range, shape[:axis])):
        start = tuple(slice(i, i + 1) for i in first)
        for i in range(0, shape[axis], step):
            yield *start, slice(i, min(i + step, shape[axis]))


def within(small: Tensor, index: Index, ndim: int) -> Tensor:
    """Return the part of a tensor that broadcasts to the indexed part of another.

    It has the dimensions of `small`, so that no step repeats equal values.

    Args:
        small: a tensor that broadcasts to the other one.
        index: a part of the other one, as `blocks` yields it.
        ndim: the number of dimensions of the other one.

    >>> within(torch.ones(3, 1), (slice(0, 1), slice(1, 2)), 3).shape
    torch.Size([1, 1])
    """
    every = (*index, *[slice(None)] * (ndim - len(index)))[ndim - small.ndim :]
    chosen = zip(small.shape, every, strict=True)
    return small[tuple(slice(None) if size == 1 else part for size, part in chosen)]


class Largest:
    """The largest value of all parts above zero, and its position in the whole tensor.

    NaN counts as infinity.

    >>> largest = Largest()
    >>> largest.update(torch.tensor([[1.0, 3.0]]), (slice(2, 3), slice(4, 6)))
    True
    >>> largest.value, largest.position
    (3.0, (2, 5))
    """

    def __init__(self) -> None:
        self.value = 0.0
        self._part: tuple[Tensor, Index] | None = None

    def update(self, values: Tensor, index: Index = ()) -> bool:
        """Add the values of a part, and return whether they have a larger value.

        Args:
            values: must not change later.
            index: where the part is; by default, the part is all of the tensor.
        """
        value = float(values.amax())
        if value <= self.value:
            return False
        self.value = math.inf if math.isnan(value) else value
        self._part = values, index
        return True

    @property
    def position(self) -> tuple[int, ...]:
        """Where the largest value is; empty if no value is above zero."""
        if self._part is None:
            return ()
        values, index = self._part
        within = map(int, torch.unravel_index(values.argmax(), values.shape))
        starts = itertools.chain((part.start for part in index), itertools.repeat(0))
        return tuple(map(operator.add, starts, within))
