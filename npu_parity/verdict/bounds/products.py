"""Bounds of convolutions and matrix products: sums of products of rounded operands."""

import math
from typing import Any

from torch import Tensor

from npu_parity.numerics.formats import FORMATS
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
    first, second, added = PRODUCTS[operator.name]
    x, w = operator[first].abs(), operator[second].abs()
    u, distance, largest = _rounding(operator)
    if (x > largest).any() or (w > largest).any():
        operator.note = f"an operand exceeds {largest:g}, the largest number of the format"

    def product(x: Tensor, w: Tensor) -> Tensor:
        rest: dict[str, Any] = {}
        if added == "bias":
            rest = {added: None}
        elif added is not None:
            rest = {"beta": 0, "alpha": abs(operator["alpha"])}
        result: Tensor = operator.run(**{first: x, second: w, **rest})
        return result

    def small(x: Tensor) -> Tensor:
        return (x > 0) & (x * u < distance)

    def raised(x: Tensor) -> Tensor:
        return x + (x * u).clamp(min=distance) * (x > 0)

    magnitude = product(x, w)
    if small(x).any() or small(w).any():
        perturbed = product(raised(x), raised(w))
    else:
        perturbed = magnitude * (1 + u) ** 2
    scaled = any(operator.arguments.get(name, 1) != 1 for name in ("alpha", "beta"))
    n = _terms(operator, x, w) + 2 * scaled  # float32 rounds a scale, and the product with it
    bias = _added(operator, added, exact)
    return perturbed - magnitude + (n + 1) * (U * (perturbed + bias) + TINY)


def _rounding(operator: Operator) -> tuple[float, float, float]:
    """Return the format's unit roundoff, its rounding distance of small numbers, its largest."""
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
    bias: Tensor = operator[added].abs()
    if added == "bias":
        return bias.view(-1, *[1] * (operator["weight"].ndim - 2))
    beta: float = operator["beta"]
    return bias * abs(beta)
