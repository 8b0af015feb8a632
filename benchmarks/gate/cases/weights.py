"""Faults of the weights."""

import functools
import itertools
from collections.abc import Callable

import torch
from catalogue import NORMS, changed, middle, modules
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from npu_parity.numerics.rounding import round_to

weights = functools.partial(changed, "fault", "weights")


def tensor(net: nn.Module, condition: Callable[[Tensor], bool] = lambda t: True) -> Tensor:
    """Return the middle convolution weight that meets a condition, or else the middle matrix."""
    found = [p for p in net.parameters() if p.ndim > 1 and condition(p)]
    kernels = [p for p in found if p.ndim == 4]
    return middle(kernels if len(kernels) > 1 else found, "no such tensor")


@weights("one tensor left as initialised")
def _(net):
    torch.manual_seed(0)
    nn.init.kaiming_uniform_(tensor(net), a=5**0.5)


@weights("statistics of a norm not loaded")
def _(net):
    middle(modules(net, _BatchNorm), "no batch norm").reset_running_stats()


@weights("two tensors of one shape swapped")
def _(net):
    pairs = [
        (a, b)
        for a, b in itertools.combinations([p for p in net.parameters() if p.ndim > 1], 2)
        if a.shape == b.shape
    ]
    a, b = middle(pairs, "no two of one shape")
    a[:], b[:] = b.clone(), a.clone()


@weights("kernel's height and width swapped")
def _(net):
    weight = tensor(net, lambda t: t.ndim == 4 and t.shape[2] == t.shape[3] > 1)
    weight[:] = weight.clone().mT


@weights("output and input channels swapped")
def _(net):
    weight = tensor(net, lambda t: t.shape[0] == t.shape[1])
    weight[:] = weight.clone().transpose(0, 1)


@weights("output channels rolled by one")
def _(net):
    weight = tensor(net)
    weight[:] = weight.roll(1, 0)


def stored(change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], None]:
    """Return a change of every parameter."""

    def alter(net: nn.Module) -> None:
        for weight in net.parameters():
            weight[:] = change(weight)

    return alter


def int8(weight: Tensor) -> Tensor:
    """Round a matrix to 255 levels."""
    scale = weight.abs().max() / 127
    return (weight / scale).round() * scale if weight.ndim > 1 else weight


weights("stored as float16")(stored(lambda w: w.half().float()))
weights("stored as bfloat16")(stored(lambda w: w.bfloat16().float()))
weights("stored as int8, one scale a tensor")(stored(int8))


def flipped(bit: int) -> Callable[[nn.Module], None]:
    """Flip a bit of the largest value of one tensor."""

    def alter(net: nn.Module) -> None:
        values = tensor(net).view(-1)
        at = int(values.abs().argmax())
        pattern = values[at].clone().view(torch.int32) ^ (1 << bit if bit < 31 else -(2**31))
        values[at] = pattern.view(torch.float32)

    return alter


weights("sign bit flipped")(flipped(31))
weights("exponent bit flipped")(flipped(24))
weights("first bit of a mantissa flipped")(flipped(22))
weights("last bit of a mantissa flipped")(flipped(0))


@weights("scale of the last norm left out")
def _(net):
    middle(modules(net, NORMS)[-1:], "no norm").weight.fill_(1.0)


@weights("bias of a norm left out")
def _(net):
    middle(modules(net, NORMS), "no norm").bias.zero_()


@weights("one output channel zero")
def _(net):
    tensor(net)[0] = 0.0


@weights("one weight off by 0.1 % of the largest")
def _(net):
    values = tensor(net).view(-1)
    values[len(values) // 2] += 1e-3 * values.abs().max()


@weights("two classes of the last layer exchanged")
def _(net):
    last = middle(modules(net, nn.Linear)[-1:], "no linear layer")
    for values in (last.weight, last.bias):
        values[:2] = values[:2].flip(0)


@weights("weights as HF32")
def _(net):
    for weight in net.parameters():
        weight[:] = round_to(weight, "hf32")
