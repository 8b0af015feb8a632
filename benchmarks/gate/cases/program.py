"""Faults of the program."""

import copy
import functools
import itertools
from collections.abc import Callable

import torch
from catalogue import NORMS, Port, case, changed, exchange, middle, modules
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

program = functools.partial(changed, "fault", "program")


@program("eps of one norm")
def _(net):
    norm = middle(modules(net, NORMS), "no norm")
    norm.eps = 1e-5 if norm.eps > 1e-4 else 1e-3


@program("eps of all norms")
def _(net):
    for norm in modules(net, NORMS):
        norm.eps = 1e-5 if norm.eps > 1e-4 else 1e-3


@program("eval() not called")
def _(net):
    net.train()


@program("one norm in training mode")
def _(net):
    middle(modules(net, _BatchNorm), "no batch norm").train()


@program("dropout active before the last layer")
def _(net):
    last = middle(modules(net, nn.Linear)[-1:], "no linear layer")
    exchange(net, lambda m: m is last, lambda m: nn.Sequential(nn.Dropout(0.2), m))
    modules(net, nn.Dropout)[-1].train()


def activation(old: str, new: Callable[[], nn.Module]) -> Callable[[nn.Module], None]:
    """Return a change of every activation of a class."""
    return lambda net: exchange(net, lambda m: type(m).__name__ == old, lambda m: new())


program("ReLU → ReLU6")(activation("ReLU", nn.ReLU6))
program("ReLU6 → ReLU")(activation("ReLU6", nn.ReLU))
program("GELU → its tanh approximation")(activation("GELU", lambda: nn.GELU("tanh")))
program("SiLU → Hardswish")(activation("SiLU", nn.Hardswish))
program("Sigmoid → Hardsigmoid")(activation("Sigmoid", nn.Hardsigmoid))


def padded(net: nn.Module) -> nn.Conv2d:
    """Return the middle convolution with its own padding."""
    own = modules(net, nn.Conv2d, lambda m: type(m) is nn.Conv2d and any(m.padding))
    return middle(own, "no padded convolution")


@program("padding by replication")
def _(net):
    padded(net).padding_mode = "replicate"


@program("padding by reflection")
def _(net):
    padded(net).padding_mode = "reflect"


@program("ceil_mode of the pools")
def _(net):
    pools = modules(net, nn.MaxPool2d, lambda m: m.stride == 2)
    middle(pools, "no strided pool")
    for pool in pools:
        pool.ceil_mode = not pool.ceil_mode


@program("stride of a pool or of the first convolution")
def _(net):
    pools = modules(net, nn.MaxPool2d)
    layer = pools[0] if pools else modules(net, nn.Conv2d)[0]
    size = layer.stride if isinstance(layer.stride, int) else layer.stride[0]
    layer.stride = size + 1 if isinstance(layer.stride, int) else (size + 1,) * 2


@program("dilation of a convolution")
def _(net):
    layer = middle(
        modules(
            net,
            nn.Conv2d,
            lambda m: type(m) is nn.Conv2d and m.kernel_size[0] > 1 and any(m.padding),
        ),
        "no padded convolution",
    )
    layer.dilation = (2, 2)
    layer.padding = tuple(p + k // 2 for p, k in zip(layer.padding, layer.kernel_size, strict=True))


@program("bias of a linear layer left out")
def _(net):
    middle(modules(net, nn.Linear, lambda m: m.bias is not None), "no linear layer").bias = None


@program("bias of a convolution left out")
def _(net):
    middle(modules(net, nn.Conv2d, lambda m: m.bias is not None), "no such bias").bias = None


@case("fault", "program", "one block left out")
def _(system):
    net = copy.deepcopy(system.model)
    shapes = {}

    def note(module, args, result):
        shapes[module] = args[0].shape, result.shape

    siblings = [pair for m in modules(net, nn.Sequential) for pair in itertools.pairwise(m)]
    blocks = [b for a, b in siblings if type(a) is type(b) and [*b.children()]]
    handles = [b.register_forward_hook(note) for b in blocks]
    with torch.no_grad():
        net(torch.from_numpy(system.inputs[:1]))
    for handle in handles:
        handle.remove()
    block = middle([b for b, (x, y) in shapes.items() if x == y], "no block that can go")
    exchange(net, lambda m: m is block, lambda m: nn.Identity())
    return Port(net)


@program("last layer left out")
def _(net):
    last = middle(modules(net, nn.Linear)[-1:], "no linear layer")
    exchange(net, lambda m: m is last, lambda m: nn.Identity())


@program("probabilities instead of logits")
def _(net):
    return nn.Sequential(net, nn.Softmax(1)).eval()


@program("maps flattened with channels last")
def _(net):
    pool = middle([m for n, m in net.named_modules() if n == "_pool"], "nothing is flattened")
    pool.register_forward_hook(lambda module, args, y: y.permute(0, 2, 3, 1))


@program("attention not scaled")
def _(net):
    layers = modules(net, nn.Module, lambda m: hasattr(m, "fused_attn"))
    middle(layers, "no attention").fused_attn = False
    middle(layers, "no attention").scale = 1.0


@program("image upside down")
def _(net):
    return nn.Sequential(Flip(), net).eval()


class Flip(nn.Module):
    """Turn an image upside down."""

    def forward(self, x):
        """Return the flipped image."""
        return x.flip(-2)
