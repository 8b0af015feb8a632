"""Where a port goes wrong inside, for `npu_parity.verdict.function`.

Operators of two programs have other names and another order. So results are compared by a few
numbers, which do not depend on the order of their elements.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from npu_parity.verdict import settings

U = 2.0**-24  # unit roundoff of float32
# A result inside a port agrees within the first of these times what rounding changes, and certainly
# differs beyond the second. They only find places.
_AGREES, _DIFFERS = 4.0, 8.0
# A result of the port that is farther away belongs to another operator.
_UNRELATED = 1e5
# In float64, equal results differ by less: only the order of sums differs.
_EXACT = 1e-11
_SAMPLES = 16  # values of an operand that show the order of its elements

Prints = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """One operator of a run in float64.

    Attributes:
        arguments: scalar arguments by name, in normal form.
        operands, results: see `print_of`.
        orders: see `order_of`, of each operand.
        sources: points that computed the operands.
    """

    module: str
    name: str
    arguments: dict[str, Any]
    operands: list[Prints]
    results: list[Prints]
    orders: list[tuple[torch.Size, Prints]]
    sources: frozenset[int]

    def __str__(self) -> str:
        """Return the operator and its place."""
        name = self.name.strip("_").removeprefix("native_")
        return f"{name} at {self.module}" if self.module else name


def real(t: Tensor) -> Tensor:
    """Return a tensor in float64, complex numbers as two."""
    return (torch.view_as_real(t.resolve_conj()) if t.is_complex() else t).double()


def print_of(tensor: Tensor) -> Prints:
    """Return numbers that tell tensors apart, but not the orders of their elements.

    So they are the same for channels first and channels last.
    """
    t = real(tensor.detach()).flatten()
    if not t.numel():
        return np.zeros(6)
    t = t.nan_to_num(0.0, 0.0, 0.0)
    least, most = t.aminmax()
    count = t.numel()
    means = t.mean(), t.norm(1) / count, t.norm() / count**0.5
    return np.array([count, *map(float, (*means, least, most))])


def order_of(tensor: Tensor) -> tuple[torch.Size, Prints]:
    """Return the shape and a few values in their order, which `print_of` does not show."""
    flat = tensor.detach().flatten()
    some = torch.linspace(0, len(flat) - 1, min(_SAMPLES, len(flat))).long()
    return tensor.shape, real(flat[some]).numpy()


class Sight:
    """Operators of two runs with the same results.

    Args:
        own: points of the reference.
        theirs: points of the port.
        moved: points of the reference with perturbed weights. They show how much a rounding changes
            each result.
    """

    @np.errstate(all="ignore")  # large numbers overflow
    def __init__(self, own: list[Point], theirs: list[Point], moved: list[list[Point]]):
        self.own, self.theirs = own, theirs
        self._prints = _firsts(own)
        changes = [np.abs(_firsts(run) - self._prints)[:, 1:] for run in moved]
        scale = _scale(self._prints)
        within = np.maximum(np.max(changes, axis=0), U * scale)
        # By chance, a number may change little. A mean of n changes as little as 1/sqrt(n).
        count = np.maximum(self._prints[:, :1], 1)
        largest = np.nan_to_num(within / scale).max(axis=1, keepdims=True)
        self._within = np.maximum(within, largest * scale / np.sqrt(count))

    def conflicts(self) -> Iterator[str]:
        """Yield settings that differ between operators of one name with the same operands.

        Another setting is right if the port has the reference's result all the same, because it
        arranges the operands or the result in another way.
        """
        pairs: dict[int, list[int]] = {
            i: [j for j, b in enumerate(self.theirs) if a.name == b.name and self._alike(i, j)]
            for i, a in enumerate(self.own)
            if a.name not in settings.FORMULAS and a.operands
        }
        taken = {
            j
            for i, found in pairs.items()
            for j in found
            if not list(_unequal(self.own[i], self.theirs[j]))
        }
        for i, found in pairs.items():
            if any(not list(_unequal(self.own[i], self.theirs[j])) for j in found):
                continue
            for j in [j for j in found if j not in taken][:1]:
                if self._arranged(i, j):
                    continue
                for name, a, b in _unequal(self.own[i], self.theirs[j]):
                    operator, _, _ = str(self.theirs[j]).partition(" at ")
                    place = self.own[i].module
                    where = f"at {place}" if place else "at the top level"
                    yield f"{operator} {name} {b} where the reference has {a}, {where}"

    @np.errstate(all="ignore")
    def _alike(self, i: int, j: int) -> bool:
        a, b = self.own[i], self.theirs[j]
        if [p[0] for p in a.operands] != [p[0] for p in b.operands]:
            return False
        scales = _scale(self._prints)
        shares = [(self._within[k] / scales[k]).max() for k in a.sources if scales[k].all()]
        within = _DIFFERS * max(shares, default=U)
        x, y = np.array(a.operands), np.array(b.operands)
        return bool((np.abs(x - y)[:, 1:] <= within * _scale(x)).all())

    @np.errstate(all="ignore")
    def _arranged(self, i: int, j: int) -> bool:
        """Return whether a setting of `j` differs because the port arranges values in another way.

        Then the port has exactly the result of `i`, in `j` or later. If even the operands and the
        result have the same arrangement, the setting only has no effect on this input.
        """
        a, b = self.own[i], self.theirs[j]
        if not (a.results and b.results):
            return False
        x, y = np.array(a.operands), np.array(b.operands)
        within = _AGREES * np.nan_to_num(np.abs(x - y)[:, 1:] / _scale(x)).max() + _EXACT

        def equal(found: Prints) -> bool:
            gap = np.abs(found - a.results[0])
            return bool((gap <= [0, *(within * _scale(a.results[0][None])[0])]).all())

        as_before = all(
            size == other and np.allclose(values, others, rtol=1e-3, atol=0)
            for (size, values), (other, others) in zip(a.orders, b.orders, strict=True)
        )
        if as_before and equal(b.results[0]):
            return False
        later = (p for point in self.theirs[j:] for p in (*point.results, *point.operands))
        return any(equal(found) for found in later)

    def place(self, ends: set[int], their_ends: set[int]) -> str:
        """Name the last operator that agrees and the first that does not.

        An operator is wrong if the other run does not have its result, nor any result between it
        and the outputs.
        """
        gaps = self._gaps()
        own = gaps.min(axis=1, initial=math.inf)
        wrong = _backwards(self.own, ends, own)
        wrong_theirs = _backwards(self.theirs, their_ends, gaps.min(axis=0, initial=math.inf))
        if not wrong:
            where = f"after {self.own[max(ends)]}" if ends else "at the top level"
            return f"the port has all results of the reference, the difference comes {where}"
        first = wrong[0]
        certain = next((i for i in wrong if own[i] > _DIFFERS), first)
        last = max(certain, self._merged(wrong, wrong_theirs))
        before = max(self.own[first].sources, default=None)
        agrees = f"results agree up to {self.own[before]}, " if before is not None else ""
        span = f"between {self.own[first]} and {self.own[last]}"
        return f"{agrees}the first different result is " + (
            span if last != first else str(self.own[first])
        )

    @np.errstate(all="ignore")
    def _gaps(self) -> Prints:
        """Return how far each result of the port is from each result of the reference.

        The unit is the change that rounding makes. The shape is (points, points of the port).
        """
        theirs = _firsts(self.theirs)
        gaps = np.full((len(self.own), len(theirs)), math.inf)
        for i, (own, within) in enumerate(zip(self._prints, self._within, strict=True)):
            alike = theirs[:, 0] == own[0]
            gap = np.abs(theirs[alike, 1:] - own[1:])
            gaps[i, alike] = np.where(gap == 0, 0, gap / within).max(axis=1)
        return gaps

    def _merged(self, wrong: list[int], theirs: list[int]) -> int:
        """Return the last operator that the port's first wrong operator may include.

        It is the one before the operator that follows in the port.
        """
        if len(theirs) > 1:
            following = self.theirs[theirs[1]].name
            for before, i in pairwise(wrong):
                if self.own[i].name == following:
                    return before
        return wrong[0]


def _backwards(points: list[Point], ends: set[int], gaps: Prints) -> list[int]:
    """Return the points that lead to the largest gap without one that agrees.

    A fault may be hidden again before the outputs. Then its largest gap replaces the outputs.
    """
    rest = [i for i in ends if gaps[i] > _DIFFERS]
    if not rest and len(points):
        rest = [int(np.where(gaps < _UNRELATED, gaps, 0).argmax())]
    wrong: set[int] = set()
    while rest:
        i = rest.pop()
        if i not in wrong and gaps[i] > _AGREES:
            wrong.add(i)
            rest += points[i].sources
    return sorted(wrong)


def _firsts(points: list[Point]) -> Prints:
    """Return the print of the first result of each point, (points, 6)."""
    return np.array([(p.results or [np.zeros(6)])[0] for p in points]).reshape(-1, 6)


def _scale(prints: Prints) -> Prints:
    """Return the magnitude of each number of prints, (points, 5). A mean may be near zero."""
    return np.hstack([prints[:, 3:4], np.abs(prints[:, 2:])])


def _unequal(a: Point, b: Point) -> Iterator[tuple[str, Any, Any]]:
    """Yield settings of two operators that differ, unless only a layout changes them."""
    for name in sorted(a.arguments.keys() & b.arguments.keys()):
        x, y = a.arguments[name], b.arguments[name]
        if settings.decides(a.name, name) and not settings.same(x, y):
            yield name, x, y
