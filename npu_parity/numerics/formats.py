"""Floating-point formats, and the numerics that a device promises.

A matrix unit rounds float32 operands to fewer bits, multiplies them and adds the products in
float32. This module does not import torch, because planning a run uses it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from npu_parity.errors import ParityError


@dataclass(frozen=True)
class Format:
    """A binary floating-point format with an implicit leading bit.

    `mantissa_bits` is the number of stored bits: 11 for the "11-bit mantissa" of HF32.
    """

    name: str
    mantissa_bits: int
    exponent_bits: int = 8

    @property
    def unit_roundoff(self) -> float:
        """Largest relative error of rounding to nearest (Higham, ASNA, 2nd ed., theorem 2.2).

        The error of rounding toward zero is at most twice as large.
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

# The format in which a network stores its results, by the precision in which it runs.
PRECISIONS: dict[str, str] = {
    "fp32": "fp32",
    "fp16": "fp16",  # model.half()
    "bf16": "bf16",  # model.bfloat16()
    "amp-fp16": "fp16",  # torch.autocast: only the operators on its list store 16 bits
    "amp-bf16": "bf16",
}

ROUNDINGS = ("nearest_even", "nearest_away", "toward_zero")


def expect(what: str, found: object, choices: tuple[object, ...]) -> None:
    """Raise ParityError if `found` is not one of the choices."""
    if found not in choices:
        expected = ", ".join(map(str, choices))
        raise ParityError(f"{what}: found {found!r}, expected one of {expected}")


@dataclass(frozen=True)
class Numerics:
    """The format to which a device rounds the operands of each kind of operator.

    A convolution is depthwise if it has more than one group and as many groups as input channels.
    With `depthwise_conv=None` it is rounded like any other convolution.

    Raises:
        ParityError: an unknown format or rounding.

    >>> Numerics(conv="hf32").is_exact
    False
    >>> Numerics(rounding="up")
    Traceback (most recent call last):
    npu_parity.errors.ParityError: numerics.rounding: found 'up', expected one of nearest_even, ...
    """

    conv: str = "fp32"
    depthwise_conv: str | None = None
    matmul: str = "fp32"
    rounding: str = "nearest_even"

    def __post_init__(self) -> None:
        expect("numerics.conv", self.conv, tuple(FORMATS))
        expect("numerics.depthwise_conv", self.depthwise_conv, (None, *FORMATS))
        expect("numerics.matmul", self.matmul, tuple(FORMATS))
        expect("numerics.rounding", self.rounding, ROUNDINGS)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> "Numerics":
        """Build from a mapping of the configuration. Missing keys get their default.

        Raises:
            ParityError: an unknown key, format or rounding.
        """
        known = tuple(f.name for f in fields(cls))
        for key in mapping:
            expect("key of numerics", key, known)
        return cls(**mapping)

    def to_dict(self) -> dict[str, str | None]:
        """Return all four settings. `from_dict` reads them back."""
        return asdict(self)

    @property
    def formats(self) -> set[str]:
        """The formats to which the device rounds operands."""
        return {self.conv, self.depthwise_conv or self.conv, self.matmul}

    @property
    def is_exact(self) -> bool:
        """Whether the device rounds no operand."""
        return self.formats == {"fp32"}


# Numerics by the name of a device, as it is set up by default.
PRESETS: dict[str, Numerics] = {
    # HF32 as documented on hiascend.com (ATC --allow_hf32, AscendC SetHF32); default: ties to even.
    # Defaults: torch.npu.conv.allow_hf32 is True, torch.npu.matmul.allow_hf32 is False.
    "ascend910b": Numerics(conv="hf32"),
    # The Cube unit has no HF32. It rounds float32 operands to float16.
    "ascend910a": Numerics(conv="fp16", matmul="fp16"),
    # Defaults: backends.cudnn.allow_tf32 is True, backends.cuda.matmul.allow_tf32 is False.
    "nvidia_ampere": Numerics(conv="tf32"),
    # oneDNN with fpmath mode bf16 on AMX. Its depthwise kernels compute in float32.
    "cpu_bf16": Numerics(conv="bf16", depthwise_conv="fp32"),
    "ieee": Numerics(),
}


def candidate(promised: Numerics, name: str) -> Numerics:
    """Return `promised` with format `name` for every kind of operator that the device rounds."""
    if promised.is_exact:
        return replace(promised, conv=name, depthwise_conv=None, matmul=name)
    changed = {k: name for k in ("conv", "depthwise_conv", "matmul") if _rounds(promised, k)}
    return replace(promised, **changed)


def _rounds(promised: Numerics, kind: str) -> bool:
    value = getattr(promised, kind)
    return value is not None and value != "fp32"
