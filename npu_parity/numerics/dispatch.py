"""A mode that sees every operator of a network, composite ones as their parts."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from npu_parity.numerics.schema import is_composite

aten = torch.ops.aten


class Operators(TorchDispatchMode):
    """Runs every operator through `run`. A composite operator is split before."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no type for it

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if split := self.parts(func):  # linear, conv2d, einsum ...
            with self:
                return split(*args, **kwargs)
        return self.run(func, args, kwargs)

    def parts(self, func: torch._ops.OpOverload) -> Callable[..., Any] | None:
        """Return a function that computes an operator from other operators; None: do not split."""
        return parts(func)

    def run(
        self, func: torch._ops.OpOverload[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run one operator. The mode is not active inside."""
        return func(*args, **kwargs)


def parts(func: torch._ops.OpOverload) -> Callable[..., Any] | None:
    """Return a function that computes an operator from other operators; None if it has no parts.

    The parts of a layer of an LSTM are visible to a dispatch mode. Its fused kernel hides them.
    """
    if func.overloadpacket is aten.mkldnn_rnn_layer:
        return _lstm_layer
    return func.decompose if is_composite(func) else None


def _lstm_layer(
    x: Tensor,
    input_weight: Tensor,
    weight: Tensor,
    input_bias: Tensor,
    bias: Tensor,
    hidden: Tensor,
    cell: Tensor,
    reverse: bool,
    batch_sizes: list[int],
    mode: int,
    hidden_size: int,
    num_layers: int,
    has_biases: bool,
    bidirectional: bool,
    batch_first: bool,
    train: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute ``aten.mkldnn_rnn_layer``: one direction of a layer, x of shape (time, batch, n)."""
    biases = (input_bias, bias) if has_biases else (None, None)
    steps = torch.nn.functional.linear(x, input_weight, biases[0]).unbind(0)
    h, c = (state.reshape(x.shape[1], hidden_size) for state in (hidden, cell))
    outputs = []
    for step in reversed(steps) if reverse else steps:
        gates = step + torch.nn.functional.linear(h, weight, biases[1])
        take, keep, new, give = gates.chunk(4, -1)
        c = keep.sigmoid() * c + take.sigmoid() * new.tanh()
        h = give.sigmoid() * c.tanh()
        outputs.append(h)
    output = torch.stack(outputs[::-1] if reverse else outputs)
    return output, h.reshape(hidden.shape), c.reshape(cell.shape), x.new_zeros(0)
