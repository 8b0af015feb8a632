"""Bounds of batch, layer, group and RMS norm, and of variances."""

import math
from typing import Any

import torch
from torch import Tensor

from npu_parity.verdict.blocks import blocks, within
from npu_parity.verdict.bounds.arithmetic import LARGEST, ROOT, TINY, U
from npu_parity.verdict.bounds.rules import Operator, bound
from npu_parity.verdict.recording import tensors

_Moments = tuple[Tensor, Tensor, Tensor | float, Tensor | float]


def _moments(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return mean and variance, and the error bounds of both for all usual algorithms.

    The least accurate algorithm, E[x²] - E[x]², has an error of n U E[x²] (Chan, Golub and LeVeque,
    The American Statistician 37 (1983) 242, table 1). PyTorch's group norm uses it for
    channels-last tensors.
    """
    n = math.prod(x.shape[d] for d in dims)
    mean = x.mean(dims, keepdim=True)
    variance = (x - mean).square().mean(dims, keepdim=True)
    mean_error = (n + 1) * (U * x.abs().mean(dims, keepdim=True) + TINY)
    variance_error = (n + 4) * (U * (variance + mean.square()) + TINY)
    return mean, variance, mean_error, variance_error


def _overflows(x: Tensor, moments: _Moments) -> Tensor:
    """Return where the sum of squares overflows float32, in the shape of the mean."""
    mean, variance, *_ = moments
    squares: Tensor = (variance + mean.square()) * (x.numel() // mean.numel())
    return squares >= LARGEST


def _normalized(
    x: Tensor,
    moments: _Moments,
    eps: float,
    weight: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    """Return the error bound of (x - mean) / sqrt(variance + eps) · weight + bias.

    The bound also holds for a device that computes x · scale + shift.
    """
    mean, variance, mean_error, variance_error = moments
    scale = (variance + eps).rsqrt()
    # A computed variance is never negative, so eps limits the effect of its error.
    largest = ((variance - variance_error).clamp(min=0) + eps).rsqrt()
    smallest = (variance + variance_error + eps).rsqrt()
    scale_error = torch.maximum(largest - scale, scale - smallest) + (2 * ROOT + U) * largest
    # Five roundings: two of the scale, a product, a sum, and second-order terms.
    growth = 5 * U * largest
    rest = mean.abs() * growth + mean_error * largest + TINY * (1 + largest)
    # (|x - mean| scale_error + |x| growth + rest) |weight| + 5U |bias| + TINY (|x| + |mean| + 1)
    added = [TINY * (1 + mean.abs())]
    if bias is not None:
        added.append(5 * U * bias.abs())
    factor = None if weight is None else weight.abs()
    if factor is not None and factor.shape == mean.shape:  # fewer steps for each element
        scale_error, growth, rest = (t * factor for t in (scale_error, growth, rest))
        factor = None
    if factor is None:
        growth, rest, added = growth + TINY, sum(added, rest), []
    error = torch.empty_like(x)
    for index in blocks(x.shape):
        m, slope, of_size, constant, *others = (
            within(small, index, x.ndim) for small in (mean, scale_error, growth, rest, *added)
        )
        size = x[index].abs()
        part = torch.sub(x[index], m, out=error[index]).abs_().mul_(slope)
        part.addcmul_(size, of_size).add_(constant)
        if factor is not None:
            part.mul_(within(factor, index, x.ndim)).add_(size, alpha=TINY)
        for other in others:
            part.add_(other)
    return error


@bound("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training")
def _batch_norm(operator: Operator, exact: tuple[Tensor, ...]) -> Tensor:
    """((2 `ROOT` + U) |x - mean| + 5U (|x| + |mean|)) |weight| / √(variance + eps) + 5U |bias|.

    Inference gets mean and variance as operands. In training they have the errors of layer norm.
    """
    x = operator["input"]

    def column(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.view(-1, *[1] * (x.ndim - 2))

    moments: _Moments
    if operator.arguments.get("training"):
        moments = _moments(x, (0, *range(2, x.ndim)))
        operator.allow(_overflows(x, moments).expand(x.shape))
    else:
        mean, variance = (column(operator[f"running_{name}"]) for name in ("mean", "var"))
        assert mean is not None and variance is not None, "inference takes what training found"
        moments = mean, variance, 0.0, 0.0
    weight, bias = column(operator["weight"]), column(operator["bias"])
    return _normalized(x, moments, operator["eps"], weight, bias)


@bound("native_layer_norm")
def _layer_norm(operator: Operator, exact: tuple[Tensor, ...]) -> Tensor:
    """Batch norm's bound, if the mean has error (n + 1) U mean|x|, the variance (n + 4) U mean(x²).

    `_moments` derives these errors, and `_normalized` adds their effect.
    """
    x = operator["input"]
    dims = tuple(range(-len(operator["normalized_shape"]), 0))
    moments = _moments(x, dims)
    operator.allow(_overflows(x, moments).expand(x.shape))
    return _normalized(x, moments, operator["eps"], operator["weight"], operator["bias"])


@bound("native_group_norm")
def _group_norm(operator: Operator, exact: tuple[Tensor, ...]) -> Tensor:
    """Layer norm's bound in each group of channels."""
    x, groups = operator["input"], operator["group"]
    grouped = x.reshape(x.shape[0], groups, x.shape[1] // groups, -1)

    def column(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.view(1, groups, -1, 1)

    weight, bias = column(operator["weight"]), column(operator["bias"])
    moments = _moments(grouped, (2, 3))
    operator.allow(_overflows(grouped, moments).expand(grouped.shape).reshape(x.shape))
    return _normalized(grouped, moments, operator["eps"], weight, bias).reshape(x.shape)


@bound("_fused_rms_norm")
def _rms_norm(operator: Operator, exact: tuple[Tensor, ...]) -> Tensor:
    """((n + 2) / 2 · U + 2 `ROOT` + 3U) |y|.

    The root halves the relative error of the mean of n squares. Two products follow.
    """
    dims = tuple(range(-len(operator["normalized_shape"]), 0))
    n: int = math.prod(operator["normalized_shape"])
    squares = operator["input"].square().sum(dims, keepdim=True)
    operator.allow((squares >= LARGEST).expand(exact[0].shape))
    return ((n + 2) / 2 * U + 2 * ROOT + 3 * U) * exact[0].abs() + TINY


@bound("var", "std", "var_mean", "std_mean")
def _variances(operator: Operator, exact: Any) -> tuple[Tensor, ...] | None:
    """Layer norm's errors of mean and variance; the latter times n / (n - correction).

    A standard deviation adds the error of a root.
    """
    if "unbiased" in operator.arguments:
        return None
    x = operator["self"]
    dims = tuple(d % x.ndim for d in operator["dim"] or range(x.ndim))
    n = math.prod(x.shape[d] for d in dims)
    correction = 1 if operator["correction"] is None else operator["correction"]
    moments = _moments(x, dims)
    _, variance, mean_error, error = moments
    factor = n / max(n - correction, 0) if n > correction else math.inf
    if operator.name.startswith("std"):
        error = variance.sqrt() - (variance - error).clamp(min=0).sqrt() + ROOT * variance.sqrt()
        error = torch.maximum(error, (variance + error).sqrt() - variance.sqrt())
        factor = math.sqrt(factor)
    first, *second = tensors(exact)
    operator.allow(_overflows(x, moments).view(first.shape))
    error = (error * factor).view(first.shape) + 2 * U * first.abs()
    return error, *(mean_error.view(m.shape) for m in second)
