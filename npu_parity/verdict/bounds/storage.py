"""The error of an operator that stores its result in 16 bits."""

import torch
from torch import Tensor

COMPUTED = (torch.float32, torch.float16, torch.bfloat16)  # dtypes of results that have a bound


def stored(exact: Tensor, bound: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the bound of a result that an operator computes in float32 and rounds once to `dtype`.

    A computed value is at most |y| + bound. So rounding it changes it by at most u (|y| + bound),
    or the distance of two subnormal numbers (Higham, *Accuracy and Stability*, 2nd ed., section
    2.1). Float32 adds nothing, because the bound contains its rounding.

    Args:
        exact: the exact result y, float64.
        bound: the bound of the operator in float32, float64.
        dtype: the dtype of the operator's result.
    """
    if dtype == torch.float32:
        return bound
    form = torch.finfo(dtype)
    u, distance = form.eps / 2, form.tiny * form.eps
    return bound + u * (exact.abs() + bound) + distance
