"""Kernels that are as correct as torch's own, see `kernels`."""

import math
from typing import Any

import torch
from kernels import Change, Operator
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from npu_parity.numerics.rounding import round_to


def _rounded(of: dict[str, Any], name: str = "hf32") -> tuple[Tensor, Tensor]:
    return round_to(of["input"], name), round_to(of["weight"], name)


def unfolded(func: Operator, **of: Any) -> Tensor:
    """Compute a convolution as one matrix product."""
    (x, w), groups = _rounded(of), of["groups"]
    columns = F.unfold(x, w.shape[2:], of["dilation"], of["padding"], of["stride"])
    columns = columns.view(len(x), groups, -1, columns.shape[-1])
    y = w.reshape(groups, w.shape[0] // groups, -1) @ columns
    sides = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip(
            x.shape[2:], w.shape[2:], of["stride"], of["padding"], of["dilation"], strict=True
        )
    ]
    y = y.reshape(len(x), w.shape[0], *sides)
    return y if of["bias"] is None else y + of["bias"].view(-1, 1, 1)


def reversed_sum(func: Operator, **of: Any) -> Tensor:
    """Add the input channels in reverse order."""
    if of["groups"] > 1:
        return func(**of)
    return func(**of | {"input": of["input"].flip(1), "weight": of["weight"].flip(1)})


def split_sum(func: Operator, **of: Any) -> Tensor:
    """Add two sums, each over half of the input channels."""
    x, w = of["input"], of["weight"]
    if of["groups"] > 1 or x.shape[1] < 2:
        return func(**of)
    half = x.shape[1] // 2
    first = func(**of | {"input": x[:, :half], "weight": w[:, :half]})
    return first + func(**of | {"input": x[:, half:], "weight": w[:, half:], "bias": None})


def by_output_channels(func: Operator, **of: Any) -> Tensor:
    """Compute 16 output channels at a time."""
    if of["groups"] > 1:
        return func(**of)
    w, bias = of["weight"].split(16), of["bias"]
    biases = [None] * len(w) if bias is None else bias.split(16)
    parts = zip(w, biases, strict=True)
    return torch.cat([func(**of | {"weight": part, "bias": b}) for part, b in parts], 1)


def by_images(func: Operator, **of: Any) -> Tensor:
    """Compute one image at a time."""
    return torch.cat([func(**of | {"input": x}) for x in of["input"].split(1)])


def blocked_layout(func: Operator, **of: Any) -> Tensor:
    """Use channels last inside the kernel, like many accelerators."""
    x, w = (of[n].contiguous(memory_format=torch.channels_last) for n in ("input", "weight"))
    return func(**of | {"input": x, "weight": w}).contiguous()


def in_float64(func: Operator, *args: Any, **of: Any) -> Any:
    """Compute in float64 and round once at the end."""
    if "weight" in of:
        of["input"], of["weight"] = _rounded(of)

    def widened(x: Tensor) -> Tensor:
        return x.double() if x.dtype == torch.float32 else x

    args, of = tree_map_only(Tensor, widened, (args, of))
    return tree_map_only(Tensor, lambda y: y.float(), func(*args, **of))


def scale_and_shift(func: Operator, x: Tensor, weight, bias, mean, var, *rest: Any) -> Any:
    """Compute a batch norm with its four vectors folded into two."""
    scale = torch.rsqrt(var + rest[-1]) * weight
    shift = bias - mean * scale
    y = x * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
    return y, x.new_empty(0), x.new_empty(0)


def clamped(func: Operator, x: Tensor) -> Tensor:
    """Compute ReLU as a clamp."""
    return torch.clamp(x, min=0.0)


def reversed_mean(func: Operator, x: Tensor, dim: list[int], *rest: Any, **kwargs: Any) -> Tensor:
    """Add the terms in reverse order."""
    return x.flip(dim).sum(dim, *rest) / math.prod(x.shape[d] for d in dim)


def product_then_bias(func: Operator, bias: Tensor, a: Tensor, b: Tensor, **kwargs: Any) -> Tensor:
    """Add the products in reverse order, then the bias."""
    return bias + torch.mm(a.flip(1), b.flip(0))


def by_logarithm(func: Operator, x: Tensor, dim: int, *rest: Any) -> Tensor:
    """Compute softmax as the exponential of its logarithm."""
    return torch.log_softmax(x, dim).exp()


def from_erf(func: Operator, x: Tensor, **kwargs: Any) -> Tensor:
    """Compute GELU by its definition."""
    return func(x, **kwargs) if kwargs else x * 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))


def by_exponential(func: Operator, x: Tensor) -> Tensor:
    """Compute sigmoid as 1 / (1 + exp(-x)), and SiLU as x times sigmoid."""
    gate = 1 / (1 + torch.exp(-x))
    return x * gate if "silu" in func._schema.name else gate


def in_parts(count: int) -> Change:
    """Add `count` sums, each over a part of the input channels."""

    def change(func: Operator, **of: Any) -> Tensor:
        x, w = of["input"], of["weight"]
        if of["groups"] > 1 or x.shape[1] < count:
            return func(**of)
        parts = zip(x.chunk(count, 1), w.chunk(count, 1), strict=True)
        y = [func(**of | {"input": a, "weight": b, "bias": None}) for a, b in parts]
        total = torch.stack(y).sum(0)
        return total if of["bias"] is None else total + of["bias"].view(-1, 1, 1)

    return change


def tree(func: Operator, **of: Any) -> Tensor:
    """Add parts of 8 input channels in pairs, then the pairs."""
    if of["groups"] > 1:
        return func(**of)
    parts = zip(of["input"].split(8, 1), of["weight"].split(8, 1), strict=True)
    sums = [func(**of | {"input": a, "weight": b, "bias": None}) for a, b in parts]
    while len(sums) > 1:
        sums = [sum(sums[i + 1 : i + 2], sums[i]) for i in range(0, len(sums), 2)]
    return sums[0] if of["bias"] is None else sums[0] + of["bias"].view(-1, 1, 1)


def split_product(func: Operator, *args: Any, **kwargs: Any) -> Tensor:
    """Add two products, each over half of the terms."""
    *added, a, b = args
    half = a.shape[-1] // 2
    y = a[..., :half] @ b[..., :half, :] + a[..., half:] @ b[..., half:, :]
    return y + added[0] if added else y


def transposed_product(func: Operator, *args: Any, **kwargs: Any) -> Tensor:
    """Multiply the transposed matrices in the other order."""
    *added, a, b = args
    y = (b.mT @ a.mT).mT.contiguous()
    return y + added[0] if added else y


def by_columns(func: Operator, **of: Any) -> Tensor:
    """Compute two halves of the output's columns, each from the input columns that it needs."""
    x, w = of["input"], of["weight"]
    (_, stride), (rows, columns), (_, dilation) = of["stride"], of["padding"], of["dilation"]
    x = F.pad(x, (columns, columns))
    reach = dilation * (w.shape[3] - 1) + 1
    width = (x.shape[3] - reach) // stride + 1
    half = width // 2
    if half == 0:
        return func(**of)
    of = of | {"padding": [rows, 0]}
    first = func(**of | {"input": x[..., : (half - 1) * stride + reach]})
    return torch.cat([first, func(**of | {"input": x[..., half * stride :]})], 3)


def filled_later(func: Operator, **of: Any) -> Tensor:
    """Copy the result to memory that was allocated before."""
    y = func(**of)
    return torch.empty_like(y).copy_(y)


def last_results(func: Operator, **of: Any) -> Tensor:
    """Store the result with channels last."""
    return func(**of).contiguous(memory_format=torch.channels_last)


def layer_norm(func: Operator, x: Tensor, shape: list[int], weight, bias, eps: float) -> Any:
    """Compute layer norm from mean and variance."""
    dims = [*range(-len(shape), 0)]
    variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    rstd = (variance + eps).rsqrt()
    return (x - mean) * rstd * weight + bias, mean, rstd


def batch_norm(func: Operator, x: Tensor, weight, bias, mean, var, *rest: Any) -> Any:
    """Subtract the mean, then multiply by the reciprocal root of the variance."""
    own = (t.view(-1, 1, 1) for t in (mean, torch.rsqrt(var + rest[-1]), weight, bias))
    m, r, w, b = own
    return (x - m) * r * w + b, x.new_empty(0), x.new_empty(0)


def powers_of_two(func: Operator, x: Tensor, dim: int, *rest: Any) -> Tensor:
    """Compute exponentials as powers of two."""
    powers = torch.exp2((x - x.amax(dim, keepdim=True)) * math.log2(math.e))
    return powers / powers.sum(dim, keepdim=True)


def from_erfc(func: Operator, x: Tensor, **kwargs: Any) -> Tensor:
    """Compute GELU from the complementary error function."""
    return func(x, **kwargs) if kwargs else x * 0.5 * torch.erfc(-x * math.sqrt(0.5))


def from_tanh(func: Operator, x: Tensor) -> Tensor:
    """Compute sigmoid from tanh, and SiLU as x times sigmoid."""
    gate = 0.5 + 0.5 * torch.tanh(0.5 * x)
    return x * gate if "silu" in func._schema.name else gate


def masked(func: Operator, x: Tensor) -> Tensor:
    """Multiply by a mask of positive values."""
    return x * (x > 0)


def mean_in_steps(func: Operator, x: Tensor, dim: list[int], *rest: Any, **kwargs: Any) -> Tensor:
    """Compute the mean over one axis after the other."""
    keep = bool(rest and rest[0])
    for d in sorted((d % x.ndim for d in dim), reverse=True):
        x = func(x, [d], keep, **kwargs)
    return x
