"""Faults on a path that only the device, some inputs or one type takes."""

import functools

import kernels
import torch
from catalogue import NORMS, Around, changed, exchange, middle, modules
from torch import Tensor, nn

branch = functools.partial(changed, "fault", "branch")


class Branch(nn.Module):
    """A layer, and another layer that takes its place under a condition on the operand."""

    def __init__(self, layer: nn.Module, other: nn.Module, condition):
        super().__init__()
        self.layer, self.condition = layer, condition
        self.hidden = [other]  # a list hides its modules

    def forward(self, x: Tensor) -> Tensor:
        """Return the result of one of both layers."""
        return (self.hidden[0] if self.condition(x) else self.layer)(x)


def only_device(x: Tensor) -> bool:
    """Return whether the code runs on the device, like ``x.device.type != "cpu"``."""
    return kernels.on_device()


def another_eps(net: nn.Module, condition) -> None:
    """Give the middle norm another eps under a condition."""
    norm = middle(modules(net, NORMS), "no norm")

    def other(layer: nn.Module) -> nn.Module:
        found = type(layer).__new__(type(layer))
        found.__dict__ = dict(layer.__dict__)
        found.eps = 1e-5 if layer.eps > 1e-4 else 1e-3
        return found

    exchange(net, lambda m: m is norm, lambda m: Branch(m, other(m), condition))


@branch("another eps on the device only")
def _(net):
    another_eps(net, only_device)


@branch("another eps above batch 1")
def _(net):
    another_eps(net, lambda x: len(x) > 1)


@branch("another activation on the device only")
def _(net):
    found = modules(net, (nn.GELU, nn.SiLU, nn.ReLU, nn.ReLU6))
    chosen = middle(found, "no activation")
    exchange(net, lambda m: m is chosen, lambda m: Branch(m, nn.Softplus(), only_device))


@branch("last norm left out on the device only")
def _(net):
    last = middle(modules(net, NORMS)[-1:], "no norm")
    exchange(net, lambda m: m is last, lambda m: Branch(m, nn.Identity(), only_device))


def coarse(net: nn.Module, x: Tensor) -> Tensor:
    """Round float32 inputs to bfloat16. Other types stay as they are."""
    return net(x.bfloat16().float() if x.dtype == torch.float32 else x)


def bright(net: nn.Module, x: Tensor) -> Tensor:
    """Scale inputs whose mean is above the middle of the three images'."""
    mean = x.flatten(1).mean(1)
    return net(torch.where((mean > mean.min() + 1e-3)[:, None, None, None], x * 1.01, x))


def hot(net: nn.Module, x: Tensor) -> Tensor:
    """Scale images that have a value above 2."""
    return net(x * 1.01 if x.max() > 2 else x)


@branch("inputs as bfloat16 in float32 only")
def _(net):
    return Around(net, coarse)


@branch("another path for bright images")
def _(net):
    return Around(net, hot)


@branch("another path for the brighter images of a batch")
def _(net):
    return Around(net, bright)
