"""Convolutions and matrix products: sums of products of rounded operands, and their bounds."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from npu_parity.backends.device import Device
from npu_parity.numerics.formats import FORMATS, ROUNDINGS, Format
from npu_parity.numerics.rounding import round_to
from npu_parity.verdict.bounds.arithmetic import TINY, U
from npu_parity.verdict.bounds.rules import Operator, bound

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
    return product.bound


class Product:
    """A convolution or matrix product in float64, and how far a device's result may be from it.

    Only the product itself needs float64. Magnitudes and the effect of rounded operands
    are computed in float32, which is faster. The bounds include the errors of this.

    Attributes:
        exact: the exact result, float64.
        terms: the number of products in each element.
        added: the summand (the bias), float64, of a shape that broadcasts to the result's.
        form: the format to which the device rounds the operands.
        partial: no partial sum of rounded operands and the summand exceeds this.
        bound: the largest error of the result in the worst case.
        sums: the largest error of the result if it is compared with the product of the rounded
            operands. Only errors of the float32 sum remain.
        note: explains a possible failure.
    """

    def __init__(self, operator: Operator, exact: Tensor):
        self.operator, self.exact, self.note = operator, exact, ""
        self.first, self.second, self._summand = PRODUCTS[operator.name]
        self.x, self.w = operator[self.first].float(), operator[self.second].float()
        self._alpha = float(operator.arguments.get("alpha", 1))
        self.added = self._added()
        self.form, u, distance, largest = _rounding(operator)
        scaled = any(operator.arguments.get(name, 1) != 1 for name in ("alpha", "beta"))
        self.terms = _terms(operator, self.x, self.w)
        n = self.terms + 2 * scaled  # float32 rounds a scale, and the product with it
        x, w = self.x.abs(), self.w.abs()
        least = min(_least(x), _least(w))
        if (x > largest).any() or (w > largest).any():
            self.note = f"an operand exceeds {largest:g}, the largest number of the format"

        def rounding(x: Tensor) -> Tensor:
            return (x * u).clamp(min=distance).mul_(x > 0)

        error = 1 + (n + 2) * U  # of float32 itself, where all terms are positive
        self.magnitude = self._float32(x, w).mul_(error)
        operands, factor = self.magnitude, 2 * u + u**2
        if least < distance / u:
            dx, dw = rounding(x), rounding(w)
            operands = (self._float32(dx, w + dw) + self._float32(x, dw)).mul_(error)
            factor = 1.0
        # Each rounding may also lose `TINY`, and so may those of two more products.
        self.partial = torch.add(self.magnitude, operands, alpha=factor)
        self.partial += self.added.abs() + 3 * TINY / U
        sums = (n + 1) * U * self.partial
        self.bound = torch.add(sums, operands, alpha=factor)
        # `predicted` has the errors of two float32 products, which are as small as `operands`.
        self.sums = sums.add_(operands, alpha=factor * (n + 1) * U)
        if least < TINY:  # devices may flush such operands to zero
            flushed = (2 * TINY * ((t > 0) & (t < TINY)) for t in (x, w))
            self.sums += self._float32(next(flushed), 2 * w) + self._float32(2 * x, next(flushed))

    def predicted(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the product of operands in the promised format, then of other accepted operands.

        A device may round ties differently, and it may use a better format than it promises. A
        product appears only once, and not at all if an operand exceeds the range of the format.

        Yields:
            The name of the format and the float64 product.
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
                yield name, self.exact - self._lost(x, w)

    def _lost(self, x: Tensor, w: Tensor) -> Tensor | float:
        """Return the product of the operands minus the product of the rounded operands x and w.

        Both differences of operands are exact in float32. They are small, so the errors of these
        products are small, too: n U times the change of the result by rounding.
        """
        dx, dw = self.x - x, self.w - w
        lost: Tensor | float = 0.0
        for a, b in ((dx, self.w), (x, dw)):
            if a.any() and b.any():
                lost = lost + self._float32(a, b)
        return lost * math.copysign(1, self._alpha)

    def _float32(self, x: Tensor, w: Tensor) -> Tensor:
        """Return |alpha| x ∗ w as float64, computed in float32, or in float64 after an overflow."""
        for dtype in (torch.float32, torch.float64):
            changed: dict[str, Any] = {self.first: x.to(dtype), self.second: w.to(dtype)}
            if self._summand == "bias":
                changed["bias"] = None
            elif self._summand:
                summand = self.operator[self._summand].to(dtype)
                changed |= {self._summand: summand, "beta": 0, "alpha": abs(self._alpha)}
            with _plain():
                result: Tensor = self.operator.run(**changed).double()
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


def _finite(x: Tensor) -> bool:
    """Return whether all values are finite, or not if their sum overflows. It needs one pass."""
    return math.isfinite(x.sum())


def _least(magnitudes: Tensor) -> float:
    """Return the smallest number above zero; infinity if there is none."""
    return (
        float(magnitudes.where(magnitudes > 0, math.inf).min()) if magnitudes.numel() else math.inf
    )


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
