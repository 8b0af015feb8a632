"""What accelerators do to float32: formats, and what a device promises.

A matrix unit multiplies operands of fewer bits than float32 has and adds the products in float32.
Nothing here imports torch: planning a run reads this module.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

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

ROUNDINGS = ("nearest_even", "nearest_away", "toward_zero")


def expect(what: str, found: object, choices: tuple[object, ...]) -> None:
    """Raise ParityError, with the choices, unless `found` is one of them."""
    if found not in choices:
        expected = ", ".join(map(str, choices))
        raise ParityError(f"{what}: found {found!r}, expected one of {expected}")


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
        expect("numerics.conv", self.conv, tuple(FORMATS))
        expect("numerics.depthwise_conv", self.depthwise_conv, (None, *FORMATS))
        expect("numerics.matmul", self.matmul, tuple(FORMATS))
        expect("numerics.rounding", self.rounding, ROUNDINGS)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> "Numerics":
        """Build from the keys of a configuration; what is left out has its default.

        Raises:
            ParityError: an unknown key, format or rounding.
        """
        known = tuple(f.name for f in fields(cls))
        for key in mapping:
            expect("key of numerics", key, known)
        return cls(**mapping)

    def to_dict(self) -> dict[str, str | None]:
        """All four settings; `from_dict` reads them back."""
        return asdict(self)

    @property
    def formats(self) -> set[str]:
        """The formats that operands are rounded to."""
        return {self.conv, self.depthwise_conv or self.conv, self.matmul}

    @property
    def is_exact(self) -> bool:
        """Whether nothing is rounded."""
        return self.formats == {"fp32"}


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


def _rounds(promised: Numerics, kind: str) -> bool:
    value = getattr(promised, kind)
    return value is not None and value != "fp32"
