"""Emulate a device's numerics on another device, to predict the outputs.

A matrix unit rounds the operands of every convolution and matrix product, and adds in float32. The
emulation does the same::

    with emulate(PRESETS["ascend910b"]), torch.inference_mode():
        predicted = model(x)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from npu_parity.errors import ParityError
from npu_parity.numerics.dispatch import Operators
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

# Fused kernels hide their products from a dispatch mode. `emulate` makes torch avoid all of them
# except the last two. Without rounding, the predicted difference would be too small.
_FUSED = {
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention,
    aten._scaled_dot_product_cudnn_attention,
    aten._native_multi_head_attention,
    aten._transformer_encoder_layer_fwd,
    aten.conv_tbc,
}


class Emulation(Operators):
    """Rounds the float32 operands of convolutions and matrix products, then runs them in float32.

    It does not change biases, accumulators, other operators and other dtypes. It rounds each weight
    once, so do not write to weights through ``.data`` inside. Enter it through `emulate`, which
    also prevents fused attention.

    Raises:
        ParityError: an operator hides its products.
    """

    def __init__(self, numerics: Numerics):
        super().__init__()
        self.numerics = numerics
        self._memory: dict[tuple[int, torch.dtype], Tensor] = {}
        self._weights: dict[tuple[int, int, int, str], tuple[Tensor, Tensor]] = {}

    def run(
        self, func: torch._ops.OpOverload[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Round the operands of a product, and run any operator."""
        operator = func.overloadpacket
        if operator in _CONVOLUTIONS:
            args = self._round(args, 0, self._conv_format(args))
        elif operator in _MATRIX_PRODUCTS:
            args = self._round(args, _MATRIX_PRODUCTS[operator], self.numerics.matmul)
        elif operator in _FUSED:
            raise ParityError(
                f"found {func}, whose matrix products cannot be rounded, expected separate ones: "
                "run attention inside npu_parity.emulate"
            )
        return func(*args, **kwargs)

    def _conv_format(self, args: tuple[Any, ...]) -> str:
        groups = args[8]
        depthwise = groups > 1 and groups == args[0].shape[1]
        return (depthwise and self.numerics.depthwise_conv) or self.numerics.conv

    def _round(self, args: tuple[Any, ...], first: int, format_name: str) -> tuple[Any, ...]:
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
        """Return the rounded weight. Keep the original alive, so that its id stays unique."""
        key = id(x), x.data_ptr(), x._version, format_name
        if key not in self._weights:
            self._weights[key] = x, round_to(x, format_name, self.numerics.rounding)
        return self._weights[key][1]

    def _like(self, x: Tensor, i: int, dtype: torch.dtype) -> Tensor:
        """Return reused memory for the i-th operand. New memory costs more than the rounding."""
        held = self._memory.get((i, dtype))
        if held is None or held.numel() < x.numel():
            held = self._memory[i, dtype] = torch.empty(x.numel(), dtype=dtype, device=x.device)
        if x.is_contiguous():
            return held[: x.numel()].view(x.shape)
        layout = torch.empty_like(x, device="meta")
        return held.as_strided(layout.shape, layout.stride())


@contextmanager
def emulate(numerics: Numerics) -> Iterator[None]:
    """Run the code inside with a device's numerics. Exact numerics change nothing.

    It works under `torch.no_grad` and `torch.inference_mode`. It splits attention into two matrix
    products, because fused kernels hide them.

    >>> x = torch.tensor([[1 + 2.0**-12]])
    >>> with emulate(Numerics(matmul="hf32")):
    ...     x @ torch.ones(1, 1)
    tensor([[1.]])
    """
    if numerics.is_exact:
        yield
        return
    with attention_apart(), Emulation(numerics):
        yield


@contextmanager
def attention_apart() -> Iterator[None]:
    """Make torch compute attention as two matrix products, because a fused kernel hides them."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
