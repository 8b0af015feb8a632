"""Faults of storage: results in fewer bits, widened again."""

import copy
from typing import Any

import numpy as np
import torch
from catalogue import Around, Port, System, case, changed, exchange, middle, modules
from numpy.typing import NDArray
from torch import Tensor, nn

from cases.host import Alter, Host, altered
from npu_parity.numerics.rounding import round_mantissa


def narrowed(y: NDArray, dtype: torch.dtype) -> NDArray:
    """Round to a type of torch."""
    return torch.from_numpy(y).to(dtype).to(torch.float32).numpy()


def levels(count: int) -> Alter:
    """Return a change to `count` values between the smallest and the largest of each row."""

    def alter(y: NDArray) -> NDArray:
        low, high = y.min(axis=1, keepdims=True), y.max(axis=1, keepdims=True)
        step = (high - low) / (count - 1)
        return low + np.round((y - low) / step) * step

    return alter


def float16(y: NDArray) -> NDArray:
    """Round to float16."""
    return narrowed(y, torch.float16)


def bfloat16(y: NDArray) -> NDArray:
    """Round to bfloat16."""
    return narrowed(y, torch.bfloat16)


def fewer_bits(y: NDArray) -> NDArray:
    """Keep 15 of 23 bits of the mantissa."""
    return round_mantissa(torch.from_numpy(y).float(), 15).numpy()


altered("storage", "outputs as float16", float16)
altered("storage", "outputs as bfloat16", bfloat16)
altered("storage", "outputs in 15 bits of mantissa", fewer_bits)
altered("storage", "outputs in 256 levels", levels(256))
altered("storage", "outputs in 4096 levels", levels(4096))
altered("storage", "outputs as float16, on the device only", float16, only_device=True)
altered("storage", "outputs as bfloat16, on the device only", bfloat16, only_device=True)
altered("storage", "outputs in 256 levels, on the device only", levels(256), only_device=True)


def for_input(name: str, alter: Alter, chosen: slice, only_device: bool = False) -> None:
    """Register a change of the outputs of some inputs only."""

    @case("fault", "storage", name)
    def _(system: System) -> Port:
        net = Host(copy.deepcopy(system.model), alter, only_device)
        images = torch.from_numpy(system.inputs[chosen])

        def run(host: Any, x: Tensor) -> Tensor:
            own = [any(torch.equal(row.float(), image) for image in images) for row in x]
            right = host.net(x)
            return torch.where(torch.tensor(own)[:, None], host(x), right)

        return Port(Around(net, run))


for_input("outputs as float16 from the second input on", float16, slice(1, None))
for_input("outputs as bfloat16 for the last input", bfloat16, slice(-1, None))
for_input(
    "outputs as float16 from the second input on, on the device only",
    float16,
    slice(1, None),
    only_device=True,
)


class Narrowed(nn.Module):
    """A layer whose operand was stored in another type."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.layer, self.dtype = layer, dtype

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's result."""
        return self.layer(x.to(self.dtype).to(x.dtype))


@changed("fault", "storage", "features stored as float16 before the last layer")
def _(net):
    last = middle(modules(net, nn.Linear)[-1:], "no linear layer")
    exchange(net, lambda m: m is last, lambda m: Narrowed(m, torch.float16))


@changed("fault", "storage", "inputs stored as bfloat16")
def _(net):
    return Narrowed(net, torch.bfloat16).eval()
