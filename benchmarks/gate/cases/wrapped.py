"""Clean variations of the program: what stands around the network, and what does nothing."""

import functools

import numpy as np
import torch
from catalogue import (
    Around,
    NotApplicable,
    Port,
    around,
    case,
    changed,
    identity,
    middle,
    modules,
)
from torch import Tensor, nn

variation = functools.partial(changed, "clean", "program")


@variation("activations in place or not")
def _(net):
    for module in modules(net, nn.Module, lambda m: hasattr(m, "inplace")):
        module.inplace = not module.inplace


@variation("wrapped")
def _(net):
    return nn.Sequential(net).eval()


@variation("wrapped, with idle layers")
def _(net):
    return nn.Sequential(nn.Identity(), net, nn.Dropout(0.5), nn.Dropout(0.0)).eval()


@variation("modules renamed")
def _(net):
    inner = type("Renamed", (nn.Module,), {"forward": lambda self, x: self.network(x)})()
    inner.network = net
    return inner.eval()


@variation("gradients off, weights frozen")
def _(net):
    net.requires_grad_(False)


def inside(context) -> functools.partial:
    """Return a change that runs the network inside a context."""

    def run(net: nn.Module, x: Tensor) -> Tensor:
        with context():
            return net(x)

    return around(run)


variation("in inference mode")(inside(torch.inference_mode))
variation("with gradients")(inside(torch.enable_grad))
variation("autocast turned off")(
    inside(functools.partial(torch.autocast, "cpu", torch.bfloat16, enabled=False))
)
variation("with a profiler's marks")(
    inside(functools.partial(torch.profiler.record_function, "port"))
)
variation("anomaly detection turned off")(
    inside(functools.partial(torch.autograd.set_detect_anomaly, False))
)


def one_by_one(net: nn.Module, x: Tensor) -> Tensor:
    """Run one image after the other."""
    return torch.cat([net(row) for row in x.split(1)])


def padded_batch(net: nn.Module, x: Tensor) -> Tensor:
    """Fill a batch up to four, as a device with fixed shapes needs it."""
    filled = torch.cat([x, x.new_zeros(max(0, 4 - len(x)), *x.shape[1:])])
    return net(filled)[: len(x)]


variation("images one by one")(around(one_by_one))
variation("batches filled up to four")(around(padded_batch))


@case("clean", "batch", "images one by one in a batch of 3")
def _(system):
    return Port(Around(identity(system).model, one_by_one), batch=3)


@case("clean", "batch", "batches of 3 filled up to four")
def _(system):
    return Port(Around(identity(system).model, padded_batch), batch=3)


def idle_steps(net: nn.Module, x: Tensor) -> Tensor:
    """Reshape and squeeze without effect."""
    y = net(x.reshape(x.shape).unsqueeze(0).squeeze(0))
    return y.view(y.shape).flatten(1)


def from_the_end(net: nn.Module, x: Tensor) -> Tensor:
    """Count dimensions from the end."""
    return net(x.transpose(-1, -2).transpose(-2, -1)).flatten(-1)


def wide_constant(net: nn.Module, x: Tensor) -> Tensor:
    """Multiply by a constant that was computed in float64."""
    return net(x * torch.ones((), dtype=torch.float64).cos().acos().round().to(x.dtype))


def split_and_joined(net: nn.Module, x: Tensor) -> Tensor:
    """Split the channels and join them again."""
    return net(torch.cat(x.split(1, 1), 1))


variation("steps without effect")(around(idle_steps))
variation("dimensions counted from the end")(around(from_the_end))
variation("a constant computed in float64")(around(wide_constant))
variation("channels split and joined")(around(split_and_joined))


@variation("training flag of containers")
def _(net):
    containers = modules(net, nn.Sequential, lambda m: m is not net)
    middle(containers, "no container")
    for container in containers:
        container.training = True


@variation("children registered in another order")
def _(net):
    ordered = nn.Sequential | nn.ModuleList | nn.ModuleDict
    for module in modules(net, nn.Module, lambda m: not isinstance(m, ordered)):
        module._modules = dict(reversed(module._modules.items()))


@variation("stride of a pool left to its default")
def _(net):
    pools = modules(net, nn.MaxPool2d | nn.AvgPool2d, lambda m: m.stride == m.kernel_size)
    middle(pools, "no pool with the stride of its kernel")
    for pool in pools:
        pool.stride = None


@variation("hooks that do nothing")
def _(net):
    for module in net.modules():
        module.register_forward_hook(lambda module, args, result: None)


# --- Inputs


@case("clean", "inputs", "inputs one unit in the last place off")
def _(system):
    return Port(identity(system).model, inputs=np.nextafter(system.inputs, np.float32(np.inf)))


@case("clean", "inputs", "normalised in float64")
def _(system):
    mean, std = (
        np.array(system.settings[n], dtype=np.float64)[:, None, None] for n in ("mean", "std")
    )
    pixels = np.round((system.inputs * std + mean) * 255)
    exact = ((pixels / 255 - mean) / std).astype(np.float32)
    if not np.allclose(exact, system.inputs, atol=1e-3):
        raise NotApplicable("the inputs are no whole pixels")
    return Port(identity(system).model, inputs=exact)


@case("clean", "inputs", "another copy of the inputs, with channels last")
def _(system):
    last = np.ascontiguousarray(system.inputs.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return Port(identity(system).model, inputs=last)
