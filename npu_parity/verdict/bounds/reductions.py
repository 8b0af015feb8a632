"""Bounds of sums, means, pooling, norms, interpolation and softmax."""

import math

import torch
from torch import Tensor

from npu_parity.verdict.bounds.arithmetic import FUNCTION, ROOT, TINY, U
from npu_parity.verdict.bounds.rules import Operator, bound


@bound("sum", "mean", "cumsum")
def _sums(operator: Operator, exact: Tensor) -> Tensor:
    """(n + 1) U Σ|x|, Higham, section 4.2, and the division of a mean."""
    x = operator["self"]
    n = x.shape[operator["dim"]] if operator.name == "cumsum" else x.numel() // exact.numel()
    return (n + 1) * (U * operator.magnitude() + TINY)


@bound("avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "col2im")
def _windows(operator: Operator, exact: Tensor) -> Tensor:
    """As of sums, of the n terms of the largest window; a division, or a product with 1/n."""
    if "kernel_size" in operator.arguments:
        sides = operator["kernel_size"]
        n = math.prod(sides * 2 if len(sides) == 1 else sides)
    else:
        dims = len(operator["output_size"])
        pairs = zip(operator["self"].shape[-dims:], exact.shape[-dims:], strict=True)
        n = math.prod(-(-size // parts) + 1 for size, parts in pairs)
    return (n + 2) * (U * operator.magnitude() + TINY)


@bound("prod")
def _prod(operator: Operator, exact: Tensor) -> Tensor:
    """A product of n is rounded n - 1 times, each relative to it: Higham, lemma 3.1."""
    return (operator["self"].numel() // exact.numel()) * U * exact.abs() + TINY


@bound("linalg_vector_norm", "norm")
def _norms(operator: Operator, exact: Tensor) -> Tensor | None:
    """A sum of n non-negative terms is off by n U of itself; of squares by n + 1."""
    n = operator["self"].numel() // exact.numel()
    order = operator.arguments.get("ord", operator.arguments.get("p"))
    if order == 1:
        return n * (U * exact + TINY)
    if order in (None, 2):  # a root halves the relative error, and adds its own; squares underflow
        return ((n + 2) / 2 * U + ROOT) * exact + math.sqrt(n * TINY)
    return None


@bound("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d")
def _interpolation(operator: Operator, exact: Tensor) -> Tensor:
    """Few roundings, and positions that are off by 4U of the side, by which weights are off."""
    x = operator["self"]
    dims = tuple(range(2, x.ndim))
    sides = sum(x.shape[2:]) + sum(exact.shape[2:])
    largest = x.abs().amax(dims, keepdim=True)
    return 12 * U * operator.magnitude() + 4 * U * sides * 2 * largest + TINY


@bound("_softmax", "_safe_softmax", "_log_softmax", "logsumexp")
def _softmax(operator: Operator, exact: Tensor) -> Tensor:
    """exp(x - max) / Σ, its logarithm, or max + log Σ, with an exponential that is FUNCTION off.

    Its argument is rounded as a difference, and once more by way of exp2: both cost more the
    further x lies below the maximum (after Blanchard, Higham and Higham, IMA J. Numer. Anal. 41
    (2021) 2311, section 4).
    """
    x, dim = operator["self"], operator["dim"]
    if not isinstance(dim, int):
        (dim,) = dim
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
