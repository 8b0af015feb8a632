"""Wrong kernels of norms, activations and pools, see `kernels`."""

import math
from typing import Any

import torch
from kernels import Operator
from torch import Tensor
from torch.nn import functional as F


def without_eps(func: Operator, *args: Any) -> Any:
    """Ignore the last argument, eps."""
    return func(*args[:-1], 0.0)


def biased_statistics(func: Operator, *args: Any) -> Any:
    """Round the running statistics to bfloat16."""
    stats = [a.bfloat16().float() for a in args[3:5]]
    return func(*args[:3], *stats, *args[5:])


def over_rows(func: Operator, x: Tensor, dim: int, *rest: Any) -> Tensor:
    """Compute softmax over the second-last axis."""
    return func(x, dim - 1, *rest)


def tanh_gelu(func: Operator, x: Tensor, **kwargs: Any) -> Tensor:
    """Swap the exact GELU and its tanh approximation."""
    other = {"none": "tanh", "tanh": "none"}[kwargs.get("approximate", "none")]
    return F.gelu(x, approximate=other)


def coarse_exponential(func: Operator, x: Tensor, *args: Any) -> Tensor:
    """Compute exponentials with the resolution of bfloat16."""
    return func(x, *args).bfloat16().float()


def mean_of_one_less(func: Operator, x: Tensor, dim: list[int], *rest: Any, **kwargs: Any):
    """Divide a sum of n terms by n - 1."""
    n = math.prod(x.shape[d] for d in dim)
    return func(x, dim, *rest, **kwargs) * (n / (n - 1))


def zero_padded_pool(func: Operator, x: Tensor, kernel, stride=(), padding=0, *rest: Any) -> Any:
    """Pad a maximum pool with zeros."""
    if not any(padding):
        return func(x, kernel, stride, padding, *rest)
    _, indices = func(x, kernel, stride, padding, *rest)
    zeros = func(F.pad(x, [p for p in reversed(padding) for _ in "ab"]), kernel, stride, 0, *rest)
    return zeros[0], indices


def layer_norm(func: Operator, x: Tensor, shape: list[int], weight, bias, eps, *, form: str) -> Any:
    """Compute layer norm by a wrong formula: ``unbiased`` variance or ``eps`` outside the root."""
    _, mean, rstd = func(x, shape, weight, bias, eps)
    dims = [*range(-len(shape), 0)]
    variance = x.var(dims, correction=int(form == "unbiased"), keepdim=True)
    root = (variance + eps).sqrt() if form == "unbiased" else variance.sqrt() + eps
    return (x - x.mean(dims, keepdim=True)) / root * weight + bias, mean, rstd


def approximate_root(func: Operator, x: Tensor, weight, bias, mean, var, *rest: Any) -> Any:
    """Compute 1 / sqrt(variance) from the bit pattern and one step of Newton's method."""
    value = var + rest[-1]
    guess = (0x5F3759DF - (value.view(torch.int32) >> 1)).view(torch.float32)
    scale = guess * (1.5 - 0.5 * value * guess * guess)
    return func(x, weight, bias, mean, scale**-2 - rest[-1], *rest)


def eps_outside(func: Operator, x: Tensor, weight, bias, mean, var, *rest: Any) -> Any:
    """Add eps to the deviation instead of the variance of a batch norm."""
    return func(x, weight, bias, mean, (var.sqrt() + rest[-1]) ** 2 - rest[-1], *rest)


def powered(func: Operator, x: Tensor, dim: int, *rest: Any) -> Tensor:
    """Compute the exponential as (1 + x/256)^256."""
    powers = (1 + (x - x.amax(dim, keepdim=True)).clamp(min=-255) / 256) ** 256
    return powers / powers.sum(dim, keepdim=True)


def unshifted(func: Operator, x: Tensor, dim: int, *rest: Any) -> Tensor:
    """Compute softmax in float16 without subtracting the maximum."""
    powers = x.half().exp()
    return (powers / powers.sum(dim, keepdim=True)).float()


def sigmoid_gelu(func: Operator, x: Tensor, **kwargs: Any) -> Tensor:
    """Compute GELU as x times the sigmoid of 1.702 x."""
    return x * torch.sigmoid(1.702 * x)


def cubic_gelu(func: Operator, x: Tensor, **kwargs: Any) -> Tensor:
    """Compute GELU from a polynomial between -2 and 2."""
    t = x.clamp(-2, 2)
    return torch.where(x.abs() < 2, x * (0.5 + 0.3789 * t - 0.0322 * t**3), x.relu())


def polynomial_sigmoid(x: Tensor) -> Tensor:
    """Return the sigmoid as a fraction of small polynomials."""
    t = (x / 2).clamp(-4.97, 4.97)
    square = t * t  # tanh's continued fraction
    tanh = t * (135135 + square * (17325 + square * (378 + square)))
    tanh = tanh / (135135 + square * (62370 + square * (3150 + square * 28)))
    return 0.5 + 0.5 * tanh.clamp(-1, 1).bfloat16().float()


def fraction(func: Operator, x: Tensor) -> Tensor:
    """Compute sigmoid and SiLU from polynomials, with the result of tanh in bfloat16."""
    gate = polynomial_sigmoid(x)
    return x * gate if "silu" in func._schema.name else gate


def leaky(func: Operator, x: Tensor) -> Tensor:
    """Let a thousandth of negative values pass a ReLU."""
    return F.leaky_relu(x, 1e-3)


def bf16_sum(func: Operator, x: Tensor, other: Any, **kwargs: Any) -> Tensor:
    """Add two tensors of one shape in bfloat16."""
    if not isinstance(other, Tensor) or other.shape != x.shape or not x.is_floating_point():
        return func(x, other, **kwargs)
    return (x.bfloat16() + other.bfloat16()).float()


def float16_mean(func: Operator, x: Tensor, dim: list[int], *rest: Any, **kwargs: Any) -> Tensor:
    """Compute a mean of float16 numbers."""
    return func(x.half().float(), dim, *rest, **kwargs).half().float()


def small_pool(func: Operator, x: Tensor, kernel, stride=(), padding=0, *rest: Any) -> Any:
    """Leave the last row of each window of a maximum pool out."""
    y, indices = func(x, kernel, stride, padding, *rest)
    least = torch.cat([x[..., :-1, :], torch.full_like(x[..., :1, :], -torch.inf)], -2)
    smaller = func(least, kernel, stride, padding, *rest)[0]
    return smaller.where(smaller.isfinite(), y), indices
