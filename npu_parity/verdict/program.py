"""Question 1 of the verdict, "same program?": weights, settings and the sequence of operators.

Names of classes and modules do not count. Two networks are the same program if they pass the same
tensors through the same operators. Another program may compute the same function, see
`npu_parity.verdict.function`.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_map_only

from npu_parity.backends import network
from npu_parity.errors import ParityError
from npu_parity.numerics.schema import computes_nothing
from npu_parity.verdict import function, settings
from npu_parity.verdict.answers import Program
from npu_parity.verdict.recording import Call, Visitor, observed, tensors
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
# Operators that may return their input unchanged.
_MAY_HAND_ON = {
    *("as_strided", "view", "expand", "slice", "permute", "transpose", "squeeze", "unsqueeze"),
    *("_to_copy", "flip", "constant_pad_nd", "t"),
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
    expected = _steps(reference, *one)
    try:
        found = _steps(ported, *one)
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
        own = _steps(copy.deepcopy(ported), *inputs, evaluating=False)
    except ParityError:  # a batch norm refuses a single value in training mode
        return True
    a, b = ([(s.name, s.scalars()) for s in steps] for steps in (own, _steps(ported, *inputs)))
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
    return _kind(a) == _kind(b) and torch.equal(_bits(a), _bits(b))


def _structure(reference: nn.Module, ported: nn.Module) -> Found:
    """Report tensors whose shape or type differs, or that are missing or new.

    A tensor with equal bits may have another name.
    """
    expected, found = _state(reference), _state(ported)
    extra = {name: t for name, t in found.items() if name not in expected}
    for name, tensor in expected.items():
        if name in found:
            if _kind(found[name]) != _kind(tensor):
                kinds = f"{_kind(found[name])} where the reference has {_kind(tensor)}"
                yield name, f"{name} is {kinds}"
            continue
        twin = next((n for n, t in extra.items() if _same_bits(t, tensor)), None)
        if twin is None:
            yield name, f"{name}, {_kind(tensor)}, of the reference is missing"
        else:
            del extra[twin]
    for name, tensor in extra.items():
        yield name, f"{name}, {_kind(tensor)}, is not in the reference"


def _values(reference: nn.Module, ported: nn.Module) -> Found:
    found = _state(ported)
    for name, a in _state(reference).items():
        b = found.get(name, a)
        if _kind(a) == _kind(b) and not _same_bits(a, b):
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


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


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

_Source = tuple[int, int]  # a step, and which of its results


@dataclass(frozen=True)
class _Operand:
    """A tensor operand of a step."""

    tensor: Tensor
    source: _Source | None  # None: no step computed it
    name: str | None  # of a parameter or buffer

    def __str__(self) -> str:
        return _kind(self.tensor)


@dataclass(frozen=True)
class _Step:
    """One operator that computes a result."""

    module: str
    name: str
    arguments: dict[str, Any]
    results: tuple[Tensor, ...]

    def __str__(self) -> str:
        return self.name.strip("_").removeprefix("native_")

    def scalars(self) -> dict[str, Any]:
        """Return the arguments that are no tensors."""
        return {n: v for n, v in self.arguments.items() if not isinstance(v, _Operand)}


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


def _hands_on(call: Call) -> bool:
    """Return whether an operator returns its first operand, perhaps in another memory layout."""
    if call.name in settings.HANDING_ON:
        return True
    if settings.name(call.func) not in _MAY_HAND_ON or not isinstance(call.result, Tensor):
        return False
    before, after = call.arguments["self"], call.result
    if after.device.type != "cpu" or after.layout != torch.strided:
        return False
    return _kind(before) == _kind(after) and torch.equal(before, after)


def _steps(model: nn.Module, *inputs: Any, evaluating: bool = True) -> list[_Step]:
    """Run a network and return its operators. Leave out those that return their input unchanged.

    Raises:
        ParityError: the network fails, see `network.guarded`.
    """
    inputs = tree_map_only(Tensor, Tensor.clone, inputs)
    with observed(model, *inputs, evaluating=evaluating) as path, _Finder(path, model) as finder:
        model(*inputs)
    steps: list[_Step] = finder.steps
    return steps


class _Finder(Visitor):
    """Finds the source of each operand while a network runs. It keeps no computed values.

    Memory is known by its storage. A weak reference keeps the storage's identity, so that new
    memory at the same place is not taken for it.
    """

    def __init__(self, path: list[str], model: nn.Module):
        super().__init__(path, self._add)
        self.steps: list[_Step] = []
        named = chain(model.named_parameters(), model.named_buffers())
        self._names = {_memory(tensor): name for name, tensor in named}
        self._storages: dict[int, StorageWeakRef] = {}
        # By storage: the source of each tensor there, and where an operator wrote to part of it.
        self._made: dict[int, dict[tuple[Any, ...], _Source]] = defaultdict(dict)
        self._written: dict[int, _Source] = {}
        self._constants: dict[int, list[tuple[int, str]]] = defaultdict(list)  # step and argument

    def set_aside(self, tensor: Tensor) -> Callable[[Tensor], Tensor]:
        """Let what is known about memory, before an operator writes to it, follow the copy."""
        moved = super().set_aside(tensor)
        old, new = self._storage(tensor), self._storage(moved(tensor))
        if old in self._made:
            self._made[new] = self._made.pop(old)
        if old in self._written:
            self._written[new] = self._written.pop(old)
        for index, name in self._constants.pop(old, ()):
            self._constants[new].append((index, name))
            operand = self.steps[index].arguments[name]
            self.steps[index].arguments[name] = replace(operand, tensor=moved(operand.tensor))
        return moved

    def _add(self, call: Call) -> None:
        if computes_nothing(call.func):
            return
        name = settings.name(call.func)
        normal = settings.normal(name, call.arguments, call.result)
        arguments = {n: self._operand(value) for n, value in _flat(normal).items()}
        results = tensors(call.result)
        if _hands_on(call):
            sources = [arguments["self"].source]
        else:
            index = len(self.steps)
            sources = [(index, i) for i in range(len(results))]
            for n, value in arguments.items():
                if isinstance(value, _Operand) and value.source is None:
                    self._constants[self._storage(value.tensor)].append((index, n))
            self.steps.append(_without_values(_Step(call.module, name, arguments, tuple(results))))
        for result, source in zip(results, sources, strict=True):
            storage = self._storage(result)
            if source is not None and call.func._schema.is_mutable:
                self._made[storage][_view(result)] = self._written[storage] = source
            elif source is not None:  # a view of all of a tensor is that tensor
                self._made[storage].setdefault(_view(result), source)
                self._written.setdefault(storage, source)

    def _operand(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        storage = self._storage(value)
        source = self._made[storage].get(_view(value), self._written.get(storage))
        return _Operand(value, source, self._names.get(_memory(value)))

    def _storage(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._storages:
            self._storages[storage._cdata] = StorageWeakRef(storage)
        return int(storage._cdata)


def _without_values(step: _Step) -> _Step:
    """Return a step without the memory of computed tensors. Only constants are compared."""
    arguments = {
        name: replace(value, tensor=_shape(value.tensor))
        if isinstance(value, _Operand) and value.source is not None
        else value
        for name, value in step.arguments.items()
    }
    return replace(step, arguments=arguments, results=tuple(map(_shape, step.results)))


def _shape(tensor: Tensor) -> Tensor:
    plain = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_nested
    return torch.empty_like(tensor, device="meta") if plain else tensor


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _view(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.storage_offset(), tensor.shape, tensor.stride()


def _flat(arguments: dict[str, Any]) -> dict[str, Any]:
    """Name each tensor of a list."""
    flat: dict[str, Any] = {}
    for name, value in arguments.items():
        if isinstance(value, list) and tensors(value):
            flat |= {f"{name}[{i}]": v for i, v in enumerate(value)}
        else:
            flat[name] = value
    return flat


_NARROW = (torch.float16, torch.bfloat16)


def _narrow(expected: list[_Step], found: list[_Step]) -> list[str]:
    """Report a precision below float32 that the reference does not use, and quantisation."""

    def coarse(step: _Step) -> Tensor | None:
        results = (t for t in step.results if t.dtype in _NARROW or t.is_quantized)
        return next(results, None)

    known = {t.dtype for s in expected if (t := coarse(s)) is not None}
    for step in found:
        if step.name.startswith("quantized::"):
            return [f"the port is quantised: {step}, {_place(step.module)}"]
        if (t := coarse(step)) is not None and t.dtype not in known:
            dtype = str(t.dtype).removeprefix("torch.")
            return [
                f"{step} gives {dtype}, which the reference does not use, {_place(step.module)}"
            ]
    return []


class _Comparison:
    """The operators of two programs, in pairs.

    Attributes:
        aligned: whether the sequences have the same operators.
    """

    def __init__(self, expected: list[_Step], found: list[_Step], state: dict[str, Tensor]):
        self._expected, self._found, self._state = expected, found, list(state.values())
        theirs, ours = ([step.name for step in steps] for steps in (expected, found))
        self._blocks = SequenceMatcher(None, theirs, ours, autojunk=False).get_opcodes()
        self.aligned = all(tag == "equal" for tag, *_ in self._blocks)

    def differences(self) -> Iterator[_Difference]:
        """Yield operators that are missing or new, then arguments that differ."""
        pairs: list[tuple[_Step, _Step]] = []
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
                if not (isinstance(a, _Operand) and isinstance(b, _Operand)):
                    yield from self._scalars(theirs, ours, name)
                elif self.aligned and a.source != b.source:
                    origins = _origin(b, self._found), _origin(a, self._expected)
                    what = "from {} where the reference has {}".format(*origins)
                    yield _argument(ours, name, what)
                elif str(a) != str(b):
                    if not reshaped or b.source is None:  # one shape leads to the next
                        yield _argument(ours, name, f"{b} where the reference has {a}")
                    reshaped = reshaped or b.source is not None
                elif a.source is b.source is None and not _same_values(a, b):
                    what = "with other values than the reference's"
                    # Layers in another order have each other's weights.
                    decides = not any(_same_bits(b.tensor, t) for t in self._state)
                    yield _argument(ours, name, what, decides, b.name)

    def _scalars(self, theirs: _Step, ours: _Step, name: str) -> Iterator[_Difference]:
        a, b = (step.arguments.get(name) for step in (theirs, ours))
        tensor = isinstance(a, _Operand) or isinstance(b, _Operand)
        known = name in theirs.arguments and name in ours.arguments
        if tensor or (known and not settings.same(a, b, otherwise=a == b)):
            decides = known and not tensor and settings.decides(ours.name, name)
            yield _argument(ours, name, f"{b} where the reference has {a}", decides)


def _operator(step: _Step, kind: str) -> _Difference:
    return _Difference((step.module, step.name), kind, _place(step.module))


def _argument(
    step: _Step, name: str, what: str, decides: bool = False, tensor: str | None = None
) -> _Difference:
    about = tensor or (step.module, name)
    return _Difference(about, f"{step} {name} {what}", _place(step.module), decides)


def _same_values(a: _Operand, b: _Operand) -> bool:
    """Return whether bits are equal. A constant may be rounded differently."""
    if _same_bits(a.tensor, b.tensor):
        return True
    if a.name or b.name or not a.tensor.is_floating_point():
        return False
    x, y = a.tensor.double(), b.tensor.double()
    within = CONSTANT * torch.finfo(torch.float32).eps * x.abs().max()
    return bool(((x - y).abs() <= within).all())


def _origin(operand: _Operand, steps: list[_Step]) -> str:
    if operand.source is None:
        return operand.name or "an input or a constant"
    index, result = operand.source
    step = steps[index]
    name = f"{step}[{result}]" if len(step.results) > 1 else str(step)
    return f"{name} ({step.module})" if step.module else name
