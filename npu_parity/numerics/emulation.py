"""A device's numerics emulated on any other: a prediction of what the device returns.

Rounding the operands of every convolution and matrix product and leaving the sums alone is what a
matrix unit does::

    with emulate(PRESETS["ascend910b"]), torch.inference_mode():
        predicted = model(x)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from npu_parity.errors import ParityError
from npu_parity.numerics.formats import Numerics
from npu_parity.numerics.rounding import NARROW, round_to

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
def is_composite(func: torch._ops.OpOverload) -> bool:
    """Whether an operator is made of others on every backend; inference_mode delivers it whole."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


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
                "attention goes under npu_parity.emulation.emulate, "
                "an LSTM after torch.backends.mkldnn.enabled = False"
            )
        elif is_composite(func):  # linear, conv2d, einsum ...
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
            if isinstance(x, nn.Parameter) and not x.is_inference():  # those have no version
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
