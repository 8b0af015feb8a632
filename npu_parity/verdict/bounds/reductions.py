"""Bounds of sums, means, pooling, norms, interpolation and softmax."""

import math

import torch
from torch import Tensor

from npu_parity.verdict.bounds.arithmetic import FUNCTION, ROOT, TINY, U
from npu_parity.verdict.bounds.rules import Operator, bound


@bound("sum", "mean", "cumsum")
def _sums(operator: Operator, exact: Tensor) -> Tensor:
    """(n + 1) U times the sum or mean of |x| (Higham, section 4.2)."""
    x: Tensor = operator["self"]
    n = x.shape[operator["dim"]] if operator.name == "cumsum" else x.numel() // exact.numel()
    return (n + 1) * (U * operator.magnitude() + TINY)


@bound("avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "col2im")
def _windows(operator: Operator, exact: Tensor) -> Tensor:
    """(n + 2) U times the same operator on |x|, with n terms in the largest window.

    The device divides the sum by n or multiplies it by 1 / n.
    """
    if "kernel_size" in operator.arguments:
        sides = operator["kernel_size"]
        n: int = math.prod(sides * 2 if len(sides) == 1 else sides)
    else:
        dims = len(operator["output_size"])
        pairs = zip(operator["self"].shape[-dims:], exact.shape[-dims:], strict=True)
        n = math.prod(-(-size // parts) + 1 for size, parts in pairs)
    return (n + 2) * (U * operator.magnitude() + TINY)


@bound("prod")
def _prod(operator: Operator, exact: Tensor) -> Tensor:
    """For n factors n U |y|: the device rounds n - 1 times (Higham, lemma 3.1)."""
    n: int = operator["self"].numel() // exact.numel()
    return n * U * exact.abs() + TINY


@bound("linalg_vector_norm", "norm")
def _norms(operator: Operator, exact: Tensor) -> Tensor | None:
    """For the 1-norm n U |y|, for the 2-norm ((n + 2) / 2 · U + `ROOT`) |y|.

    A sum of n non-negative terms has the relative error n U, a sum of squares (n + 1) U.
    """
    n: int = operator["self"].numel() // exact.numel()
    order = operator.arguments.get("ord", operator.arguments.get("p"))
    if order == 1:
        return n * (U * exact + TINY)
    if order in (None, 2):  # the root halves the error and adds its own; squares may underflow
        return ((n + 2) / 2 * U + ROOT) * exact + math.sqrt(n * TINY)
    return None


@bound("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d")
def _interpolation(operator: Operator, exact: Tensor) -> Tensor:
    """12U times the interpolation of |x|, plus 8U max|x| times the sum of all side lengths.

    A position between two elements has an error of 4U times the side. The weights have the same.
    """
    x: Tensor = operator["self"]
    dims = tuple(range(2, x.ndim))
    sides = sum(x.shape[2:]) + sum(exact.shape[2:])
    largest = x.abs().amax(dims, keepdim=True)
    return 12 * U * operator.magnitude() + 4 * U * sides * 2 * largest + TINY


@bound("_softmax", "_safe_softmax", "_log_softmax", "logsumexp")
def _softmax(operator: Operator, exact: Tensor) -> Tensor:
    """The sum of the errors of exp, of its argument, of the sum, and of the division or logarithm.

    The device computes exp(x - max) / Σ, its logarithm, or max + log Σ. It rounds the difference
    x - max, and once more if it uses exp2. Both errors grow with the distance of x from the maximum
    (after Blanchard, Higham and Higham, IMA J. Numer. Anal. 41 (2021) 2311, section 4).
    """
    x: Tensor = operator["self"]
    dim: int = operator["dim"] if isinstance(operator["dim"], int) else operator["dim"][0]
    p = torch.softmax(x, dim)
    largest = x.amax(dim, keepdim=True)
    below = torch.where(p > 0, largest - x, 0.0)
    total = (p * below).sum(dim, keepdim=True) * 2 * U + FUNCTION + (x.shape[dim] + 2) * U
    if operator.name in ("_softmax", "_safe_softmax"):
        return exact * (2 * U * below + FUNCTION + total + ROOT) + TINY
    logarithm = torch.logsumexp(x - largest, dim, keepdim=True)
    error = total + FUNCTION * logarithm + 2 * U * largest.abs()
    if operator.name == "logsumexp":
        return error.view(exact.shape) + 2 * U * exact.abs() + TINY
    return error + 2 * U * (exact.abs() + x.abs()) + TINY
