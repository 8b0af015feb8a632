"""The error of an operator that stores its result in 16 bits."""

import torch
from torch import Tensor

from npu_parity.verdict.bounds.products import PRODUCTS
from npu_parity.verdict.bounds.rules import Operator

NARROW = (torch.float16, torch.bfloat16)


def stored(operator: Operator, exact: Tensor, bound: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the bound of a result that an operator computes in float32 and rounds to `dtype`.

    A computed value is at most |y| + bound. So rounding it changes it by at most u (|y| + bound),
    or the distance of two subnormal numbers (Higham, *Accuracy and Stability*, 2nd ed., section
    2.1). Some kernels also store a value before the last step: a product to which another kernel
    adds the bias, or the exponentials of softmax (torch on CPUs). Wider types add nothing, because
    the bound contains their rounding.

    Args:
        operator: the operator with float64 operands.
        exact: the exact result y, float64.
        bound: the bound of the operator in float32, float64.
        dtype: the dtype of the operator's result.
    """
    if dtype not in NARROW:
        return bound
    form = torch.finfo(dtype)
    u, distance = form.eps / 2, form.tiny * form.eps
    rounded = exact.abs() + bound
    summand = _summand(operator)
    if summand is not None:
        rounded = rounded + (exact - summand).abs() + bound
        distance *= 2
    elif operator.name in ("_softmax", "_safe_softmax"):  # the exponential, and the sum of all
        rounded = 3 * rounded
        distance *= 2
    return bound + u * rounded + distance


def _summand(operator: Operator) -> Tensor | None:
    """Return what a product adds; None for other operators."""
    name = PRODUCTS.get(operator.name, ("", "", None))[2]
    if name is None or operator[name] is None:
        return None
    summand: Tensor = operator[name]
    if name == "bias":
        return summand.view(-1, *[1] * (operator["weight"].ndim - 2))
    beta: float = operator["beta"]
    return summand * beta
