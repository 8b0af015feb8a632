"""Bounds of convolutions and matrix products: sums of products of rounded operands."""

import math

from torch import Tensor

from npu_parity.numerics.formats import FORMATS
from npu_parity.verdict.bounds.arithmetic import TINY, U
from npu_parity.verdict.bounds.rules import Operator, bound

# Names of the two factors and of what is added to their product.
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

    u is that of the format to which the device rounds both operands, twice as large where it
    rounds toward zero; float32 is no exception, though nothing is rounded to it. Where a format
    rounds small numbers to a fixed distance, that distance takes the place of u times them.
    """
    first, second, added = PRODUCTS[operator.name]
    x, w = operator[first].abs(), operator[second].abs()
    u, distance, largest = _rounding(operator)
    if max(x.max(), w.max()) > largest:
        operator.note = f"an operand lies beyond {largest:g}, the largest number of the format"

    def product(x: Tensor, w: Tensor) -> Tensor:
        if added == "bias":
            return operator.run(**{first: x, second: w, added: None})
        scale = {} if added is None else {"beta": 0, "alpha": abs(operator["alpha"])}
        return operator.run(**{first: x, second: w, **scale})

    def small(x: Tensor) -> Tensor:
        return (x > 0) & (x * u < distance)

    def raised(x: Tensor) -> Tensor:
        return x + (x * u).clamp(min=distance) * (x > 0)

    magnitude = product(x, w)
    if small(x).any() or small(w).any():
        perturbed = product(raised(x), raised(w))
    else:
        perturbed = magnitude * (1 + u) ** 2
    n = _terms(operator, x, w)
    bias = _added(operator, added, exact)
    return perturbed - magnitude + (n + 1) * (U * (perturbed + bias) + TINY)


def _rounding(operator: Operator) -> tuple[float, float, float]:
    """Return unit roundoff, smallest error of a small operand and largest operand."""
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
    return u, max(u * 2.0 ** (1 - bias), TINY), largest


def _terms(operator: Operator, x: Tensor, w: Tensor) -> int:
    if operator.name in ("convolution", "_convolution"):
        inputs = w.shape[0] // operator["groups"] if operator["transposed"] else w.shape[1]
        return inputs * math.prod(w.shape[2:])
    return x.shape[-1] * (x.shape[0] if operator.name == "addbmm" else 1)


def _added(operator: Operator, added: str | None, exact: Tensor) -> Tensor | float:
    if added is None or operator[added] is None:
        return 0.0
    bias = operator[added].abs()
    if added == "bias":
        return bias.view(-1, *[1] * (operator["weight"].ndim - 2))
    return bias * abs(operator["beta"])
