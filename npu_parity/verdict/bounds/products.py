"""Convolutions and matrix products: sums of products of rounded operands, and their bounds."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor

from npu_parity.backends.device import Device
from npu_parity.numerics.formats import FORMATS, ROUNDINGS, Format
from npu_parity.numerics.rounding import round_to
from npu_parity.verdict.blocks import Index, blocks, within
from npu_parity.verdict.bounds.arithmetic import TINY, U
from npu_parity.verdict.bounds.rules import Operator, bound, largest, smallest

# Names of the two factors and of the summand.
PRODUCTS = {
    **dict.fromkeys(("convolution", "_convolution"), ("input", "weight", "bias")),
    **dict.fromkeys(("mm", "bmm"), ("self", "mat2", None)),
    "mv": ("self", "vec", None),
    "dot": ("self", "tensor", None),
    "addmm": ("mat1", "mat2", "self"),
    "addmv": ("mat", "vec", "self"),
    **dict.fromkeys(("addbmm", "baddbmm"), ("batch1", "batch2", "self")),
}


@bound(*PRODUCTS)
def _products(operator: Operator, exact: Tensor) -> Tensor:
    """(2u + u²) |x| ∗ |w| + (n + 1) U ((1 + u)² |x| ∗ |w| + |bias|), Higham, sections 3.1 and 3.5.

    u is the unit roundoff of the format to which the device rounds both operands, or twice that if
    the device rounds toward zero. The formula is the same for float32, which needs no rounding. If
    a format rounds small numbers to a fixed distance, this distance replaces u times the number.
    """
    product = Product(operator, exact)
    operator.note, operator.product = product.note, product
    bound = torch.empty_like(exact)
    for index in blocks(exact.shape):
        bound[index] = product.part(index).bound
    return bound


class Product:
    """A convolution or matrix product in float64, and how far a device's result may be from it.

    Only the product itself needs float64. Magnitudes and the effect of rounded operands
    are computed in float32, which is faster. The bounds include the errors of this.

    Attributes:
        exact: the exact result, float64.
        terms: the number of products in each element.
        added: the summand (the bias), float64, of a shape that broadcasts to the result's.
        form: the format to which the device rounds the operands.
        smallest: the smallest magnitude above zero of both operands.
        note: explains a possible failure.
    """

    def __init__(self, operator: Operator, exact: Tensor):
        self.operator, self.exact, self.note = operator, exact, ""
        self.first, self.second, self._summand = PRODUCTS[operator.name]
        self.x, self.w = (operator.narrow[k].float() for k in (self.first, self.second))
        self._alpha = float(operator.arguments.get("alpha", 1))
        self.added = self._added()
        self.form, u, distance, limit = _rounding(operator)
        scaled = any(operator.arguments.get(name, 1) != 1 for name in ("alpha", "beta"))
        self.terms = _terms(operator, self.x, self.w)
        self.roundings = self.terms + 2 * scaled  # float32 rounds a scale, and the product with it
        x, w = self.x.abs(), self.w.abs()
        self.smallest = min(smallest(self.x), smallest(self.w))
        if max(largest(self.x), largest(self.w)) > limit:
            self.note = f"an operand exceeds {limit:g}, the largest number of the format"

        def rounding(x: Tensor) -> Tensor:
            return (x * u).clamp(min=distance).mul_(x > 0)

        self.magnitude = self.change = self._float32(x, w)
        self.factor = 2 * u + u**2
        if self.smallest < distance / u:
            dx, dw = rounding(x), rounding(w)
            self.change = self._float32(dx, w + dw) + self._float32(x, dw)
            self.factor = 1.0
        self.flushed: Tensor | None = None
        if self.smallest < TINY:  # devices may flush such operands to zero
            dx, dw = (2 * TINY * ((t > 0) & (t < TINY)) for t in (x, w))
            self.flushed = self._float32(dx, 2 * w).double() + self._float32(2 * x, dw)

    def part(self, index: Index | EllipsisType = ...) -> "Part":
        """Return a part of the result with its bounds; by default all of it."""
        magnitude = change = self.magnitude[index].double()
        if self.change is not self.magnitude:
            change = self.change[index].double()
        flushed = None if self.flushed is None else self.flushed[index]
        added = self.added if index is ... else within(self.added, index, self.exact.ndim)
        return Part(self, self.exact[index], added, magnitude, change, flushed)

    def predicted(self) -> Iterator[tuple[str, Tensor | None]]:
        """Yield the effect of operands in the promised format, then of other accepted operands.

        A device may round ties differently, and it may use a better format than it promises. The
        same operands appear only once, and not at all if one exceeds the range of the format.

        Yields:
            The name of the format, and the exact product minus the product of rounded operands;
            None if rounding changes nothing.
        """
        rounding = self.operator.numerics.rounding
        names = [(self.form.name, r) for r in (rounding, *ROUNDINGS[:2])]
        names += [("fp32", "nearest_even")]
        names += [(f.name, "nearest_even") for f in FORMATS.values() if _better(f, self.form)]
        seen: list[tuple[Tensor, Tensor]] = []
        for name, rounding in dict.fromkeys(names):
            x, w = (round_to(t, name, rounding) for t in (self.x, self.w))
            if not (_finite(x) and _finite(w)):
                continue
            if not any(x.equal(a) and w.equal(b) for a, b in seen):
                seen.append((x, w))
                yield name, self._lost(x, w)

    def _lost(self, x: Tensor, w: Tensor) -> Tensor | None:
        """Return the product of the operands minus the product of the rounded operands x and w.

        Both differences of operands are exact in float32. They are small, so the errors of these
        products are small, too: n U times the change of the result by rounding.
        """
        lost = []
        if x is not self.x and not x.equal(self.x):
            lost.append(self._float32(self.x - x, self.w))
        if w is not self.w and not w.equal(self.w):
            lost.append(self._float32(x, self.w - w))
        return math.copysign(1, self._alpha) * sum(lost[1:], lost[0]).double() if lost else None

    def _float32(self, x: Tensor, w: Tensor) -> Tensor:
        """Return |alpha| x ∗ w in float32, or in float64 after an overflow."""
        for dtype in (torch.float32, torch.float64):
            changed: dict[str, Any] = {self.first: x.to(dtype), self.second: w.to(dtype)}
            if self._summand == "bias":
                changed["bias"] = None
            elif self._summand:
                summand = self.operator[self._summand].to(dtype)
                changed |= {self._summand: summand, "beta": 0, "alpha": abs(self._alpha)}
            with _plain():
                result: Tensor = self.operator.run(**changed)
            if _finite(result):
                break
        return result

    def _added(self) -> Tensor:
        if self._summand is None or self.operator[self._summand] is None:
            return self.exact.new_zeros(())
        added: Tensor = self.operator[self._summand]
        if self._summand == "bias":
            return added.view(-1, *[1] * (self.w.ndim - 2))
        return added * float(self.operator["beta"])


@dataclass(frozen=True, eq=False)
class Part:
    """A part of the result of a product, and how far a device's result may be from it.

    Attributes:
        product: the whole.
        exact: as of the product, float64 of the part's shape.
        added: as of the product, of a shape that broadcasts to the part's.
    """

    product: Product
    exact: Tensor
    added: Tensor
    _magnitude: Tensor
    _change: Tensor
    _flushed: Tensor | None

    @property
    def error(self) -> float:
        """The relative error of `magnitude`: all its terms are positive."""
        return (self.product.roundings + 2) * U

    @property
    def magnitude(self) -> Tensor:
        """The product of the magnitudes of the operands, computed in float32."""
        return self._magnitude

    @property
    def partial(self) -> Tensor:
        """No partial sum of rounded operands and the summand exceeds this."""
        return self._sum(1, 1)

    @property
    def bound(self) -> Tensor:
        """The largest error of the result in the worst case."""
        return self._sum(self._share, 1 + self._share)

    @property
    def sums(self) -> Tensor:
        """The largest error by the float32 sum alone, if rounded operands are predicted."""
        # `predicted` has the errors of two float32 products, which are as small as the change.
        sums = self._sum(self._share, 2 * self._share)
        return sums if self._flushed is None else sums.add_(self._flushed)

    def _sum(self, of_sum: float, of_change: float) -> Tensor:
        """Return shares of the product of magnitudes with the summand, and of the change.

        The change is the largest effect of rounded operands. Each rounding may also lose `TINY`,
        and so may those of two more products.
        """
        of_magnitude = of_sum * (1 + self.error)
        of_change *= (1 + self.error) * self.product.factor
        small = self.added.abs().add(3 * TINY / U).mul(of_sum)
        if self._change is self._magnitude:
            return torch.add(small, self._magnitude, alpha=of_magnitude + of_change)
        total = torch.add(small, self._magnitude, alpha=of_magnitude)
        return total.add_(self._change, alpha=of_change)

    @property
    def _share(self) -> float:
        """The largest error of a float32 sum of positive terms, relative to the sum."""
        return (self.product.roundings + 1) * U


def _finite(x: Tensor) -> bool:
    """Return whether all values are finite, or not if their sum overflows. It needs one pass."""
    return math.isfinite(x.sum())


@contextmanager
def _plain() -> Iterator[None]:
    """Make this CPU compute float32 products as sums of float32 products."""
    with Device("cpu").configured(), torch.backends.nnpack.flags(enabled=False):
        yield


def _better(form: Format, promised: Format) -> bool:
    """Return whether a format has at least the bits and the range of another."""
    return (
        form.mantissa_bits >= promised.mantissa_bits
        and form.exponent_bits >= promised.exponent_bits
    )


def _rounding(operator: Operator) -> tuple[Format, float, float, float]:
    """Return a format, its unit roundoff, its rounding distance of small numbers, its largest."""
    numerics = operator.numerics
    name = numerics.matmul
    if "groups" in operator.arguments:
        groups = operator["groups"]
        depthwise = groups > 1 and groups == operator["input"].shape[1]
        name = (depthwise and numerics.depthwise_conv) or numerics.conv
    form = FORMATS[name]
    u = form.unit_roundoff * (2 if numerics.rounding == "toward_zero" else 1)
    bias = 2 ** (form.exponent_bits - 1) - 1
    largest = (2 - 2.0**-form.mantissa_bits) * 2.0**bias
    return form, u, max(u * 2.0 ** (1 - bias), TINY), largest


def _terms(operator: Operator, x: Tensor, w: Tensor) -> int:
    if operator.name in ("convolution", "_convolution"):
        inputs = w.shape[0] // operator["groups"] if operator["transposed"] else w.shape[1]
        return inputs * math.prod(w.shape[2:])
    return x.shape[-1] * (x.shape[0] if operator.name == "addbmm" else 1)
