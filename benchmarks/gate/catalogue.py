"""What the catalogue of faults and of clean variations is made of; the cases are in `cases`.

A case makes a `Port` of a `System`: the port's network, its preprocessed inputs, and its kernels.
The program does not show kernels and copies to the host.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from kernels import FLOAT32, HF32, device
from numpy.typing import NDArray
from PIL import Image
from rewritings import NotApplicable
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from npu_parity.backends import batches
from npu_parity.backends.device import Device
from npu_parity.check import Context, Original
from npu_parity.numerics.formats import PRESETS, Numerics
from npu_parity.sources.preprocessing import Preprocessing
from npu_parity.verdict.recording import Call

NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)
BF16_UNITS = PRESETS["cpu_bf16"]

# The kinds of change, in the order of the page.
GROUPS = {
    "program": "a layer, a setting or a step of the network",
    "weights": "values of weights",
    "inputs": "preprocessing",
    "host": "what the host does with the outputs",
    "copy": "the copy from the device, so the port is right on the reference's device",
    "storage": "results in fewer bits, widened again",
    "state": "state, randomness and reused memory",
    "batch": "other batch sizes, or other rows of the batch",
    "operand": "kernels for some operands only, or only sometimes",
    "layout": "the order of values in memory",
    "branch": "a path that only the device, some inputs or one type takes",
    "kernel": "an operator as a whole",
    "sum": "how a product is added up and rounded",
    "function": "norms, activations and pools",
    "device": "the device's own rounding and settings",
    "rewriting": "the same function by another program",
}
# Kinds that run on networks of at most this many parameters: most of their cases need several
# float64 runs for question 1.
SLOW = ("rewriting", "state", "batch", "branch")
SMALL = 10_000_000


class Recorded(Original):
    """A reference that is recorded once for all ports. The bounds of its operators are kept."""

    @cached_property
    def calls(self) -> list[Call]:
        """The operators on the chosen inputs."""
        return self._recorded(batches.rows(self.inputs, self.chosen))

    def visit(self, each: Callable[[Call], None]) -> None:
        """Hand over the recorded operators."""
        for call in self.calls:
            each(call)


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
    _originals: dict[Numerics, Recorded] = field(default_factory=dict)

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

    def original(self, promised: Numerics = HF32, reference: nn.Module | None = None) -> Recorded:
        """Return the reference for ports to this CPU or to a simulated device.

        Args:
            promised: the numerics that the device promises.
            reference: another reference than the system's own.
        """
        if reference is None and promised in self._originals:
            return self._originals[promised]
        made = Recorded(
            reference or self.model,
            self.inputs,
            Device("cpu", promised),
            task=self.task,
            heads=self.heads,
            pretrained=self.pretrained,
            kernels=None if promised in (FLOAT32, BF16_UNITS) else device(promised),
        )
        if reference is None:
            self._originals[promised] = made
        return made

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
    """A port; the first attributes are the arguments of `Original.check`.

    Attributes:
        reference: what the port is compared with; None for the system's network.
    """

    model: nn.Module
    inputs: NDArray | None = None
    kernels: Context | None = None
    batch: int = 1
    reference: nn.Module | None = None


@dataclass(frozen=True)
class Case:
    """One fault, or one clean variation.

    Attributes:
        kind: ``fault`` or ``clean``.
        group: what is changed: one of `GROUPS`.
        make: returns the port or raises `NotApplicable`.
        promised: the numerics that the device promises.
    """

    name: str
    kind: str
    group: str
    make: Callable[[System], Port]
    promised: Numerics = HF32

    def port(self, system: System) -> Port:
        """Return the port; `NotApplicable` also if the case is too slow for the network."""
        if self.group in SLOW and sum(p.numel() for p in system.model.parameters()) > SMALL:
            raise NotApplicable("the network is too large for this slow case")
        return self.make(system)


CASES: list[Case] = []

# Variations that npu-parity does not pass, with the reason.
FALSE_ALARMS: dict[str, str] = {}
# Faults that npu-parity passes on some networks, with the reason.
LET_THROUGH: dict[str, str] = {
    "outputs scaled by 1.002, on the device only": "the change is smaller than the error that the "
    "rounding of the device predicts",
}


def middle(found: list, why: str) -> Any:
    """Return the middle element; NotApplicable if there is none."""
    if not found:
        raise NotApplicable(why)
    return found[len(found) // 2]


def case(kind: str, group: str, name: str, promised: Numerics = HF32):
    """Register a function from a system to a port."""

    def register(make: Callable[[System], Port]) -> None:
        CASES.append(Case(name, kind, group, make, promised))

    return register


def changed(kind: str, group: str, name: str):
    """Register a function that changes a copy of the network, or returns another network."""

    def register(function: Callable[[nn.Module], nn.Module | None]) -> None:
        @case(kind, group, name)
        def _(system: System) -> Port:
            net = copy.deepcopy(system.model)
            with torch.no_grad():
                return Port(function(net) or net)

    return register


def executed(
    kind: str, group: str, name: str, within: Context, promised: Numerics = HF32, *needed: str
):
    """Register kernels for networks with at least one of the operators `needed`."""

    @case(kind, group, name, promised)
    def _(system: System) -> Port:
        if needed and not {c.name for c in system.original().calls} & set(needed):
            raise NotApplicable(f"no {' or '.join(needed)}")
        return Port(copy.deepcopy(system.model), kernels=within)


def replaced(kind: str, group: str, name: str, *operators: str, change: Callable) -> None:
    """Register kernels for `operators` on a device that promises HF32."""
    executed(kind, group, name, device(HF32, *operators, change=change), HF32, *operators)


def identity(system: System) -> Port:
    """Return a correct port."""
    return Port(copy.deepcopy(system.model))


class Around(nn.Module):
    """A network, and what a port does before or after it.

    Args:
        net: the network.
        run: a function of the network and its input.
    """

    def __init__(self, net: nn.Module, run: Callable[[nn.Module, Tensor], Tensor]):
        super().__init__()
        self.net, self.run = net, run
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the port's outputs."""
        return self.run(self.net, x)


def around(run: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[nn.Module], nn.Module]:
    """Return a change of what happens around the network."""
    return lambda net: Around(net, run)


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
