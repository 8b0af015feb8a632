"""What accelerators do to float32, done on any device: rounding, emulation and a hardware probe.

A matrix unit multiplies operands of fewer bits than float32 has and adds the products in
float32.  Rounding the operands of every convolution and matrix product and leaving the sums
alone is therefore a prediction of what such a unit returns::

    with emulate(PRESETS["ascend910b"]), torch.inference_mode():
        predicted = model(x)
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

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

aten = torch.ops.aten

_CONVOLUTIONS = {aten.convolution, aten._convolution}  # (input, weight, bias, ..., groups: 8th)

_MATRIX_PRODUCTS = {  # position of the first of two operands; what comes before is added in float32
    **dict.fromkeys((aten.mm, aten.bmm, aten.mv, aten.dot, aten.vdot), 0),
    **dict.fromkeys((aten.addmm, aten.addmm_, aten._addmm_activation), 1),
    **dict.fromkeys((aten.addmv, aten.addmv_, aten.addbmm, aten.addbmm_), 1),
    **dict.fromkeys((aten.baddbmm, aten.baddbmm_), 1),
}

# Kernels with products inside that no dispatch mode sees.  `emulate` has torch avoid all but
# the last two; to let one pass unrounded would be to predict too small a difference.
_FUSED = {
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention,
    aten._scaled_dot_product_cudnn_attention,
    aten._native_multi_head_attention,
    aten._transformer_encoder_layer_fwd,
    aten.mkldnn_rnn_layer,
    aten.conv_tbc,
}


@cache
def _is_composite(func: torch._ops.OpOverload) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


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


class Emulation(TorchDispatchMode):
    """Rounds the float32 operands of convolutions and matrix products, then runs them in float32.

    Biases, accumulators and all other operators are left alone, and so are other dtypes.
    Weights of convolutions are rounded once: do not write to them through ``.data`` meanwhile.
    Enter it through `emulate`, which also keeps torch from fusing attention.

    Raises:
        ParityError: an operator whose products cannot be reached.
    """

    def __init__(self, numerics: Numerics):
        super().__init__()
        self.numerics = numerics
        self._memory: dict[tuple[int, torch.dtype], Tensor] = {}
        self._weights: dict[tuple[int, int, int, str], tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        operator = func.overloadpacket
        if operator in _CONVOLUTIONS:
            args = self._round(args, 0, self._conv_format(args))
        elif operator in _MATRIX_PRODUCTS:
            args = self._round(args, _MATRIX_PRODUCTS[operator], self.numerics.matmul)
        elif operator in _FUSED:
            raise ParityError(
                f"found {func}, whose matrix products cannot be rounded, expected separate ones: "
                "attention goes under npu_parity.numerics.emulate, "
                "an LSTM after torch.backends.mkldnn.enabled = False"
            )
        elif _is_composite(func):  # inference_mode delivers linear, conv2d, einsum ... whole
            with self:
                return func.decompose(*args, **kwargs)
        return func(*args, **kwargs)

    def _conv_format(self, args: tuple) -> str:
        groups = args[8]
        depthwise = groups > 1 and groups == args[0].shape[1]
        return (depthwise and self.numerics.depthwise_conv) or self.numerics.conv

    def _round(self, args: tuple, first: int, format_name: str) -> tuple:
        def rounded(i: int, x: Tensor) -> Tensor:
            if format_name == "fp32" or x.dtype != torch.float32:
                return x
            if isinstance(x, nn.Parameter):
                return self._weight(x, format_name)
            narrow = self._like(x, i, NARROW[format_name]) if format_name in NARROW else None
            out = self._like(x, i, torch.float32)
            return round_to(x, format_name, self.numerics.rounding, out, narrow)

        operands = map(rounded, (0, 1), args[first : first + 2])
        return *args[:first], *operands, *args[first + 2 :]

    def _weight(self, x: nn.Parameter, format_name: str) -> Tensor:
        """The rounded weight; the weight is held with it, so that no other can get its id."""
        key = id(x), x.data_ptr(), x._version, format_name
        if key not in self._weights:
            self._weights[key] = x, round_to(x, format_name, self.numerics.rounding)
        return self._weights[key][1]

    def _like(self, x: Tensor, i: int, dtype: torch.dtype) -> Tensor:
        """Memory for the i-th operand, used again and again: new pages cost more than rounding."""
        held = self._memory.get((i, dtype))
        if held is None or held.numel() < x.numel():
            held = self._memory[i, dtype] = torch.empty(x.numel(), dtype=dtype, device=x.device)
        if x.is_contiguous():
            return held[: x.numel()].view(x.shape)
        layout = torch.empty_like(x, device="meta")
        return held.as_strided(layout.shape, layout.stride())


@contextmanager
def emulate(numerics: Numerics) -> Iterator[None]:
    """Run what is inside with a device's numerics; with exact numerics nothing is touched.

    Works under `torch.no_grad` and `torch.inference_mode`.  Attention is taken apart into its
    two matrix products, because fused kernels hide them.
    """
    if numerics.is_exact:
        yield
        return
    with attention_apart(), Emulation(numerics):
        yield


@contextmanager
def attention_apart() -> Iterator[None]:
    """Let attention be computed by two matrix products: fused kernels are one opaque operator."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


@torch.no_grad()
def probe(
    convolve: Callable[[Tensor, Tensor], Tensor] | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, dict[str, int | str | None]]:
    """Find out what a device does to float32 operands, by multiplying with the identity.

    A 1x1 convolution and a matrix product return their input as the device rounded it.

    Args:
        convolve: called with float32 input (16, 64, 8, 8) and weight (64, 64, 1, 1) on the
            device; default `torch.nn.functional.conv2d`.
        device: anything that torch takes.

    Returns:
        For "conv" and "matmul": "mantissa_bits" that survive, "rounding" (None when all 23 do,
        or when none of `ROUNDINGS` explains the results) and "format" (None when unknown).
    """
    convolve = convolve or torch.nn.functional.conv2d
    identity = torch.eye(64, device=device)

    # 16 x 64 x 64 values: libraries keep few channels, one image or few elements on float32
    # paths (PyTorch hands a 1x1 convolution to oneDNN from a batch of 16, or on two threads).
    def conv(values: Tensor) -> Tensor:
        x = values.view(1, 1, 8, 8).expand(16, 64, 8, 8).contiguous()
        return convolve(x.to(device), identity[:, :, None, None])[0, 0].flatten().cpu()

    def matmul(values: Tensor) -> Tensor:
        x = values.repeat(16)[:, None].expand(1024, 64).contiguous()
        return (x.to(device) @ identity)[:64, 0].cpu()

    return {"conv": _identify(conv), "matmul": _identify(matmul)}


def _identify(send: Callable[[Tensor], Tensor]) -> dict[str, int | str | None]:
    """Tell format and rounding from what comes back for 64 values."""

    def through(values: Tensor) -> Tensor:
        return send(torch.nn.functional.pad(values, (0, 64 - len(values)), value=1.0))[
            : len(values)
        ]

    powers = 1 + 2.0 ** -torch.arange(1.0, 24.0)
    bits = int((through(powers) == powers).cumprod(0).sum())

    rounding = None
    if bits < 23:
        # Two ties, one to either side of an even neighbour, and a value to either side of a tie.
        unit = 2.0**-bits
        ties = 1 + unit * torch.tensor([0.25, 0.5, 0.75, 1.5])
        ties = torch.cat([ties, -ties])
        found = through(ties)
        rounding = next((r for r in ROUNDINGS if found.equal(round_mantissa(ties, bits, r))), None)

    # float16 ends at 65504 and at 2^-24; every other format has float32's exponents.
    extremes = torch.tensor([2.0**17, 2.0**-30])
    exponent_bits = 5 if (through(extremes) != extremes).all() else 8
    name = next(
        (
            f.name
            for f in FORMATS.values()
            if (f.mantissa_bits, f.exponent_bits) == (bits, exponent_bits)
        ),
        None,
    )
    return {"mantissa_bits": bits, "rounding": rounding, "format": name}
