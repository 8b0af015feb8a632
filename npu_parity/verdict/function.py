"""Whether two programs compute the same function: both run in float64 on the same inputs.

A port that is written differently (batch norms folded, blocks merged, an activation written out)
rounds its weights once more than the reference. The function counts as the same if the outputs
differ by no more than such a rounding changes the reference's own outputs. The change is measured:
the reference runs with weights that are perturbed at random by one rounding to float32.
"""

import copy
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from npu_parity.backends import heads, network
from npu_parity.errors import ParityError
from npu_parity.numerics import schema
from npu_parity.numerics.widening import Widening, wide, widened
from npu_parity.verdict import settings
from npu_parity.verdict.recording import ALLOCATIONS, memory, observed, tensors
from npu_parity.verdict.sight import Point, Prints, Sight, U, order_of, print_of, real
from npu_parity.verdict.thresholds import Threshold

ROUNDINGS = Threshold(
    4.0,
    question=1,
    decides="A port that is written differently computes the same function if its outputs, in "
    "float64, differ from the reference's by at most this many times the change that one rounding "
    "of each weight to float32 makes: for each output as a whole and for each of its columns.",
    reason="To fold or merge layers rounds each weight a few times. On five networks, right ports "
    "need at most half of what is allowed. An eps of 1e-3 instead of 1e-5 in one folded norm needs "
    "28 times as much or more, one weight that is wrong by a thousandth of the largest twice.",
)
PERTURBATIONS = 3  # each with its own seed; the largest change counts
RANDOM_INPUTS = 2  # of the scale of the inputs


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`.

    Attributes:
        same: None if a network cannot be run in float64.
        reasons: why not; each is one readable line, the most important first.
        conflicts: settings of operators that differ, although the operators have the same operands.
        error: the largest L2 error of an output in float64, as a share of its norm; NaN if unknown.
    """

    same: bool | None
    reasons: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    error: float = math.nan


def compare(reference: nn.Module, ported: nn.Module, *inputs: Any) -> Comparison:
    """Compare two networks in float64.

    They run one input at a time: on each of `inputs`, and on random inputs of the same scale.
    Memory is bounded by one float64 copy of a network and the outputs.

    Args:
        reference, ported: networks on the CPU; neither is changed.
        inputs: arguments of both networks. The first dimension of tensors counts the inputs.

    """
    samples = [*_samples(inputs), *_random(inputs)]
    try:
        exact = _in_float64(reference)
        own = _run(exact, samples)
        theirs = _run(_in_float64(ported), samples)
        if own.fed and not theirs.fed:
            raise ParityError("the port computes its outputs outside of torch")
    except ParityError as error:
        return Comparison(None, (f"not compared in float64: {error}",))
    some = [*range(min(RANDOM_INPUTS, len(samples) - RANDOM_INPUTS)), *range(-RANDOM_INPUTS, 0)]
    unmoved = [own.outputs[i] for i in some]
    changes, moved = [], []
    for seed in range(PERTURBATIONS):
        _perturb(exact, reference, seed)
        run = _run(exact, [samples[i] for i in some])
        if _shapes(unmoved, run.outputs):
            why = "the shape of the reference's outputs depends on the rounding of its weights"
            return Comparison(None, (why,))
        changes.append(_relative(unmoved, run.outputs))
        moved.append(run.points)
    sight = Sight(own.points, theirs.points, moved)
    conflicts = tuple(sight.conflicts())
    found = _shapes(own.outputs, theirs.outputs)
    if not found:
        errors = _relative(own.outputs, theirs.outputs)
        share = _share(errors, changes)
        if share <= 1:
            return Comparison(True, (), conflicts, max(float(e.norm()) for e in errors))
        found = f"outputs differ by {share:.3g} times what rounded weights explain"
    place = sight.place(own.ends, theirs.ends)
    return Comparison(False, (f"in float64, {found}: {place}",), conflicts)


# --- Inputs and copies


def _samples(inputs: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Yield the arguments of a run for each input, in float64."""
    rows = min((len(t) for t in tensors(inputs) if t.ndim), default=1)
    for i in range(rows):
        yield tree_map_only(Tensor, partial(_row, i), inputs)


def _random(inputs: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Yield the arguments of runs with random inputs, in float64."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(RANDOM_INPUTS):
        yield tree_map_only(Tensor, lambda t: wide(_like(t, generator)), inputs)


def _row(i: int, t: Tensor) -> Tensor:
    return wide(t[i : i + 1] if t.ndim else t)


def _like(t: Tensor, generator: torch.Generator) -> Tensor:
    """Return one random input with the mean, deviation and range of `t`."""
    one = t[:1] if t.ndim else t
    if not t.is_floating_point():  # classes or indices: values that occur
        chosen = torch.randint(t.numel(), one.shape, generator=generator)
        return t.flatten()[chosen]
    wide = t.double()
    noise = torch.randn(one.shape, generator=generator, dtype=torch.float64)
    noise = noise * wide.std(correction=0) + wide.mean()
    return noise.clamp(wide.min(), wide.max()).to(t.dtype)


def _in_float64(model: nn.Module) -> nn.Module:
    with network.guarded(f"copy of {network.named(model)}"):
        warnings.simplefilter("ignore")  # a scripted network's tensors are no leaves
        return copy.deepcopy(model).double()


def _perturb(exact: nn.Module, reference: nn.Module, seed: int) -> None:
    """Set each weight to the reference's, changed at random by at most one rounding."""
    generator = torch.Generator().manual_seed(seed)
    ours = chain(exact.parameters(), exact.buffers())
    for weight, own in zip(ours, chain(reference.parameters(), reference.buffers()), strict=True):
        if weight.is_floating_point():
            noise = torch.empty(weight.shape, dtype=torch.float64)
            noise.uniform_(1 - U, 1 + U, generator=generator)
            weight.data = own.detach().double() * noise


# --- Runs in float64


@dataclass(frozen=True)
class _Run:
    """The runs of a network on several inputs.

    Attributes:
        outputs: the heads of each output, by name.
        points: what the network executed on the first input.
        ends: the points that computed the outputs.
        fed: whether an output depends on the input.
    """

    outputs: list[list[Tensor]]
    points: list[Point]
    ends: set[int]
    fed: bool


def _run(model: nn.Module, samples: Sequence[tuple[Any, ...]]) -> _Run:
    runs = []
    for i, sample in enumerate(samples):
        inputs = tree_map_only(Tensor, Tensor.clone, sample)
        with observed(model, *inputs) as path, _seeded():
            mode = _Float64(path, inputs, noting=not i)
            with widened(mode):
                found = heads.compared(model, *inputs)
        # Dictionaries may have another order.
        result = [t for _, t in sorted(found, key=lambda head: head[0]) if isinstance(t, Tensor)]
        if not result:
            raise ParityError(f"{network.named(model)} returns no tensor")
        if any(t.layout != torch.strided or t.is_nested or t.is_quantized for t in result):
            raise ParityError(f"{network.named(model)} returns a tensor that is not dense")
        ends = {s for t in result if (s := mode.source(t)) is not None}
        fed = any(mode.fed(t) for t in result)
        runs.append(_Run([[t.detach().clone() for t in result]], mode.points, ends, fed))
    return replace(runs[0], outputs=[run.outputs[0] for run in runs])


@contextmanager
def _seeded() -> Iterator[None]:
    """Let every run draw the same random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class _Float64(Widening):
    """Computes in float64, and notes what operators computed.

    Memory that nothing was written to is NaN.
    """

    def __init__(self, path: list[str], inputs: tuple[Any, ...], noting: bool):
        super().__init__()
        self.points: list[Point] = []
        self._path, self._noting = path, noting
        self._made: dict[int, int] = {}  # memory -> the point that wrote to it last
        self._fed = {memory(t) for t in tensors(inputs)}

    def source(self, tensor: Tensor) -> int | None:
        """Return the point that computed a tensor; None if none did."""
        return self._made.get(memory(tensor))

    def fed(self, tensor: Tensor) -> bool:
        """Return whether a tensor depends on the inputs."""
        return memory(tensor) in self._fed

    def run_wide(
        self, func: torch._ops.OpOverload[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run one operator with wide operands, and note what it computes."""
        name = func._schema.name.partition("::")[2]
        noted = self._noting and not func.is_view and name not in ALLOCATIONS
        used = tensors((args, kwargs)) if noted else []
        operands = [(print_of(t), order_of(t), self.source(t)) for t in used]
        fed = any(self.fed(t) for t in used)
        result = super().run_wide(func, args, kwargs)
        if name in ALLOCATIONS and result.dtype.is_floating_point:
            result.fill_(math.nan)
        if noted:
            written = {memory(t) for t in tensors(result)}
            self._fed = self._fed | written if fed else self._fed - written
            self._note(func, args, kwargs, operands, tensors(result))
        return result

    def _note(
        self,
        func: torch._ops.OpOverload,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        operands: list[tuple[Prints, tuple[torch.Size, Prints], int | None]],
        results: list[Tensor],
    ) -> None:
        given = schema.arguments(func, args, kwargs)
        name = settings.name(func)
        normal = settings.normal(name, given, results[0] if results else None)
        scalars = {n: v for n, v in normal.items() if not tensors(v)}
        index = len(self.points)
        for t in results:
            self._made[memory(t)] = index
        sources = frozenset(i for *_, i in operands if i is not None)
        prints, orders = [p for p, *_ in operands], [order for _, order, _ in operands]
        made = [print_of(t) for t in results]
        self.points.append(Point(self._path[-1], name, scalars, prints, made, orders, sources))


# --- Outputs


def _shapes(expected: list[list[Tensor]], found: list[list[Tensor]]) -> str | None:
    """Return a sentence if shapes of outputs differ, or only one side is complex."""
    for own, theirs in zip(expected, found, strict=True):
        shapes = [[_shape(t) for t in outputs] for outputs in (own, theirs)]
        if shapes[0] != shapes[1]:
            a, b = (", ".join(s[:3]) for s in shapes)
            return f"outputs of shape {b} where the reference has {a}"
    return None


def _shape(t: Tensor) -> str:
    return f"{tuple(t.shape)}{' of complex numbers' if t.is_complex() else ''}"


def _relative(expected: list[list[Tensor]], found: list[list[Tensor]]) -> list[Tensor]:
    """Return the L2 error of each column over all inputs, as a share of the output's L2 norm.

    A column is an index of dimension 1. Equal NaNs and infinities are no error.

    Returns:
        float64 (columns,) for each output.
    """
    shares = []
    for own, theirs in zip(zip(*expected, strict=True), zip(*found, strict=True), strict=True):
        pairs = [(real(a), real(b)) for a, b in zip(own, theirs, strict=True)]
        error = _over_inputs([_difference(a, b) for a, b in pairs])
        size = _over_inputs([a.nan_to_num(0, 0, 0) for a, _ in pairs]).norm()
        shares.append(torch.where(error == 0, 0.0, error / size))
    return shares


def _difference(a: Tensor, b: Tensor) -> Tensor:
    same = (a == b) | (a.isnan() & b.isnan())
    return torch.where(same, 0.0, torch.nan_to_num(b - a, nan=math.inf, posinf=math.inf).abs())


def _over_inputs(outputs: list[Tensor]) -> Tensor:
    """Return the L2 norm of each column; of everything if inputs have other numbers of columns."""
    norms = [
        (t.transpose(0, 1).flatten(1) if t.ndim > 1 else t.reshape(1, -1)).norm(dim=1)
        for t in outputs
    ]
    alike = len({n.shape for n in norms}) == 1
    rows = torch.stack(norms) if alike else torch.cat(norms)[:, None]
    found: Tensor = rows.norm(dim=0)
    return found


def _share(errors: list[Tensor], changes: list[list[Tensor]]) -> float:
    """Return the largest error of an output or a column, as a share of what is allowed."""
    shares = [torch.zeros((), dtype=torch.float64)]
    for error, *changed in zip(errors, *changes, strict=True):
        change = torch.stack(changed).nan_to_num(posinf=0.0)  # what is not finite allows nothing
        # If no weight changes an output, its own rounding is allowed.
        whole = change.norm(dim=1).max().clamp(min=U)
        # A column may have a small change by chance, but not much smaller than the others.
        column = change.amax(dim=0).clamp(min=whole / len(error) ** 0.5)
        worst = torch.maximum(error.norm() / whole, (error / column).max())
        shares.append(worst / ROUNDINGS)
    return float(torch.stack(shares).max())  # unlike Python's, NaN if one of them is
