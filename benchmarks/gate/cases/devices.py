"""Clean variations of the device: its rounding, its settings, and operands that need few bits."""

import copy
import functools
from collections.abc import Callable

import kernels
import torch
from catalogue import (
    BF16_UNITS,
    Around,
    NotApplicable,
    Port,
    System,
    case,
    executed,
    identity,
    middle,
    modules,
)
from kernels import FLOAT32, HF32, device, under
from torch import nn

from npu_parity.backends.device import Device
from npu_parity.numerics.formats import Numerics

TOWARD_ZERO = Numerics(conv="hf32", rounding="toward_zero")


def batches(size: int) -> Callable[[System], Port]:
    """Return a function for a correct port with `size` inputs in one forward pass."""
    return lambda system: Port(copy.deepcopy(system.model), batch=size)


case("clean", "device", "HF32, ties to even")(identity)
case("clean", "device", "HF32 toward zero, as promised", TOWARD_ZERO)(identity)
case("clean", "device", "this CPU, float32 promised", FLOAT32)(identity)
case("clean", "device", "this CPU, one batch", FLOAT32)(batches(3))
case("clean", "device", "batches of 2")(batches(2))
case("clean", "device", "batches of 3")(batches(3))


@case("clean", "device", "this CPU's bf16 units, as promised", BF16_UNITS)
def _(system):
    reason = Device("cpu", BF16_UNITS).missing()
    if reason:
        raise NotApplicable(reason)
    return identity(system)


executed(
    "clean", "device", "HF32, ties away", device(Numerics(conv="hf32", rounding="nearest_away"))
)
executed("clean", "device", "float32 where HF32 was promised", device(FLOAT32))
for prefix, numerics in (("", HF32), ("this CPU, ", FLOAT32)):
    for count in ("1 thread", "2 threads"):
        setting = functools.partial(kernels.threads, int(count[0]))
        executed("clean", "device", prefix + count, under(setting, numerics), numerics)
    executed(
        "clean",
        "device",
        f"{prefix}without oneDNN",
        under(kernels.without_onednn, numerics),
        numerics,
    )
executed("clean", "device", "subnormals flushed to zero", under(kernels.flushing))


for form in ("tf32", "fp16", "bf16"):
    case("clean", "device", f"{form.upper()}, as promised", Numerics(conv=form))(identity)
EVERYWHERE = Numerics(conv="hf32", matmul="hf32")
case("clean", "device", "HF32 for all products, as promised", EVERYWHERE)(identity)
case("clean", "device", "FP16 for all products, as promised", Numerics(conv="fp16", matmul="fp16"))(
    identity
)


def other_reference(name: str, promised: Numerics = HF32):
    """Register a change of the network. It becomes the reference, and the port is its copy."""

    def register(change: Callable[[nn.Module], nn.Module | None]) -> None:
        @case("clean", "operand", name, promised)
        def _(system: System) -> Port:
            net = copy.deepcopy(system.model)
            with torch.no_grad():
                net = change(net) or net
            return Port(copy.deepcopy(net), reference=net)

    return register


@other_reference("uniform attention", EVERYWHERE)
def _(net):
    layers = [m for n, m in net.named_modules() if n.endswith("qkv")]
    middle(layers, "no attention")
    for layer in layers:
        layer.weight[: 2 * len(layer.weight) // 3] = 0.0
        layer.bias[: 2 * len(layer.bias) // 3] = 0.0


for name, promised in (("HF32", HF32), ("FP16", Numerics(conv="fp16", matmul="fp16"))):

    @other_reference(f"values near 1e-5 in {name}", promised)
    def _(net):
        first = modules(net, nn.Conv2d)[0]
        first.weight.mul_(1e-5 / first.weight.abs().max())


@other_reference("equal weights in a convolution")
def _(net):
    modules(net, nn.Conv2d)[0].weight.fill_(0.1)


@other_reference("weights that are powers of two")
def _(net):
    for layer in modules(net, nn.Conv2d):
        layer.weight.copy_(layer.weight.sign() * 2.0 ** layer.weight.abs().log2().round())


@other_reference("images of one value")
def _(net):
    return Around(net, lambda net, x: net(torch.ones_like(x) * x.mean((1, 2, 3), keepdim=True)))
