"""Bounds of batch, layer, group and RMS norm, and of the variances they divide by."""

import math
from typing import Any

import torch
from torch import Tensor

from npu_parity.verdict.bounds.arithmetic import ROOT, TINY, U
from npu_parity.verdict.bounds.rules import Operator, bound
from npu_parity.verdict.recording import tensors


def _moments(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and variance, and how far off they may be, by any of the usual algorithms.

    The least accurate, E[x²] - E[x]², is off by n U E[x²] (Chan, Golub and LeVeque, The American
    Statistician 37 (1983) 242, table 1); PyTorch's group norm uses it for channels-last tensors.
    """
    n = math.prod(x.shape[d] for d in dims)
    mean = x.mean(dims, keepdim=True)
    variance = (x - mean).square().mean(dims, keepdim=True)
    mean_error = (n + 1) * (U * x.abs().mean(dims, keepdim=True) + TINY)
    variance_error = (n + 4) * (U * (variance + mean.square()) + TINY)
    return mean, variance, mean_error, variance_error


def _normalized(
    x: Tensor,
    moments: tuple[Tensor, Tensor, Tensor | float, Tensor | float],
    eps: float,
    weight: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    """Error of (x - mean) / sqrt(variance + eps) · weight + bias, or of x · scale + shift."""
    mean, variance, mean_error, variance_error = moments
    scale = (variance + eps).rsqrt()
    # A variance that is computed is never negative, so eps limits what a wrong one can do.
    largest = ((variance - variance_error).clamp(min=0) + eps).rsqrt()
    smallest = (variance + variance_error + eps).rsqrt()
    scale_error = torch.maximum(largest - scale, scale - smallest) + (2 * ROOT + U) * largest
    # Five roundings: two of the scale, a product, a sum, and second-order terms.
    terms = x.abs() + mean.abs()
    error = (x - mean).abs() * scale_error + terms * largest * 5 * U
    error = error + mean_error * largest + TINY * (1 + largest)
    if weight is not None:
        error = error * weight.abs()
    if bias is not None:
        error = error + 5 * U * bias.abs()
    return error + TINY * (1 + terms)


@bound("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training")
def _batch_norm(operator: Operator, exact: tuple) -> Tensor:
    """Five roundings and a root of (x - mean) / √(variance + eps) · weight + bias.

    In inference mean and variance are given; in training they err as those of a layer norm.
    """
    x = operator["input"]

    def column(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.view(-1, *[1] * (x.ndim - 2))

    if operator.arguments.get("training"):
        moments = _moments(x, (0, *range(2, x.ndim)))
    else:
        moments = column(operator["running_mean"]), column(operator["running_var"]), 0.0, 0.0
    weight, bias = column(operator["weight"]), column(operator["bias"])
    return _normalized(x, moments, operator["eps"], weight, bias)


@bound("native_layer_norm")
def _layer_norm(operator: Operator, exact: tuple) -> Tensor:
    """As of batch norm; mean and variance of n values err by (n + 1) U mean|x|, (n + 4) U mean x².

    `_moments` and `_normalized` say why, and how far that reaches.
    """
    x = operator["input"]
    dims = tuple(range(-len(operator["normalized_shape"]), 0))
    return _normalized(x, _moments(x, dims), operator["eps"], operator["weight"], operator["bias"])


@bound("native_group_norm")
def _group_norm(operator: Operator, exact: tuple) -> Tensor:
    """As of layer norm, in each group of channels."""
    x, groups = operator["input"], operator["group"]
    grouped = x.reshape(x.shape[0], groups, x.shape[1] // groups, -1)

    def column(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.view(1, groups, -1, 1)

    weight, bias = column(operator["weight"]), column(operator["bias"])
    moments = _moments(grouped, (2, 3))
    return _normalized(grouped, moments, operator["eps"], weight, bias).reshape(x.shape)


@bound("_fused_rms_norm")
def _rms_norm(operator: Operator, exact: tuple) -> Tensor:
    """A mean of n squares, halved in relative error by the root, then two products."""
    n = math.prod(operator["normalized_shape"])
    return ((n + 2) / 2 * U + 2 * ROOT + 3 * U) * exact[0].abs() + TINY


@bound("var", "std", "var_mean", "std_mean")
def _variances(operator: Operator, exact: Any) -> tuple[Tensor, ...] | None:
    """Variance and mean as of layer norm, scaled by n / (n - correction); a root for deviations."""
    if "unbiased" in operator.arguments:
        return None
    x = operator["self"]
    dims = tuple(d % x.ndim for d in operator["dim"] or range(x.ndim))
    n = math.prod(x.shape[d] for d in dims)
    correction = 1 if operator["correction"] is None else operator["correction"]
    _, variance, mean_error, error = _moments(x, dims)
    factor = n / max(n - correction, 0) if n > correction else math.inf
    if operator.name.startswith("std"):
        error = variance.sqrt() - (variance - error).clamp(min=0).sqrt() + ROOT * variance.sqrt()
        error = torch.maximum(error, (variance + error).sqrt() - variance.sqrt())
        factor = math.sqrt(factor)
    first, *second = tensors(exact)
    error = (error * factor).view(first.shape) + 2 * U * first.abs()
    return error, *(mean_error.view(m.shape) for m in second)
