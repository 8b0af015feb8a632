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
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from npu_parity.backends import heads, network
from npu_parity.errors import ParityError
from npu_parity.numerics import schema
from npu_parity.numerics.widening import Widening, wide, widened
from npu_parity.verdict import settings
from npu_parity.verdict.recording import ALLOCATIONS, observed, tensors
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
U = 2.0**-24  # unit roundoff of float32
# A result inside a port agrees within the first of these times what rounding changes, and certainly
# differs beyond the second. They only find places.
_AGREES, _DIFFERS = 4.0, 8.0
# A result of the port that is farther away belongs to another operator.
_UNRELATED = 1e5
# In float64, equal results differ by less: only the order of sums differs.
_EXACT = 1e-11
_SAMPLES = 16  # values of an operand that show the order of its elements

_Prints = NDArray[np.float64]


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


@dataclass(frozen=True)
class _Point:
    """One operator of a run in float64.

    Attributes:
        arguments: scalar arguments by name, in normal form.
        operands, results: see `_print`.
        orders: see `_order`, of each operand.
        sources: points that computed the operands.
    """

    module: str
    name: str
    arguments: dict[str, Any]
    operands: list[_Prints]
    results: list[_Prints]
    orders: list[tuple[torch.Size, _Prints]]
    sources: frozenset[int]

    def __str__(self) -> str:
        """Return the operator and its place."""
        name = self.name.strip("_").removeprefix("native_")
        return f"{name} at {self.module}" if self.module else name


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
    sight = _Sight(own.points, theirs.points, moved)
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
    points: list[_Point]
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
        self.points: list[_Point] = []
        self._path, self._noting = path, noting
        self._made: dict[int, int] = {}  # memory -> the point that wrote to it last
        self._fed = {_memory(t) for t in tensors(inputs)}

    def source(self, tensor: Tensor) -> int | None:
        """Return the point that computed a tensor; None if none did."""
        return self._made.get(_memory(tensor))

    def fed(self, tensor: Tensor) -> bool:
        """Return whether a tensor depends on the inputs."""
        return _memory(tensor) in self._fed

    def run_wide(
        self, func: torch._ops.OpOverload[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run one operator with wide operands, and note what it computes."""
        name = func._schema.name.partition("::")[2]
        noted = self._noting and not func.is_view and name not in ALLOCATIONS
        used = tensors((args, kwargs)) if noted else []
        operands = [(_print(t), _order(t), self.source(t)) for t in used]
        fed = any(self.fed(t) for t in used)
        result = super().run_wide(func, args, kwargs)
        if name in ALLOCATIONS and result.dtype.is_floating_point:
            result.fill_(math.nan)
        if noted:
            memory = {_memory(t) for t in tensors(result)}
            self._fed = self._fed | memory if fed else self._fed - memory
            self._note(func, args, kwargs, operands, tensors(result))
        return result

    def _note(
        self,
        func: torch._ops.OpOverload,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        operands: list[tuple[_Prints, tuple[torch.Size, _Prints], int | None]],
        results: list[Tensor],
    ) -> None:
        given = schema.arguments(func, args, kwargs)
        name = settings.name(func)
        normal = settings.normal(name, given, results[0] if results else None)
        scalars = {n: v for n, v in normal.items() if not tensors(v)}
        index = len(self.points)
        for t in results:
            self._made[_memory(t)] = index
        sources = frozenset(i for *_, i in operands if i is not None)
        prints, orders = [p for p, *_ in operands], [order for _, order, _ in operands]
        made = [_print(t) for t in results]
        self.points.append(_Point(self._path[-1], name, scalars, prints, made, orders, sources))


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


# --- Outputs


def _shapes(expected: list[list[Tensor]], found: list[list[Tensor]]) -> str | None:
    """Return a sentence if shapes of outputs differ."""
    for own, theirs in zip(expected, found, strict=True):
        shapes = [[tuple(t.shape) for t in outputs] for outputs in (own, theirs)]
        if shapes[0] != shapes[1]:
            a, b = (", ".join(map(str, s[:3])) for s in shapes)
            return f"outputs of shape {b} where the reference has {a}"
    return None


def _relative(expected: list[list[Tensor]], found: list[list[Tensor]]) -> list[Tensor]:
    """Return the L2 error of each column over all inputs, as a share of the output's L2 norm.

    A column is an index of dimension 1. Equal NaNs and infinities are no error.

    Returns:
        float64 (columns,) for each output.
    """
    shares = []
    for own, theirs in zip(zip(*expected, strict=True), zip(*found, strict=True), strict=True):
        pairs = [(_real(a), _real(b)) for a, b in zip(own, theirs, strict=True)]
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


def _real(t: Tensor) -> Tensor:
    return (torch.view_as_real(t) if t.is_complex() else t).double()


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


# --- Where it goes wrong


def _print(tensor: Tensor) -> _Prints:
    """Return numbers that tell tensors apart, but not the orders of their elements.

    So they are the same for channels first and channels last.
    """
    t = _real(tensor.detach()).flatten()
    if not t.numel():
        return np.zeros(6)
    t = t.nan_to_num(0.0, 0.0, 0.0)
    least, most = t.aminmax()
    count = t.numel()
    means = t.mean(), t.norm(1) / count, t.norm() / count**0.5
    return np.array([count, *map(float, (*means, least, most))])


def _order(tensor: Tensor) -> tuple[torch.Size, _Prints]:
    """Return the shape and a few values in their order, which `_print` does not show."""
    flat = tensor.detach().flatten()
    some = torch.linspace(0, len(flat) - 1, min(_SAMPLES, len(flat))).long()
    return tensor.shape, _real(flat[some]).numpy()


class _Sight:
    """Operators of two runs with the same results.

    Args:
        own: points of the reference.
        theirs: points of the port.
        moved: points of the reference with perturbed weights. They show how much a rounding changes
            each result.
    """

    @np.errstate(all="ignore")  # large numbers overflow
    def __init__(self, own: list[_Point], theirs: list[_Point], moved: list[list[_Point]]):
        self.own, self.theirs = own, theirs
        self._prints = _firsts(own)
        changes = [np.abs(_firsts(run) - self._prints)[:, 1:] for run in moved]
        scale = _scale(self._prints)
        within = np.maximum(np.max(changes, axis=0), U * scale)
        # By chance, a number may change little. A mean of n changes as little as 1/sqrt(n).
        count = np.maximum(self._prints[:, :1], 1)
        largest = np.nan_to_num(within / scale).max(axis=1, keepdims=True)
        self._within = np.maximum(within, largest * scale / np.sqrt(count))

    def conflicts(self) -> Iterator[str]:
        """Yield settings that differ between operators of one name with the same operands.

        Another setting is right if the port has the reference's result all the same, because it
        arranges the operands or the result in another way.
        """
        pairs: dict[int, list[int]] = {
            i: [j for j, b in enumerate(self.theirs) if a.name == b.name and self._alike(i, j)]
            for i, a in enumerate(self.own)
            if a.name not in settings.FORMULAS and a.operands
        }
        taken = {
            j
            for i, found in pairs.items()
            for j in found
            if not list(_unequal(self.own[i], self.theirs[j]))
        }
        for i, found in pairs.items():
            if any(not list(_unequal(self.own[i], self.theirs[j])) for j in found):
                continue
            for j in [j for j in found if j not in taken][:1]:
                if self._arranged(i, j):
                    continue
                for name, a, b in _unequal(self.own[i], self.theirs[j]):
                    operator, _, _ = str(self.theirs[j]).partition(" at ")
                    place = self.own[i].module
                    where = f"at {place}" if place else "at the top level"
                    yield f"{operator} {name} {b} where the reference has {a}, {where}"

    @np.errstate(all="ignore")
    def _alike(self, i: int, j: int) -> bool:
        a, b = self.own[i], self.theirs[j]
        if [p[0] for p in a.operands] != [p[0] for p in b.operands]:
            return False
        scales = _scale(self._prints)
        shares = [(self._within[k] / scales[k]).max() for k in a.sources if scales[k].all()]
        within = _DIFFERS * max(shares, default=U)
        x, y = np.array(a.operands), np.array(b.operands)
        return bool((np.abs(x - y)[:, 1:] <= within * _scale(x)).all())

    @np.errstate(all="ignore")
    def _arranged(self, i: int, j: int) -> bool:
        """Return whether a setting of `j` differs because the port arranges values in another way.

        Then the port has exactly the result of `i`, in `j` or later. If even the operands and the
        result have the same arrangement, the setting only has no effect on this input.
        """
        a, b = self.own[i], self.theirs[j]
        if not (a.results and b.results):
            return False
        x, y = np.array(a.operands), np.array(b.operands)
        within = _AGREES * np.nan_to_num(np.abs(x - y)[:, 1:] / _scale(x)).max() + _EXACT

        def equal(found: _Prints) -> bool:
            gap = np.abs(found - a.results[0])
            return bool((gap <= [0, *(within * _scale(a.results[0][None])[0])]).all())

        as_before = all(
            size == other and np.allclose(values, others, rtol=1e-3, atol=0)
            for (size, values), (other, others) in zip(a.orders, b.orders, strict=True)
        )
        if as_before and equal(b.results[0]):
            return False
        later = (p for point in self.theirs[j:] for p in (*point.results, *point.operands))
        return any(equal(found) for found in later)

    def place(self, ends: set[int], their_ends: set[int]) -> str:
        """Name the last operator that agrees and the first that does not.

        An operator is wrong if the other run does not have its result, nor any result between it
        and the outputs.
        """
        gaps = self._gaps()
        own = gaps.min(axis=1, initial=math.inf)
        wrong = _backwards(self.own, ends, own)
        wrong_theirs = _backwards(self.theirs, their_ends, gaps.min(axis=0, initial=math.inf))
        if not wrong:
            where = f"after {self.own[max(ends)]}" if ends else "at the top level"
            return f"the port has all results of the reference, the difference comes {where}"
        first = wrong[0]
        certain = next((i for i in wrong if own[i] > _DIFFERS), first)
        last = max(certain, self._merged(wrong, wrong_theirs))
        before = max(self.own[first].sources, default=None)
        agrees = f"results agree up to {self.own[before]}, " if before is not None else ""
        span = f"between {self.own[first]} and {self.own[last]}"
        return f"{agrees}the first different result is " + (
            span if last != first else str(self.own[first])
        )

    @np.errstate(all="ignore")
    def _gaps(self) -> _Prints:
        """Return how far each result of the port is from each result of the reference.

        The unit is the change that rounding makes. The shape is (points, points of the port).
        """
        theirs = _firsts(self.theirs)
        gaps = np.full((len(self.own), len(theirs)), math.inf)
        for i, (own, within) in enumerate(zip(self._prints, self._within, strict=True)):
            alike = theirs[:, 0] == own[0]
            gap = np.abs(theirs[alike, 1:] - own[1:])
            gaps[i, alike] = np.where(gap == 0, 0, gap / within).max(axis=1)
        return gaps

    def _merged(self, wrong: list[int], theirs: list[int]) -> int:
        """Return the last operator that the port's first wrong operator may include.

        It is the one before the operator that follows in the port.
        """
        if len(theirs) > 1:
            following = self.theirs[theirs[1]].name
            for before, i in pairwise(wrong):
                if self.own[i].name == following:
                    return before
        return wrong[0]


def _backwards(points: list[_Point], ends: set[int], gaps: _Prints) -> list[int]:
    """Return the points that lead to the largest gap without one that agrees.

    A fault may be hidden again before the outputs. Then its largest gap replaces the outputs.
    """
    rest = [i for i in ends if gaps[i] > _DIFFERS]
    if not rest and len(points):
        rest = [int(np.where(gaps < _UNRELATED, gaps, 0).argmax())]
    wrong: set[int] = set()
    while rest:
        i = rest.pop()
        if i not in wrong and gaps[i] > _AGREES:
            wrong.add(i)
            rest += points[i].sources
    return sorted(wrong)


def _firsts(points: list[_Point]) -> _Prints:
    """Return the print of the first result of each point, (points, 6)."""
    return np.array([(p.results or [np.zeros(6)])[0] for p in points]).reshape(-1, 6)


def _scale(prints: _Prints) -> _Prints:
    """Return the magnitude of each number of prints, (points, 5). A mean may be near zero."""
    return np.hstack([prints[:, 3:4], np.abs(prints[:, 2:])])


def _unequal(a: _Point, b: _Point) -> Iterator[tuple[str, Any, Any]]:
    """Yield settings of two operators that differ, unless only a layout changes them."""
    for name in sorted(a.arguments.keys() & b.arguments.keys()):
        x, y = a.arguments[name], b.arguments[name]
        if settings.decides(a.name, name) and not settings.same(x, y):
            yield name, x, y
