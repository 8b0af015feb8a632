"""Faults of the host: of what it does with the outputs, outside of any operator."""

import copy
from collections.abc import Callable

import kernels
import numpy as np
import torch
import wrong
from catalogue import Port, System, case
from kernels import HF32, device, only, result
from numpy.typing import NDArray
from torch import Tensor, nn

Alter = Callable[[NDArray], NDArray]


class Host(nn.Module):
    """A network, and an error in the copy of its outputs to the host, outside any operator.

    Args:
        net: the network.
        alter: a function of the outputs (rows, columns).
        only_device: whether the error is absent on the reference's own device.
    """

    def __init__(self, net: nn.Module, alter: Alter, only_device: bool = False):
        super().__init__()
        self.net, self.alter, self.only_device = net, alter, only_device
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs on the host."""
        y = self.net(x)
        if self.only_device and not kernels.on_device():
            return y
        return torch.from_numpy(self.alter(y.numpy().copy()).copy())


def altered(group: str, name: str, alter: Alter, batch: int = 1, only_device: bool = False) -> None:
    """Register a fault of the outputs of each forward pass."""

    @case("fault", group, name)
    def _(system: System) -> Port:
        return Port(Host(copy.deepcopy(system.model), alter, only_device), batch=batch)


def middle_column(change: Callable[[NDArray, NDArray], NDArray | float]) -> Alter:
    """Return a change of the middle column; `change` gets it and all outputs."""

    def alter(y: NDArray) -> NDArray:
        column = y.shape[1] // 2
        y[:, column] = change(y[:, column], y)
        return y

    return alter


def exchanged_classes(y: NDArray) -> NDArray:
    """Exchange the middle two columns."""
    at = y.shape[1] // 2
    y[:, [at, at + 1]] = y[:, [at + 1, at]]
    return y


def softmax(y: NDArray) -> NDArray:
    """Return probabilities."""
    powers = np.exp(y - y.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


off_by_a_tenth = middle_column(lambda column, y: column + 0.1 * y.std())


def slightly_scaled(y: NDArray) -> NDArray:
    """Scale by 1.002."""
    return y * y.dtype.type(1.002)


altered("host", "classes shifted by one", lambda y: np.roll(y, 1, axis=1))
altered("host", "NaN in one place", middle_column(lambda column, y: np.nan))
altered("host", "infinity in one place", middle_column(lambda column, y: np.inf))
altered("host", "last column not copied", lambda y: np.hstack([y[:, :-1], 0 * y[:, :1]]))
altered("host", "items of a batch swapped", lambda y: y[::-1], batch=3)
altered("host", "two classes exchanged", exchanged_classes)
altered("host", "one logit off by a tenth of the spread", off_by_a_tenth)
altered("host", "outputs scaled by 1.002", slightly_scaled)
altered("host", "outputs of two inputs exchanged", lambda y: np.vstack([y[:2][::-1], y[2:]]), 3)
altered("host", "one row repeated", lambda y: y[[*range(len(y) - 1), 0]], batch=3)
altered("host", "outputs sorted", lambda y: np.sort(y, axis=1))
altered("host", "outputs rounded to 3 decimals", lambda y: y.round(3))
altered("host", "outputs clipped", lambda y: np.clip(y, None, 0.95 * y.max(axis=1, keepdims=True)))
altered("host", "softmax twice", lambda y: softmax(softmax(y)))
altered("host", "one column zero", middle_column(lambda column, y: 0.0))
altered("host", "sign of one column lost", middle_column(lambda column, y: abs(column)))
altered("host", "a constant added to all outputs", lambda y: y + y.dtype.type(0.01) * y.std())


@case("fault", "host", "NaN of a kernel replaced by zero")
def _(system):
    nan = only(system.convolution(), result(wrong.put(float("nan"))))
    net = Host(copy.deepcopy(system.model), np.nan_to_num)
    return Port(net, kernels=device(HF32, "convolution", change=nan))


class Stale(nn.Module):
    """A network that returns the outputs of the call before."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.kept = net, []
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the previous outputs."""
        self.kept.append(self.net(x))
        return self.kept[-2:][0]


@case("fault", "host", "the previous input's outputs")
def _(system):
    return Port(Stale(copy.deepcopy(system.model)))


for name, alter in {
    "two classes exchanged": exchanged_classes,
    "one logit off by a tenth of the spread": off_by_a_tenth,
    "outputs scaled by 1.002": slightly_scaled,
    "last column not copied": lambda y: np.hstack([y[:, :-1], 0 * y[:, :1]]),
    "outputs rounded to 3 decimals": lambda y: y.round(3),
}.items():
    altered("copy", f"{name}, on the device only", alter, only_device=True)
