"""Round float32 tensors to the formats of `npu_parity.numerics.formats`."""

import math

import torch
from torch import Tensor

from npu_parity.numerics.formats import FORMATS, ROUNDINGS, expect

# Formats that torch has a dtype for: a cast is faster than arithmetic on bits.
NARROW = {"fp16": torch.float16, "bf16": torch.bfloat16}


@torch.no_grad()
def round_mantissa(
    x: Tensor, bits: int, rounding: str = "nearest_even", out: Tensor | None = None
) -> Tensor:
    """Round to `bits` explicit mantissa bits and keep float32's range.

    The rounding adds half a unit of the last kept bit to the bit pattern of each value. The carry
    increases the exponent, up to infinity. Subnormals are rounded like fixed-point numbers.

    Args:
        x: float32, any shape, any device; not modified.
        bits: 0 to 23; with 23 the result is `x` itself.
        rounding: one of `ROUNDINGS`.
        out: memory for the result; float32 of the same shape.

    Returns:
        float32 of the same shape and layout; NaN, infinities and signs are kept.

    Raises:
        ParityError: `x` is not float32, or `bits` or `rounding` is unknown.
    """
    expect("dtype to round", x.dtype, (torch.float32,))
    expect("mantissa bits", bits, tuple(range(24)))
    expect("rounding", rounding, ROUNDINGS)
    dropped = 23 - bits
    if dropped == 0:
        return x
    out = torch.empty_like(x) if out is None else out
    pattern, code = x.view(torch.int32), out.view(torch.int32)
    half = 1 << (dropped - 1)
    if rounding == "nearest_even":
        torch.bitwise_right_shift(pattern, dropped, out=code)
        code.bitwise_and_(1).add_(half - 1).add_(pattern)
    elif rounding == "nearest_away":
        torch.add(pattern, half, out=code)
    else:
        code.copy_(pattern)
    code.bitwise_and_(-1 << dropped)
    # The carry may turn a NaN into another value. The sum is NaN if any element is NaN, and takes a
    # tenth of the time of isnan().
    if math.isnan(x.sum().item()):
        out.masked_fill_(x.isnan(), torch.nan)
    return out


@torch.no_grad()
def round_to(
    x: Tensor,
    format_name: str,
    rounding: str = "nearest_even",
    out: Tensor | None = None,
    narrow: Tensor | None = None,
) -> Tensor:
    """Round float32 values to a format.

    Overflow follows IEEE 754-2019, 7.4: the result is infinity, or the largest finite number if the
    rounding is toward zero.

    Args:
        x: float32, any shape, any device; not modified.
        format_name: a key of `FORMATS`; with "fp32" the result is `x` itself.
        rounding: one of `ROUNDINGS`.
        out: memory for the result; float32 of the same shape.
        narrow: temporary memory of the same shape and the format's dtype (`NARROW`).

    Returns:
        float32 of the same shape and layout.

    Raises:
        ParityError: `x` is not float32, or `format_name` or `rounding` is unknown.

    >>> round_to(torch.tensor([1 + 2.0**-12, 1 + 2.0**-11]), "hf32")
    tensor([1.0000, 1.0005])
    """
    expect("format", format_name, tuple(FORMATS))
    expect("dtype to round", x.dtype, (torch.float32,))
    expect("rounding", rounding, ROUNDINGS)
    if format_name not in NARROW or (format_name == "bf16" and rounding != "nearest_even"):
        return round_mantissa(x, FORMATS[format_name].mantissa_bits, rounding, out)
    # A cast in torch rounds to nearest, ties to even, within the range of the format.
    out = torch.empty_like(x) if out is None else out
    narrow = torch.empty_like(x, dtype=NARROW[format_name]) if narrow is None else narrow
    if rounding == "nearest_away":
        # Setting the last bit moves every tie away from zero and changes no other rounding. For
        # infinity it would give NaN, so clamp first. The cast turns the limits into infinity again.
        torch.clamp(x, -(2.0**17), 2.0**17, out=out).view(torch.int32).bitwise_or_(1)
        return out.copy_(narrow.copy_(out))
    narrow.copy_(x)
    if rounding == "toward_zero":  # go one step back if the cast increased the magnitude
        past = out.copy_(narrow).abs_() > x.abs()
        narrow.view(torch.int16).sub_(past.to(torch.int16))
    return out.copy_(narrow)
