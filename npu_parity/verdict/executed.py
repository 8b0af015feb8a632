"""What a port executes on the device, and what it executes on the reference's device.

Question 1 looks at the port on the reference's device. A port may take another path on the device,
and it may use another memory layout there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from npu_parity.numerics.schema import computes_nothing
from npu_parity.verdict import settings
from npu_parity.verdict.answers import Program
from npu_parity.verdict.recording import Call, tensors, visit

# Operators that only move values. The device and memory layouts decide whether they run.
_MOVING = {*settings.HANDING_ON, "copy", "_to_copy"}
# The memory format of images and videos with the channels last, by number of dimensions.
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclass(frozen=True)
class Step:
    """One executed operator that computes: its module, name and settings, its operands' shapes."""

    module: str
    name: str
    settings: Mapping[str, Any]
    shapes: tuple[torch.Size, ...] = ()

    @property
    def place(self) -> str:
        """The module as text."""
        return f"at {self.module}" if self.module else "at the top level"


@dataclass(frozen=True)
class Executed:
    """The executed operators, and whether a convolution had an operand with channels last."""

    steps: tuple[Step, ...] = ()
    channels_last: bool = False


@dataclass(frozen=True)
class Path:
    """How the path on the device differs from that on the reference's device.

    Attributes:
        wrong: settings that differ, one sentence each.
        unseen: what question 2 does not look at.
        channels_last: see `Executed`.
    """

    wrong: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    channels_last: bool = False

    def with_program(self, program: Program) -> Program:
        """Return the evidence for question 1 together with this path."""
        if not self.wrong or program.same is None:
            return program
        others = () if program.same else program.differences
        return Program(False, "", (*self.wrong, *others))


def executed(model: nn.Module, *inputs: Any) -> Executed:
    """Run a network once on the device of its inputs, and return what it executes.

    Raises:
        ParityError: the network fails, see `network.guarded`.

    >>> [step.name for step in executed(nn.Linear(2, 2), torch.ones(1, 2)).steps]
    ['addmm']
    """
    steps: list[Step] = []
    last: list[Tensor] = []

    def note(call: Call) -> None:
        name = settings.name(call.func)
        if call.func.is_view or name in _MOVING or computes_nothing(call.func):
            return
        normal = settings.normal(name, call.arguments, call.result)
        own = {n: v for n, v in normal.items() if settings.decides(name, n) and not tensors(v)}
        shapes = tuple(t.shape for t in tensors((call.args, call.kwargs)))
        steps.append(Step(call.module, name, own, shapes))
        if "conv" in name:
            last.extend(t for t in tensors(call.args) if is_channels_last(t))

    visit(model, *inputs, each=note)
    return Executed(tuple(steps), bool(last))


def is_channels_last(tensor: Tensor) -> bool:
    """Return whether the memory of a tensor has its channels last, and not also first."""
    form = CHANNELS_LAST.get(tensor.ndim)
    if form is None or tensor.is_contiguous():
        return False
    return tensor.is_contiguous(memory_format=form)


def compare(here: Executed, there: Executed) -> Path:
    """Compare the path on the device (`there`) with that on the reference's device (`here`)."""
    names = [[step.name for step in side.steps] for side in (here, there)]
    if names[0] == names[1]:
        return Path(tuple(_settings(here, there)), (), there.channels_last)
    pairs = zip(here.steps, there.steps, strict=False)
    differ = [(a, b) for a, b in pairs if a.name != b.name]
    what = f"{len(names[1])} operators where it runs {len(names[0])}"
    if differ:
        (a, b), *_ = differ
        what = f"{b.name} where it runs {a.name}, {a.place}"
    text = f"on the device, the port runs {what} on the reference's device"
    return Path((), (f"{text}; no kernel was checked for it",), there.channels_last)


def _settings(here: Executed, there: Executed) -> Iterator[str]:
    for a, b in zip(here.steps, there.steps, strict=True):
        for name, value in a.settings.items():
            found = b.settings.get(name)
            if a.shapes != b.shapes and type(value) is type(found) is int:
                continue  # the number of candidates of a detector, which rounding may change
            if not settings.same(value, found):
                yield f"{a.name} {name} {found} on the device where it is {value}, {a.place}"
