"""Question 1 of the verdict, "same program?": weights, settings and the sequence of operators.

Names of classes and modules do not count. Two networks are the same program if they pass the same
tensors through the same operators. Another program may compute the same function, see
`npu_parity.verdict.function`.
"""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from npu_parity.backends import network
from npu_parity.errors import ParityError
from npu_parity.verdict import function, settings
from npu_parity.verdict.answers import Program
from npu_parity.verdict.steps import Kind, Operand, Step, find_steps
from npu_parity.verdict.thresholds import Threshold

CONSTANT = Threshold(
    4.0,
    question=1,
    decides="A constant that the program computes for itself is the reference's if it differs by "
    "at most this many times 2^-23 times its largest element.",
    reason="A table or a scale that is computed in float64, or in another order, is rounded "
    "differently.",
)
REARRANGED = Threshold(
    1e-10,
    question=1,
    decides="A port whose weights are the reference's in another order, or times powers of two, "
    "computes the same function if its outputs, in float64, differ by at most this share of their "
    "norm.",
    reason="No weight is rounded again. Only the order of sums differs, which changes the outputs "
    "of a network by about 1e-15.",
)

# Settings of layers that do not change the results of inference.
_IDLE_SETTINGS = {
    *("momentum", "track_running_stats", "affine", "elementwise_affine", "inplace", "p", "name")
}

# A subject and a sentence about it. The subject is a tensor's name, or a module and a setting. It
# prevents two findings about the same thing.
Found = Iterator[tuple[str | tuple[str, str], str]]


def compare(reference: nn.Module, ported: nn.Module, *inputs: Any) -> Program:
    """Compare a ported network with its reference as a program, and as a function if necessary.

    Both networks are recorded on the CPU with the first input, because other backends execute
    their own operators. Operands that no operator computed (inputs, weights, constants) must have
    equal bits. All other operands must come from the same operator. If the operators are not the
    same, both networks run in float64 on all inputs (`function.compare`).

    Args:
        reference, ported: networks on any device; neither is changed.
        inputs: arguments of both networks; on the CPU. The first dimension of tensors counts the
            inputs.

    Returns:
        The differences are one sentence each, in this order: where the function goes wrong,
        tensors with another name, shape or type, training mode, operators, settings, values of
        tensors.
    """
    if reason := network.quantised(ported):
        return Program(False, "", (reason,))
    reference, ported = on_cpu(reference), on_cpu(ported)
    one = tree_map_only(Tensor, lambda t: t[:1] if t.ndim else t, inputs)
    structure, values = dict(_structure(reference, ported)), dict(_values(reference, ported))
    rearranged = bool(values) and _rearranged(reference, ported, map(str, values))
    modes = [sentence for _, sentence in _modes(reference, ported)]
    if modes and not _reads_modes(ported, *one):
        modes = []
    first = [*structure.values(), *modes]
    expected = find_steps(reference, *one)
    try:
        found = find_steps(ported, *one)
    except ParityError as error:
        if _runs(ported, *one):
            return Program(None, "", (f"the ported network cannot be recorded: {error}",))
        reason = f"the ported network does not run: {error}"
        return Program(False, "", (*first, reason, *values.values()))
    if expected and not found:
        return Program(None, "", ("the ported network runs no operator of torch",))
    compared = _Comparison(expected, found, _state(reference))
    exact = compared.aligned
    operators = [
        d
        for d in compared.differences()
        if d.about not in values and (d.decides or d.about not in structure)
    ]
    about = {d.about for d in operators}
    layers = [s for a, s in _settings(reference, ported, exact) if a not in about]
    sentences = [*first, *(d.sentence for d in operators), *layers, *values.values()]
    if not sentences:
        return Program(True, "same program")
    decided = [
        *modes,
        *_narrow(expected, found),
        *(d.sentence for d in operators if exact and d.decides),
        *layers,
        *(values.values() if exact and not rearranged else ()),
    ]
    if decided:
        return Program(False, "", tuple(dict.fromkeys([*decided, *sentences])))
    result = function.compare(reference, ported, *inputs)
    if result.conflicts:
        return Program(False, "", tuple(dict.fromkeys([*result.conflicts, *sentences])))
    if result.same and exact and rearranged and result.error > REARRANGED:
        why = f"in float64, outputs differ by {result.error:.3g} of their norm: "
        return Program(
            False, "", tuple(f"{why}{s}" if i == 0 else s for i, s in enumerate(sentences))
        )
    if result.same:
        if rearranged:
            values = {n: f"{n} has the reference's values in another order" for n in values}
        return Program(True, "same function", tuple(_summary(operators, structure, values)))
    # An operator or an operand that was exchanged is a better place than results before and after.
    exchanged = exact or (len(operators) == 1 and not first)
    if result.same is None or not exchanged:
        sentences = [*result.reasons, *sentences]
    return Program(result.same, "", tuple(sentences))


def _summary(
    operators: "list[_Difference]", structure: dict[Any, str], values: dict[Any, str]
) -> Iterator[str]:
    """Describe how a program differs: each kind of difference once."""
    kinds: dict[str, list[str]] = {}
    for difference in operators:
        kinds.setdefault(difference.kind, []).append(difference.place)
    for kind, places in kinds.items():
        count = f" {len(places)} times, first" if places[1:] else ""
        yield f"{kind},{count} {places[0]}"
    for found in (structure, values):
        if sentences := list(found.values()):
            more = f" (and {len(sentences) - 1} more)" if sentences[1:] else ""
            yield f"{sentences[0]}{more}"


def _reads_modes(ported: nn.Module, *inputs: Any) -> bool:
    """Return whether training flags change what a network executes."""
    try:
        own = find_steps(copy.deepcopy(ported), *inputs, evaluating=False)
    except ParityError:  # a batch norm refuses a single value in training mode
        return True
    a, b = ([(s.name, s.scalars()) for s in steps] for steps in (own, find_steps(ported, *inputs)))
    return a != b


def _runs(model: nn.Module, *inputs: Any) -> bool:
    try:
        with network.guarded(network.named(model)), torch.no_grad():
            model(*tree_map_only(Tensor, Tensor.clone, inputs))
    except ParityError:
        return False
    return True


def on_cpu(model: nn.Module) -> nn.Module:
    """Return a network itself if it is on the CPU, or else a copy there."""
    if all(t.device.type == "cpu" for t in chain(model.parameters(), model.buffers())):
        return model
    return copy.deepcopy(model).to("cpu")


def _place(module: str) -> str:
    return f"at {module}" if module else "at the top level"


# --- Tensors of the state


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: value
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor) and not name.endswith("num_batches_tracked")
    }


def _bits(tensor: Tensor) -> Tensor:
    sizes = {1: torch.int8, 2: torch.int16, 4: torch.int32}
    integer = sizes.get(tensor.element_size(), torch.int64)
    return tensor.detach().cpu().contiguous().view(integer)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return Kind.of(a) == Kind.of(b) and torch.equal(_bits(a), _bits(b))


def _structure(reference: nn.Module, ported: nn.Module) -> Found:
    """Report tensors whose shape or type differs, or that are missing or new.

    A tensor with equal bits may have another name.
    """
    expected, found = _state(reference), _state(ported)
    extra = {name: t for name, t in found.items() if name not in expected}
    for name, tensor in expected.items():
        if name in found:
            if Kind.of(found[name]) != Kind.of(tensor):
                kinds = f"{Kind.of(found[name])} where the reference has {Kind.of(tensor)}"
                yield name, f"{name} is {kinds}"
            continue
        twin = next((n for n, t in extra.items() if _same_bits(t, tensor)), None)
        if twin is None:
            yield name, f"{name}, {Kind.of(tensor)}, of the reference is missing"
        else:
            del extra[twin]
    for name, tensor in extra.items():
        yield name, f"{name}, {Kind.of(tensor)}, is not in the reference"


def _values(reference: nn.Module, ported: nn.Module) -> Found:
    found = _state(ported)
    for name, a in _state(reference).items():
        b = found.get(name, a)
        if Kind.of(a) == Kind.of(b) and not _same_bits(a, b):
            count = f"{int((_bits(a) != _bits(b)).sum())} of {a.numel()} values"
            gap = (b.cpu().double() - a.cpu().double()).abs().max()
            yield name, f"{name} differs from the reference's in {count}, by up to {gap:.3g}"


def _rearranged(reference: nn.Module, ported: nn.Module, names: Iterable[str]) -> bool:
    """Return whether tensors have the reference's values in another order, or times powers of two.

    Channels may be exchanged, and scaled in one layer and back in the next.
    """
    expected, found = _state(reference), _state(ported)
    return all(torch.equal(_mantissas(expected[name]), _mantissas(found[name])) for name in names)


def _mantissas(tensor: Tensor) -> Tensor:
    """Return the bits of all signed mantissas in ascending order."""
    values = tensor.detach().cpu().flatten()
    return _bits(values.frexp()[0] if values.is_floating_point() else values).sort()[0]


# --- Modes and settings of modules


def _modes(reference: nn.Module, ported: nn.Module) -> Found:
    """Report training flags that differ, once for a module and the modules inside it."""
    expected = dict(reference.named_modules())
    told: list[str] = []
    for path, module in ported.named_modules():
        wanted = expected.get(path, reference).training
        if module.training == wanted or any(f"{path}.".startswith(outer) for outer in told):
            continue
        told.append(f"{path}." if path else "")
        modes = ("training", "evaluation") if module.training else ("evaluation", "training")
        what = "{} mode where the reference is in {} mode".format(*modes)
        yield (path, "training"), f"{what}, {_place(path)}"


def _settings(reference: nn.Module, ported: nn.Module, convolutions: bool) -> Found:
    """Report settings (`__constants__`) that differ between layers of the same path.

    Args:
        convolutions: whether to look at convolutions. A port may pad, merge or stride apart.
    """
    expected = dict(reference.named_modules())
    for path, module in ported.named_modules():
        other = expected.get(path)
        if isinstance(module, nn.modules.conv._ConvNd) and not convolutions:
            continue
        declared = {*getattr(module, "__constants__", ()), *getattr(other, "__constants__", ())}
        for name in sorted(declared - _IDLE_SETTINGS):
            if not (hasattr(other, name) and hasattr(module, name)):
                continue
            a, b = settings.of_layer(other, name), settings.of_layer(module, name)
            if not settings.same(a, b):
                kind = type(module).__name__
                what = f"{kind} {name} {b} where the reference has {a}"
                yield (path, name), f"{what}, {_place(path)}"


# --- Operators


@dataclass(frozen=True)
class _Difference:
    """A difference between operators.

    Attributes:
        about: see `Found`.
        kind, place: the sentence, in two parts.
        decides: whether a port that is otherwise the same program is wrong. The float64 test
            decides about the others.
    """

    about: str | tuple[str, str]
    kind: str
    place: str
    decides: bool = False

    @property
    def sentence(self) -> str:
        return f"{self.kind}, {self.place}"


# Fewer bits than float32, and all that is quantised.
_NARROW = {
    *(torch.float16, torch.bfloat16),
    *(torch.qint8, torch.quint8, torch.qint32, torch.quint4x2, torch.quint2x4),
}


def _narrow(expected: list[Step], found: list[Step]) -> list[str]:
    """Report a precision below float32 that the reference does not use, and quantisation."""

    def coarse(step: Step) -> torch.dtype | None:
        return next((kind.dtype for kind in step.results if kind.dtype in _NARROW), None)

    known = {coarse(step) for step in expected}
    for step in found:
        if step.name.startswith("quantized::"):
            return [f"the port is quantised: {step}, {_place(step.module)}"]
        if (dtype := coarse(step)) not in known and dtype:
            name = str(dtype).removeprefix("torch.")
            return [f"{step} gives {name}, which the reference does not use, {_place(step.module)}"]
    return []


class _Comparison:
    """The operators of two programs, in pairs.

    Attributes:
        aligned: whether the sequences have the same operators.
    """

    def __init__(self, expected: list[Step], found: list[Step], state: dict[str, Tensor]):
        self._expected, self._found, self._state = expected, found, list(state.values())
        theirs, ours = ([step.name for step in steps] for steps in (expected, found))
        self._blocks = SequenceMatcher(None, theirs, ours, autojunk=False).get_opcodes()
        self.aligned = all(tag == "equal" for tag, *_ in self._blocks)

    def differences(self) -> Iterator[_Difference]:
        """Yield operators that are missing or new, then arguments that differ."""
        pairs: list[tuple[Step, Step]] = []
        for tag, i, i_end, j, j_end in self._blocks:
            wanted, had = self._expected[i:i_end], self._found[j:j_end]
            both = [  # a graph has no paths
                (w, replace(h, module=h.module or w.module))
                for w, h in zip(wanted, had, strict=False)
            ]
            if tag == "equal":
                pairs += both
                continue
            for w, h in both:
                yield _operator(h, f"{h} where the reference has {w}")
            for w in wanted[len(both) :]:
                yield _operator(w, f"{w} of the reference is missing")
            for h in had[len(both) :]:
                yield _operator(h, f"{h}, which the reference does not have")
        reshaped = False
        for theirs, ours in pairs:
            for name in {**theirs.arguments, **ours.arguments}:
                a, b = theirs.arguments.get(name), ours.arguments.get(name)
                if not (isinstance(a, Operand) and isinstance(b, Operand)):
                    yield from self._scalars(theirs, ours, name)
                elif self.aligned and a.source != b.source:
                    origins = _origin(b, self._found), _origin(a, self._expected)
                    what = "from {} where the reference has {}".format(*origins)
                    yield _argument(ours, name, what)
                elif a.kind != b.kind:
                    if not reshaped or b.source is None:  # one shape leads to the next
                        yield _argument(ours, name, f"{b.kind} where the reference has {a.kind}")
                    reshaped = reshaped or b.source is not None
                elif a.value is not None and b.value is not None:  # no step computed it
                    if _same_bits(a.value, b.value) or (
                        not (a.name or b.name) and _near(a.value, b.value)
                    ):
                        continue
                    what = "with other values than the reference's"
                    # Layers in another order have each other's weights.
                    decides = not any(_same_bits(b.value, t) for t in self._state)
                    yield _argument(ours, name, what, decides, b.name)

    def _scalars(self, theirs: Step, ours: Step, name: str) -> Iterator[_Difference]:
        a, b = (step.arguments.get(name) for step in (theirs, ours))
        tensor = isinstance(a, Operand) or isinstance(b, Operand)
        known = name in theirs.arguments and name in ours.arguments
        if tensor or (known and not settings.same(a, b, otherwise=a == b)):
            decides = known and not tensor and settings.decides(ours.name, name)
            yield _argument(ours, name, f"{b} where the reference has {a}", decides)


def _operator(step: Step, kind: str) -> _Difference:
    return _Difference((step.module, step.name), kind, _place(step.module))


def _argument(
    step: Step, name: str, what: str, decides: bool = False, tensor: str | None = None
) -> _Difference:
    about = tensor or (step.module, name)
    return _Difference(about, f"{step} {name} {what}", _place(step.module), decides)


def _near(a: Tensor, b: Tensor) -> bool:
    """Return whether a constant is only rounded differently."""
    if not a.is_floating_point():
        return False
    x, y = a.double(), b.double()
    within = CONSTANT * torch.finfo(torch.float32).eps * x.abs().max()
    return bool(((x - y).abs() <= within).all())


def _origin(operand: Operand, steps: list[Step]) -> str:
    if operand.source is None:
        return operand.name or "an input or a constant"
    index, result = operand.source
    step = steps[index]
    name = f"{step}[{result}]" if len(step.results) > 1 else str(step)
    return f"{name} ({step.module})" if step.module else name
