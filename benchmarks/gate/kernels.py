"""Kernels that replace operators of torch. Some are wrong, others are equally correct.

The program does not show them, because a dispatch mode executes them instead of the operator.

A change gets the operator and its arguments and returns the result. Convolutions get their
arguments by name. Their operands are not yet rounded to the device's format.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from npu_parity.check import Context
from npu_parity.numerics.emulation import emulate
from npu_parity.numerics.formats import Numerics
from npu_parity.numerics.rounding import round_to

Operator = Callable[..., Any]
Change = Callable[..., Any]

HF32 = Numerics(conv="hf32")
FLOAT32 = Numerics()

CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation")
CONVOLUTION += ("transposed", "output_padding", "groups")


class Kernels(TorchDispatchMode):
    """Replaces the operators named in `changes`, including their in-place variants."""

    def __init__(self, changes: dict[str, Change]):
        super().__init__()
        self.changes = changes

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2].rstrip("_")
        if name not in self.changes:
            return func(*args, **kwargs)
        if name == "convolution":
            args, kwargs = (), dict(zip(CONVOLUTION, args, strict=False)) | kwargs
        result = self.changes[name](func, *args, **kwargs)
        written = func._schema.is_mutable and result is not args[0]
        return args[0].copy_(result) if written else result


def device(numerics: Numerics = HF32, *names: str, change: Change | None = None) -> Context:
    """Return a simulated device with `numerics`; `change` executes the named operators."""

    @contextlib.contextmanager
    def within() -> Iterator[None]:
        with emulate(numerics), Kernels(dict.fromkeys(names, change)):
            yield

    return within


def under(setting: Context, numerics: Numerics = HF32) -> Context:
    """Return a simulated device that runs under a setting of torch."""

    @contextlib.contextmanager
    def within() -> Iterator[None]:
        with setting(), emulate(numerics):
            yield

    return within


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Make torch use `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def without_onednn() -> Iterator[None]:
    """Make torch use its own kernels."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


@contextlib.contextmanager
def flushing() -> Iterator[None]:
    """Flush numbers below the smallest normal number to zero."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


# --- Wrong


def only(shape: torch.Size, change: Change) -> Change:
    """Restrict a change to convolutions whose weight has this shape."""

    def restricted(func: Operator, **of: Any) -> Tensor:
        return change(func, **of) if of["weight"].shape == shape else func(**of)

    return restricted


def result(alter: Callable[[Tensor], Any]) -> Change:
    """Return a change that applies `alter` to the result of an operator."""

    def change(func: Operator, *args: Any, **kwargs: Any) -> Any:
        results = func(*args, **kwargs)
        first = results[0] if isinstance(results, tuple) else results
        alter(first)
        return results

    return change


def dead_channel(y: Tensor) -> None:
    """Set the middle channel to zero."""
    y[:, y.shape[1] // 2] = 0


def dead_tile(y: Tensor) -> None:
    """Set one corner to zero."""
    y[:, :16, -4:, -4:] = 0


def put(value: float) -> Callable[[Tensor], None]:
    """Write a value to the first element of the middle channel of the first image."""

    def alter(y: Tensor) -> None:
        y[0, y.shape[1] // 2, 0, 0] = value

    return alter


def stored_as(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Store the results in another type."""
    return lambda y: y.copy_(y.to(dtype))


def overflow(y: Tensor) -> None:
    """Scale the largest results beyond the range of float16."""
    scale = 2 * torch.finfo(torch.float16).max / y.abs().max()
    y.copy_((y * scale).half().float() / scale)


def without_last_term(func: Operator, **of: Any) -> Tensor:
    """Omit the last term of each sum, like a remainder loop that ends too early."""
    weight = of["weight"].clone()
    weight[:, -1, -1, -1] = 0
    return func(**of | {"weight": weight})


def float16_sums(func: Operator, **of: Any) -> Tensor:
    """Add partial sums over 16 input channels in float16."""
    if of["groups"] > 1:
        return func(**of)
    x, w, bias = of["input"], of["weight"], of["bias"]
    parts = zip(x.split(16, 1), w.split(16, 1), strict=True)
    total: Any = 0
    for x_part, w_part in parts:
        total = (total + func(**of | {"input": x_part, "weight": w_part, "bias": None})).half()
    total = total.float()
    return total if bias is None else total + bias.view(-1, 1, 1)


def without_eps(func: Operator, *args: Any) -> Any:
    """Ignore the last argument, eps."""
    return func(*args[:-1], 0.0)


def biased_statistics(func: Operator, *args: Any) -> Any:
    """Round the running statistics to bfloat16."""
    stats = [a.bfloat16().float() for a in args[3:5]]
    return func(*args[:3], *stats, *args[5:])


def without_second(func: Operator, x: Tensor, other: Any, **kwargs: Any) -> Tensor:
    """Ignore the second operand of an addition if both have the same shape."""
    if not isinstance(other, Tensor) or other.shape != x.shape:
        return func(x, other, **kwargs)
    return x if func._schema.is_mutable else x.clone()


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


def hf32_products(func: Operator, *args: Any, **kwargs: Any) -> Tensor:
    """Round the operands of matrix products to HF32."""
    *added, a, b = args
    return func(*added, round_to(a, "hf32"), round_to(b, "hf32"), **kwargs)


# --- Correct


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
