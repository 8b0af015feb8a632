"""Wrong kernels, see `kernels`."""

from collections.abc import Callable
from typing import Any

import torch
from kernels import Change, Operator
from torch import Tensor
from torch.nn import functional as F

from npu_parity.numerics.rounding import round_mantissa, round_to


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


def without_second(func: Operator, x: Tensor, other: Any, **kwargs: Any) -> Tensor:
    """Ignore the second operand of an addition if both have the same shape."""
    if not isinstance(other, Tensor) or other.shape != x.shape:
        return func(x, other, **kwargs)
    return x if func._schema.is_mutable else x.clone()


def hf32_products(func: Operator, *args: Any, **kwargs: Any) -> Tensor:
    """Round the operands of matrix products to HF32."""
    *added, a, b = args
    return func(*added, round_to(a, "hf32"), round_to(b, "hf32"), **kwargs)


# --- Wrong for some operands


def other_rows(func: Operator, **of: Any) -> Tensor:
    """Mix a hundredth of the batch's mean into each row."""
    y = func(**of)
    return y.lerp(y.mean(0, keepdim=True), 0.01)


def last_row_off(y: Tensor) -> None:
    """Scale the last row of a batch by 1.01."""
    if len(y) > 1:
        y[-1] *= 1.01


def saturated(y: Tensor) -> None:
    """Limit results to 0.9 times the largest one."""
    y.clamp_(max=0.9 * float(y.max()))


def bf16_negatives(func: Operator, **of: Any) -> Tensor:
    """Round negative operands to bfloat16."""
    x = of["input"]
    return func(**of | {"input": torch.where(x < 0, round_to(x, "bf16"), x)})


def every(count: int, change: Change) -> Change:
    """Apply a change to each `count`-th call only."""
    calls = 0

    def sometimes(func: Operator, *args: Any, **of: Any) -> Any:
        nonlocal calls
        calls += 1
        return func(*args, **of) if calls % count else change(func, *args, **of)

    return sometimes


def border_off(y: Tensor) -> None:
    """Scale the first row of each map by 1.01."""
    y[..., 0, :] *= 1.01


# --- Wrong sums


def scaled_tile(y: Tensor) -> None:
    """Scale one corner by 1.001."""
    y[:, :16, -4:, -4:] *= 1.001


def partial_sums(count: int, store: Callable[[Tensor], Tensor]) -> Change:
    """Add partial sums over `count` input channels, and store each sum."""

    def change(func: Operator, **of: Any) -> Tensor:
        if of["groups"] > 1:
            return func(**of)
        x, w, bias = of["input"], of["weight"], of["bias"]
        total: Any = 0.0
        for a, b in zip(x.split(count, 1), w.split(count, 1), strict=True):
            total = store(total + func(**of | {"input": a, "weight": b, "bias": None}))
        return total if bias is None else total + bias.view(-1, 1, 1)

    return change


def truncated(y: Tensor) -> Tensor:
    """Truncate toward zero to 11 of 23 bits of the mantissa."""
    return round_mantissa(y, 11, "toward_zero")


def halves_in_float16(func: Operator, **of: Any) -> Tensor:
    """Split the sum in half, and store both parts as float16."""
    count = (of["input"].shape[1] + 1) // 2
    parts: list[Tensor] = []

    def keep(y: Tensor) -> Tensor:
        parts.append(y - sum(parts))
        return y

    y = partial_sums(count, keep)(func, **of)
    return y if len(parts) < 2 else y + sum(p.half().float() - p for p in parts)


def products_in_float16(func: Operator, *args: Any, **kwargs: Any) -> Tensor:
    """Store partial sums over 16 terms of a matrix product as float16."""
    *added, a, b = args
    total: Any = 0.0
    for x, y in zip(a.split(16, -1), b.split(16, -2), strict=True):
        total = (total + x @ y).half().float()
    return total + added[0] if added else total


def term_twice(func: Operator, **of: Any) -> Tensor:
    """Count the first term of each sum twice."""
    weight = of["weight"].clone()
    weight[:, 0, 0, 0] *= 2
    return func(**of | {"weight": weight})


def bf16_bias(func: Operator, **of: Any) -> Tensor:
    """Round the bias to bfloat16."""
    bias = of["bias"]
    return func(**of | {"bias": None if bias is None else bias.bfloat16().float()})


def bias_twice(func: Operator, **of: Any) -> Tensor:
    """Add the bias twice."""
    bias = of["bias"]
    return func(**of | {"bias": None if bias is None else 2 * bias})


def winograd_in_float16(func: Operator, **of: Any) -> Tensor:
    """Compute 3x3 convolutions by Winograd's F(2x2, 3x3), with transformed tiles in float16."""
    x, w = of["input"], of["weight"]
    plain = w.shape[2:] == (3, 3) and of["groups"] == 1
    steps = (*of["stride"], *of["dilation"])
    if not plain or steps != (1, 1, 1, 1) or any(s % 2 for s in x.shape[2:]):
        return func(**of)
    (rows, columns), height, width = of["padding"], *x.shape[2:]
    if (rows, columns) != (1, 1):
        return func(**of)
    # Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016, section 4.1.
    b = torch.tensor([[1.0, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
    g = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    a = torch.tensor([[1.0, 1, 1, 0], [0, 1, -1, -1]])
    tiles = F.pad(x, (1, 1, 1, 1)).unfold(2, 4, 2).unfold(3, 4, 2)
    data = (b @ tiles @ b.T).half().float()
    product = torch.einsum("nchwij,kcij->nkhwij", data, (g @ w @ g.T).half().float())
    y = (a @ product @ a.T).transpose(3, 4).reshape(len(x), len(w), height, width)
    return y if of["bias"] is None else y + of["bias"].view(-1, 1, 1)
