"""Faults and harmless peculiarities on the host: of outputs, state, batches and branches.

`faults` registers them. A change of the outputs gets the rows of one forward pass, float32.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from kernels import Kernels
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

Alter = Callable[[NDArray], NDArray]


class Host(nn.Module):
    """A network with an error in the copy of its outputs to the host, outside any operator."""

    def __init__(self, net: nn.Module, alter: Alter):
        super().__init__()
        self.net, self.alter = net, alter
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs on the host."""
        return torch.from_numpy(self.alter(self.net(x).numpy().copy()).copy())


def copied(alter: Alter) -> Callable[[nn.Module], nn.Module]:
    """Return a change of the outputs."""
    return lambda net: Host(net, alter)


def column(change: Callable[[Any, NDArray], Any], where: float = 0.5) -> Alter:
    """Return a change of one column, which gets the column and all outputs."""

    def alter(y: NDArray) -> NDArray:
        i = int(where * (y.shape[1] - 1))
        y[:, i] = change(y[:, i].copy(), y)
        return y

    return alter


def exchanged(y: NDArray) -> NDArray:
    """Exchange the first two columns."""
    y[:, [0, 1]] = y[:, [1, 0]]
    return y


def stored_as(dtype: torch.dtype, rows: slice = slice(None), columns: slice = slice(None)) -> Alter:
    """Store some values in a smaller format, and widen them again."""

    def alter(y: NDArray) -> NDArray:
        y[rows, columns] = torch.from_numpy(y[rows, columns]).to(dtype).float().numpy()
        return y

    return alter


def later(alter: Alter) -> Alter:
    """Apply a change from the second pass on."""
    passes = []

    def altered(y: NDArray) -> NDArray:
        passes.append(None)
        return alter(y) if len(passes) > 1 else y

    return altered


def stale(share: float = 0.0) -> Alter:
    """Take the columns after this share of them from the pass before."""
    kept: list[NDArray] = []

    def alter(y: NDArray) -> NDArray:
        kept.append(y.copy())
        if len(kept) > 1 and kept[-2].shape == y.shape:
            first = int(share * y.shape[1])
            y[:, first:] = kept[-2][:, first:]
        return y

    return alter


def first_only() -> Alter:
    """Return the outputs of the first pass each time."""
    kept: list[NDArray] = []

    def alter(y: NDArray) -> NDArray:
        kept.append(y)
        return kept[0] if kept[0].shape == y.shape else y

    return alter


def best_lost(y: NDArray) -> NDArray:
    """Lower the best class of each row below the second."""
    order = np.argsort(y, axis=1)
    rows = np.arange(len(y))
    y[rows, order[:, -1]] = y[rows, order[:, -2]] - np.abs(y).max() * 1e-4
    return y


def noise(size: float) -> Alter:
    """Add noise that is different in each pass."""
    generator = np.random.default_rng(0)

    def alter(y: NDArray) -> NDArray:
        largest = np.abs(y).max()
        return y + (size * largest * generator.standard_normal(y.shape)).astype(y.dtype)

    return alter


def drift(size: float) -> Alter:
    """Scale the outputs a little more in each pass."""
    passes = []

    def alter(y: NDArray) -> NDArray:
        passes.append(None)
        return y * np.float32(1 + size * len(passes))

    return alter


def in_batches(alter: Alter) -> Alter:
    """Apply a change to batches above one only."""
    return lambda y: alter(y) if len(y) > 1 else y


def last_row(change: Alter) -> Alter:
    """Apply a change to the last row."""

    def alter(y: NDArray) -> NDArray:
        y[-1:] = change(y[-1:].copy())
        return y

    return alter


HOST: dict[str, Callable[[], Alter]] = {
    "two classes exchanged": lambda: exchanged,
    "one column off by a thousandth": lambda: column(lambda c, y: c + 1e-3 * np.abs(y).max()),
    "one column off by a hundredth": lambda: column(lambda c, y: c + 1e-2 * np.abs(y).max()),
    "sign of one column": lambda: column(lambda c, y: -c),
    "one column from its neighbour": lambda: column(lambda c, y: y[:, 0]),
    "outputs scaled by 1.002": lambda: lambda y: y * np.float32(1.002),
    "outputs shifted": lambda: lambda y: y + np.float32(1e-3) * np.abs(y).max(),
    "outputs clipped": lambda: lambda y: np.minimum(y, np.quantile(y, 0.99)).astype(y.dtype),
    "outputs as bfloat16": lambda: stored_as(torch.bfloat16),
    "outputs as float16 from the second input on": lambda: later(stored_as(torch.float16)),
    "half of the columns as float16": lambda: stored_as(torch.float16, columns=slice(0, None, 2)),
    "outputs rounded to three decimals": lambda: lambda y: y.round(3),
    "outputs in reverse order": lambda: lambda y: y[:, ::-1],
    "last tenth of the columns from the pass before": lambda: stale(0.9),
    "outputs of the first input each time": first_only,
    "best class lost": lambda: best_lost,
    "softmax temperature of 1.01": lambda: lambda y: y / np.float32(1.01),
    "a value of a tile left out": lambda: column(lambda c, y: 0 * c, where=0.9),
}


STATE: dict[str, Callable[[], Alter]] = {
    "noise of a thousandth": lambda: noise(1e-3),
    "noise of a millionth of the outputs and more": lambda: noise(1e-5),
    "outputs that drift from pass to pass": lambda: drift(1e-3),
    "batches above one: the last row lost": lambda: in_batches(last_row(lambda y: 0 * y)),
    "batches above one: rows in reverse order": lambda: in_batches(lambda y: y[::-1]),
    "batches above one: columns shifted": lambda: in_batches(lambda y: np.roll(y, 1, axis=1)),
    "batches above one: scaled": lambda: in_batches(lambda y: y * np.float32(1.01)),
    "batches above one: stored as bfloat16": lambda: in_batches(stored_as(torch.bfloat16)),
}


def on_a_device() -> bool:
    """Return whether a simulated device executes the operators."""
    return any(isinstance(mode, Kernels) for mode in _get_current_dispatch_mode_stack())


class Branch(nn.Module):
    """A network that computes something else where a device executes it."""

    def __init__(self, net: nn.Module, change: Callable[[Tensor], Tensor]):
        super().__init__()
        self.net, self.change = net, change
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        return self.change(self.net(x)) if on_a_device() else self.net(x)


BRANCHES: dict[str, Callable[[Tensor], Tensor]] = {
    "scaled": lambda y: y * 1.01,
    "columns rolled": lambda y: y.roll(1, 1),
    "clamped": lambda y: y.clamp(max=float(y.quantile(0.99))),
}


# --- Harmless peculiarities


class Peculiar(nn.Module):
    """A network with something harmless around it: `before` its input and `after` its output."""

    def __init__(
        self,
        net: nn.Module,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[[Tensor], Any] = lambda y: y,
    ):
        super().__init__()
        self.net, self.before, self.after = net, before, after
        self.eval()

    def forward(self, x: Tensor) -> Any:
        """Return the outputs."""
        return self.after(self.net(self.before(x)))


class Buffered(nn.Module):
    """A network that writes its outputs into the same memory in each pass."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.memory: dict[Any, Tensor] = {}
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        y = self.net(x)
        return self.memory.setdefault(y.shape, torch.empty_like(y)).copy_(y)


class Overwriting(nn.Module):
    """A network that overwrites its input after it has used it."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        y = self.net(x.clone())
        x.zero_()
        return y


def hooked(net: nn.Module) -> nn.Module:
    """Add hooks that only look."""
    for module in net.modules():
        module.register_forward_hook(lambda *_: None)
    return net


RIGHT: dict[str, Callable[[nn.Module], nn.Module]] = {
    "outputs in a buffer that is reused": Buffered,
    "input overwritten after use": Overwriting,
    "input copied": lambda net: Peculiar(net, before=torch.clone),
    "input in channels last": lambda net: Peculiar(
        net, before=lambda x: x.contiguous(memory_format=torch.channels_last)
    ),
    "input split into images and put together": lambda net: Peculiar(
        net, before=lambda x: torch.cat(x.split(1))
    ),
    "outputs in a list": lambda net: Peculiar(net, after=lambda y: [y]),
    "outputs in a dictionary": lambda net: Peculiar(net, after=lambda y: {"out": y}),
    "outputs not contiguous": lambda net: Peculiar(net, after=lambda y: y.t().contiguous().t()),
    "outputs reshaped to themselves": lambda net: Peculiar(
        net, after=lambda y: y.reshape(y.shape).view(-1, y.shape[-1])
    ),
    "outputs detached": lambda net: Peculiar(net, after=torch.Tensor.detach),
    "hooks that only look": hooked,
}
