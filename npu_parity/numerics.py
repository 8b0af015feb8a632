"""What accelerators do to float32: formats, rounding, and what a device promises.

A matrix unit multiplies operands of fewer bits than float32 has and adds the products in float32.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from npu_parity.errors import ParityError


@dataclass(frozen=True)
class Format:
    """A binary floating-point format with an implicit leading bit.

    `mantissa_bits` counts the bits that are stored: HF32's "11-bit mantissa" is 11 here.
    """

    name: str
    mantissa_bits: int
    exponent_bits: int = 8

    @property
    def unit_roundoff(self) -> float:
        """Largest relative error of rounding to nearest (Higham, ASNA, 2nd ed., theorem 2.2).

        Rounding toward zero may err by up to twice as much.
        """
        return 2.0 ** -(self.mantissa_bits + 1)


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("fp32", 23),
        Format("hf32", 11),
        Format("tf32", 10),
        Format("fp16", 10, exponent_bits=5),
        Format("bf16", 7),
    )
}

# Formats that torch has a dtype for: a cast is faster than arithmetic on bits.
NARROW = {"fp16": torch.float16, "bf16": torch.bfloat16}

ROUNDINGS = ("nearest_even", "nearest_away", "toward_zero")


def _expect(what: str, found: object, choices: tuple) -> None:
    if found not in choices:
        expected = ", ".join(map(str, choices))
        raise ParityError(f"{what}: found {found!r}, expected one of {expected}")


@torch.no_grad()
def round_mantissa(
    x: Tensor, bits: int, rounding: str = "nearest_even", out: Tensor | None = None
) -> Tensor:
    """Round to `bits` explicit mantissa bits and keep float32's range.

    Sign and magnitude of a float32 are one integer: adding half a unit of the last kept bit
    carries into the exponent by itself, up to infinity, and treats subnormals as fixed point.

    Args:
        x: float32, any shape, any device; not modified.
        bits: 0 to 23; with 23 the result is `x` itself.
        rounding: one of `ROUNDINGS`.
        out: where to write the result; float32 of the same shape.

    Returns:
        float32 of the same shape and layout; NaN, infinities and signs are kept.

    Raises:
        ParityError: `x` is not float32, or `bits` or `rounding` is unknown.
    """
    _expect("dtype to round", x.dtype, (torch.float32,))
    _expect("mantissa bits", bits, tuple(range(24)))
    _expect("rounding", rounding, ROUNDINGS)
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
    # The carry may turn a NaN into anything.  A sum is NaN if any term is, and costs a tenth
    # of isnan() over all elements.
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
    """Round float32 values to those that a format has.

    Overflow follows IEEE 754-2019, 7.4: to infinity, or toward zero to the largest number.

    Args:
        x: float32, any shape, any device; not modified.
        format_name: a key of `FORMATS`; with "fp32" the result is `x` itself.
        rounding: one of `ROUNDINGS`.
        out: where to write the result; float32 of the same shape.
        narrow: memory to work in, of the same shape and the format's own dtype (`NARROW`).

    Returns:
        float32 of the same shape and layout.

    Raises:
        ParityError: `x` is not float32, or `format_name` or `rounding` is unknown.
    """
    _expect("format", format_name, tuple(FORMATS))
    _expect("dtype to round", x.dtype, (torch.float32,))
    _expect("rounding", rounding, ROUNDINGS)
    if format_name not in NARROW or (format_name == "bf16" and rounding != "nearest_even"):
        return round_mantissa(x, FORMATS[format_name].mantissa_bits, rounding, out)
    # torch's casts go to nearest, ties to even, with the format's own range.
    out = torch.empty_like(x) if out is None else out
    narrow = torch.empty_like(x, dtype=NARROW[format_name]) if narrow is None else narrow
    if rounding == "nearest_away":
        # With its last bit set no tie is a tie, and nothing else changes side.  Infinity has no
        # such bit to spare: the limits become infinity again in the cast.
        torch.clamp(x, -(2.0**17), 2.0**17, out=out).view(torch.int32).bitwise_or_(1)
        return out.copy_(narrow.copy_(out))
    narrow.copy_(x)
    if rounding == "toward_zero":  # one step back where the cast went past x
        past = out.copy_(narrow).abs_() > x.abs()
        narrow.view(torch.int16).sub_(past.to(torch.int16))
    return out.copy_(narrow)


@dataclass(frozen=True)
class Numerics:
    """The format to which a device rounds the operands of each kind of operator.

    A convolution is depthwise when it has as many groups as input channels, and more than
    one; `depthwise_conv=None` treats it like any other.

    Raises:
        ParityError: an unknown format or rounding.
    """

    conv: str = "fp32"
    depthwise_conv: str | None = None
    matmul: str = "fp32"
    rounding: str = "nearest_even"

    def __post_init__(self) -> None:
        _expect("numerics.conv", self.conv, tuple(FORMATS))
        _expect("numerics.depthwise_conv", self.depthwise_conv, (None, *FORMATS))
        _expect("numerics.matmul", self.matmul, tuple(FORMATS))
        _expect("numerics.rounding", self.rounding, ROUNDINGS)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> "Numerics":
        """Build from the keys of a configuration; what is left out has its default.

        Raises:
            ParityError: an unknown key, format or rounding.
        """
        known = tuple(f.name for f in fields(cls))
        for key in mapping:
            _expect("key of numerics", key, known)
        return cls(**mapping)

    def to_dict(self) -> dict[str, str | None]:
        """All four settings; `from_dict` reads them back."""
        return asdict(self)

    @property
    def is_exact(self) -> bool:
        """Whether nothing is rounded."""
        return {self.conv, self.depthwise_conv or self.conv, self.matmul} == {"fp32"}


PRESETS: dict[str, Numerics] = {
    # HF32 after hiascend.com: ATC --allow_hf32 and AscendC SetHF32, by default ties to even;
    # torch.npu.conv.allow_hf32 is True and torch.npu.matmul.allow_hf32 False by default.
    "ascend910b": Numerics(conv="hf32"),
    # No HF32 in the Cube unit: float32 operands become float16.
    "ascend910a": Numerics(conv="fp16", matmul="fp16"),
    # torch.backends.cudnn.allow_tf32 is True and torch.backends.cuda.matmul's False by default.
    "nvidia_ampere": Numerics(conv="tf32"),
    # oneDNN with fpmath mode bf16 on AMX; its depthwise kernels stay in float32.
    "cpu_bf16": Numerics(conv="bf16", depthwise_conv="fp32"),
    "ieee": Numerics(),
}


def candidate(promised: Numerics, name: str) -> Numerics:
    """Return `promised` with the format `name` wherever the device may round operands."""
    if promised.is_exact:
        return replace(promised, conv=name, depthwise_conv=None, matmul=name)
    changed = {k: name for k in ("conv", "depthwise_conv", "matmul") if _rounds(promised, k)}
    return replace(promised, **changed)


def coarser(found: str | None, promised: Numerics) -> str | None:
    """Return a finding where the numerics found are coarser than every promised format."""
    if found is None:
        return None
    formats = {promised.conv, promised.depthwise_conv or promised.conv, promised.matmul}
    if FORMATS[found].mantissa_bits >= min(FORMATS[f].mantissa_bits for f in formats):
        return None
    return f"the device computes as {found} would, where {'/'.join(sorted(formats))} was promised"


def shortfall(probed: Mapping[str, Mapping[str, Any]], promised: Numerics) -> list[str]:
    """Return a finding for each kind of product that keeps less of its operands than promised.

    Args:
        probed: what `probe` found.
        promised: what the device says of itself.
    """
    findings = []
    for kind in ("conv", "matmul"):
        wanted, found = FORMATS[getattr(promised, kind)], probed[kind]
        if found["format"] is None:  # an algorithm that does not return what it multiplies by 1
            continue
        kept = FORMATS[found["format"]]
        if kept.mantissa_bits < wanted.mantissa_bits or kept.exponent_bits < wanted.exponent_bits:
            findings.append(
                f"{kind} keeps {kept.mantissa_bits} mantissa bits of its operands ({kept.name}) "
                f"where {wanted.name} was promised"
            )
    return findings


def _rounds(promised: Numerics, kind: str) -> bool:
    value = getattr(promised, kind)
    return value is not None and value != "fp32"
