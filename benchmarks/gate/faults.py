"""The catalogue of porting faults, which a gate must catch, and of clean variations.

A case makes a `Port` of a `System`: the port's network, its preprocessed inputs, and its kernels.
The program does not show kernels and copies to the host.
"""

import copy
import functools
import io
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import kernels
import numpy as np
import safetensors.torch
import torch
from kernels import FLOAT32, HF32, device, only, result, under
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from npu_parity.backends.device import Device
from npu_parity.check import Context, Original
from npu_parity.numerics.formats import PRESETS, Numerics
from npu_parity.sources.preprocessing import Preprocessing

NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)
TOWARD_ZERO = Numerics(conv="hf32", rounding="toward_zero")
BF16_UNITS = PRESETS["cpu_bf16"]


class NotApplicable(Exception):
    """The case does not apply to the system."""


@dataclass
class System:
    """A network, its images and their preprocessing.

    Attributes:
        settings: settings of `Preprocessing`: resize, crop, interpolation, mean, std.
        pretrained: whether the weights are trained.
    """

    name: str
    model: nn.Module
    images: list[Image.Image]
    settings: dict[str, Any]
    task: str = "classification"
    heads: Mapping[str, int] | None = None
    pretrained: bool = False
    _originals: dict[Numerics, Original] = field(default_factory=dict)

    def prepared(
        self, alter: Callable[[Image.Image], Image.Image] | None = None, **other
    ) -> NDArray:
        """Return the inputs with other settings or altered images."""
        prepare = Preprocessing("", self.settings | other)
        return np.stack([prepare(alter(i) if alter else i) for i in self.images])

    @cached_property
    def inputs(self) -> NDArray:
        """The inputs of the reference."""
        return self.prepared()

    def original(self, promised: Numerics = HF32) -> Original:
        """Return the reference for ports to this CPU or to a simulated device."""
        if promised not in self._originals:
            self._originals[promised] = Original(
                self.model,
                self.inputs,
                Device("cpu", promised),
                task=self.task,
                heads=self.heads,
                pretrained=self.pretrained,
                kernels=None if promised in (FLOAT32, BF16_UNITS) else device(promised),
            )
        return self._originals[promised]

    def convolution(self) -> torch.Size:
        """Return the weight shape of the middle dense convolution larger than 1x1."""
        shapes = [
            c.arguments["weight"].shape
            for c in self.original().calls
            if c.name == "convolution" and c.arguments["groups"] == 1
        ]
        return middle([s for s in shapes if s[2] > 1] or shapes, "no convolution")


@dataclass
class Port:
    """A port; the attributes are the arguments of `Original.check`."""

    model: nn.Module
    inputs: NDArray | None = None
    kernels: Context | None = None
    batch: int = 1


@dataclass(frozen=True)
class Case:
    """One fault, or one clean variation.

    Attributes:
        kind: ``fault`` or ``clean``.
        where: the place of the change: program, weights, inputs, kernel, host.
        make: returns the port or raises `NotApplicable`.
        promised: the numerics that the device promises.
    """

    name: str
    kind: str
    where: str
    make: Callable[[System], Port]
    promised: Numerics = HF32


CASES: list[Case] = []

# Variations that npu-parity does not pass, with the reason.
FALSE_ALARMS: dict[str, str] = {}
# Faults that npu-parity passes on some networks, with the reason.
LET_THROUGH: dict[str, str] = {}


def middle(found: list, why: str) -> Any:
    """Return the middle element; NotApplicable if there is none."""
    if not found:
        raise NotApplicable(why)
    return found[len(found) // 2]


def case(kind: str, where: str, name: str, promised: Numerics = HF32):
    """Register a function from a system to a port."""

    def register(make: Callable[[System], Port]) -> None:
        CASES.append(Case(name, kind, where, make, promised))

    return register


def changed(kind: str, where: str, name: str):
    """Register a function that changes a copy of the network, or returns another network."""

    def register(function: Callable[[nn.Module], nn.Module | None]) -> None:
        @case(kind, where, name)
        def _(system: System) -> Port:
            net = copy.deepcopy(system.model)
            with torch.no_grad():
                return Port(function(net) or net)

    return register


def program(name: str):
    """Register a change of the program, see `changed`."""
    return changed("fault", "program", name)


def weights(name: str):
    """Register a change of the weights, see `changed`."""
    return changed("fault", "weights", name)


def host(name: str):
    """Register a change of the outputs on the host, see `changed`."""
    return changed("fault", "host", name)


def inputs(name: str):
    """Register a function from a system to the port's inputs."""

    def register(function: Callable[[System], NDArray]) -> None:
        @case("fault", "inputs", name)
        def _(system: System) -> Port:
            return Port(copy.deepcopy(system.model), inputs=function(system))

    return register


def executed(kind: str, name: str, within: Context, promised: Numerics = HF32, *needed: str):
    """Register kernels for networks with at least one of the operators `needed`."""

    @case(kind, "kernel", name, promised)
    def _(system: System) -> Port:
        if needed and not {c.name for c in system.original().calls} & set(needed):
            raise NotApplicable(f"no {' or '.join(needed)}")
        return Port(copy.deepcopy(system.model), kernels=within)


def modules(net: nn.Module, kind, condition: Callable[[Any], bool] = lambda m: True) -> list:
    """Return the modules of a class that meet a condition."""
    return [m for m in net.modules() if isinstance(m, kind) and condition(m)]


def exchange(net: nn.Module, condition: Callable[[nn.Module], bool], new: Callable) -> None:
    """Replace the modules that meet a condition by `new(module)`."""
    found = [n for n, m in net.named_modules() if n and condition(m)]
    middle(found, "no such module")
    for name in found:
        parent, _, child = name.rpartition(".")
        old = net.get_submodule(name)
        setattr(net.get_submodule(parent), child, new(old).train(old.training))


# --- Faults of the program


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


# --- Faults of the weights


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


# --- Faults of the preprocessing


@inputs("red and blue swapped")
def _(system):
    return system.prepared(lambda i: Image.fromarray(np.asarray(i)[..., ::-1]))


@inputs("mean and deviation of another dataset")
def _(system):
    half = system.settings["mean"][0] == 0.5
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) if half else ([0.5] * 3, [0.5] * 3)
    return system.prepared(mean=mean, std=std)


@inputs("not normalised")
def _(system):
    return system.prepared(mean=[0.0] * 3, std=[1.0] * 3)


@inputs("range 0 to 255")
def _(system):
    return system.prepared(
        mean=[m / 255 for m in system.settings["mean"]],
        std=[s / 255 for s in system.settings["std"]],
    )


@inputs("squeezed instead of cropped")
def _(system):
    return system.prepared(resize=[system.settings["crop"]] * 2)


@inputs("crop off by one pixel")
def _(system):
    resize, *rest = Preprocessing("", system.settings)._transform.transforms

    def prepare(image: Image.Image) -> NDArray:
        resized = resize(image)
        moved = resized.transform(resized.size, Image.Transform.AFFINE, (1, 0, 1, 0, 1, 0))
        return functools.reduce(lambda value, step: step(value), rest, moved).numpy()

    return np.stack([prepare(image) for image in system.images])


@inputs("another interpolation")
def _(system):
    bilinear = system.settings["interpolation"] == "bilinear"
    return system.prepared(interpolation="bicubic" if bilinear else "bilinear")


# --- Faults between device and host


class Host(nn.Module):
    """A network with an error in the copy of its outputs to the host, outside any operator."""

    def __init__(self, net: nn.Module, alter: Callable[[NDArray], NDArray]):
        super().__init__()
        self.net, self.alter = net, alter
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs on the host."""
        return torch.from_numpy(self.alter(self.net(x).numpy().copy()).copy())


def copied(alter: Callable[[NDArray], NDArray]) -> Callable[[nn.Module], nn.Module]:
    """Return a change of the outputs."""
    return lambda net: Host(net, alter)


def filled(value: float) -> Callable[[NDArray], NDArray]:
    """Return a change that writes a value to the middle column of each row."""

    def alter(y: NDArray) -> NDArray:
        y[:, y.shape[1] // 2] = value
        return y

    return alter


host("classes shifted by one")(copied(lambda y: np.roll(y, 1, axis=1)))
host("NaN in one place")(copied(filled(np.nan)))
host("infinity in one place")(copied(filled(np.inf)))
host("outputs as float16")(copied(lambda y: y.astype(np.float16).astype(np.float32)))
host("last column not copied")(copied(lambda y: np.hstack([y[:, :-1], np.zeros_like(y[:, :1])])))


@host("the previous input's outputs")
def _(net):
    kept: list[NDArray] = []

    def stale(y: NDArray) -> NDArray:
        kept.append(y)
        return kept[-2] if len(kept) > 1 else y

    return Host(net, stale)


@case("fault", "host", "items of a batch swapped")
def _(system):
    net = Host(copy.deepcopy(system.model), lambda y: y[::-1])
    return Port(net, batch=len(system.images))


# --- Faults of kernels


def kernel(name: str, *operators: str, change: Callable) -> None:
    """Register wrong kernels of `operators`."""
    executed("fault", name, device(HF32, *operators, change=change), HF32, *operators)


def one_convolution(name: str, change: Callable) -> None:
    """Register a wrong kernel for the convolutions of one shape."""

    @case("fault", "kernel", name)
    def _(system: System) -> Port:
        within = device(HF32, "convolution", change=only(system.convolution(), change))
        return Port(copy.deepcopy(system.model), kernels=within)


one_convolution("one output channel dead", result(kernels.dead_channel))
one_convolution("one tile dead", result(kernels.dead_tile))
one_convolution("NaN in one place of a kernel", result(kernels.put(float("nan"))))
one_convolution("infinity in one place of a kernel", result(kernels.put(float("inf"))))
one_convolution("last term of a sum left out", kernels.without_last_term)
one_convolution("overflow of scaled float16", result(kernels.overflow))
kernel("results stored as float16", "convolution", change=result(kernels.stored_as(torch.float16)))
kernel(
    "results stored as bfloat16", "convolution", change=result(kernels.stored_as(torch.bfloat16))
)
kernel("sums in float16", "convolution", change=kernels.float16_sums)
kernel("statistics as bfloat16", "native_batch_norm", change=kernels.biased_statistics)
kernel("eps ignored", "native_batch_norm", "native_layer_norm", change=kernels.without_eps)
kernel("residual addition lost", "add", change=kernels.without_second)
kernel("softmax over the wrong axis", "_safe_softmax", change=kernels.over_rows)
kernel("GELU's other formula", "gelu", change=kernels.tanh_gelu)
kernel(
    "exponential from a table",
    "_safe_softmax",
    "sigmoid",
    "silu",
    change=kernels.coarse_exponential,
)
kernel("mean divided by one less", "mean", change=kernels.mean_of_one_less)
kernel("maximum pool padded with zeros", "max_pool2d_with_indices", change=kernels.zero_padded_pool)
kernel("HF32 for matrix products too", "addmm", "bmm", "mm", change=kernels.hf32_products)
for form in ("tf32", "fp16", "bf16"):
    executed("fault", f"{form.upper()} where HF32 was promised", device(Numerics(conv=form)))
executed("fault", "HF32 where float32 was promised", device(HF32), FLOAT32)


# --- Clean variations


def variation(name: str):
    """Register a clean change of the program, see `changed`."""
    return changed("clean", "program", name)


def identity(system: System) -> Port:
    """Return a correct port."""
    return Port(copy.deepcopy(system.model))


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


executed("clean", "HF32, ties away", device(Numerics(conv="hf32", rounding="nearest_away")))
executed("clean", "float32 where HF32 was promised", device(FLOAT32))
for prefix, numerics in (("", HF32), ("this CPU, ", FLOAT32)):
    for count in ("1 thread", "2 threads"):
        setting = functools.partial(kernels.threads, int(count[0]))
        executed("clean", prefix + count, under(setting, numerics), numerics)
    executed("clean", f"{prefix}without oneDNN", under(kernels.without_onednn, numerics), numerics)
executed("clean", "subnormals flushed to zero", under(kernels.flushing))


@variation("channels last")
def _(net):
    return net.to(memory_format=torch.channels_last)


@variation("activations in place or not")
def _(net):
    for module in modules(net, nn.Module, lambda m: hasattr(m, "inplace")):
        module.inplace = not module.inplace


@variation("weights copied")
def _(net):
    for weight in net.parameters():
        weight.data = weight.data.clone(memory_format=torch.contiguous_format)


@variation("pickled")
def _(net):
    buffer = io.BytesIO()
    torch.save(net, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)


@variation("weights through safetensors")
def _(net):
    data = safetensors.torch.save({n: t.contiguous() for n, t in net.state_dict().items()})
    for weight in net.parameters():
        nn.init.zeros_(weight)
    net.load_state_dict(safetensors.torch.load(data))


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


def other_kernel(name: str, *operators: str, change: Callable) -> None:
    """Register correct kernels of `operators`."""
    executed("clean", name, device(HF32, *operators, change=change), HF32, *operators)


FLOATING = ("convolution", "addmm", "bmm", "native_batch_norm", "native_layer_norm", "mean")
FLOATING += ("_safe_softmax", "gelu", "silu", "sigmoid", "linalg_vector_norm", "div", "addcmul")

other_kernel("computed in float64", *FLOATING, change=kernels.in_float64)
other_kernel("convolutions as matrix products", "convolution", change=kernels.unfolded)
other_kernel("sums in reverse order", "convolution", change=kernels.reversed_sum)
other_kernel("sums in two halves", "convolution", change=kernels.split_sum)
other_kernel("16 output channels at a time", "convolution", change=kernels.by_output_channels)
other_kernel("channels last inside kernels", "convolution", change=kernels.blocked_layout)
other_kernel("batch norm as scale and shift", "native_batch_norm", change=kernels.scale_and_shift)
other_kernel("ReLU as a clamp", "relu", change=kernels.clamped)
other_kernel("mean in reverse order", "mean", change=kernels.reversed_mean)
other_kernel("bias after the product", "addmm", change=kernels.product_then_bias)
other_kernel("softmax by way of its logarithm", "_safe_softmax", change=kernels.by_logarithm)
other_kernel("GELU from erf", "gelu", change=kernels.from_erf)
other_kernel("sigmoid from exp", "sigmoid", "silu", change=kernels.by_exponential)


@case("clean", "kernel", "images one by one inside kernels")
def _(system):
    within = device(HF32, "convolution", change=kernels.by_images)
    return Port(copy.deepcopy(system.model), kernels=within, batch=len(system.images))
