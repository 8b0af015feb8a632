"""Question 1 of the verdict, "same program?": weights, settings and the sequence of operators.

Names of classes and modules do not count. Two networks are the same program if they pass the same
tensors through the same operators.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from npu_parity.errors import ParityError
from npu_parity.verdict.recording import Call, record, tensors

# Arguments of operators and settings of layers that do not change the results of inference.
_IDLE_ARGUMENTS = {"device", "layout", "pin_memory", "memory_format", "non_blocking", "momentum"}
_IDLE_SETTINGS = {
    *("momentum", "track_running_stats", "affine", "elementwise_affine", "inplace", "p", "name")
}
# Operators that return their input unchanged. Memory layouts decide whether they run.
_HANDING_ON = {"clone", "detach", "alias", "contiguous", "lift", "lift_fresh"}
_OTHER_NAMES = {"_unsafe_view": "view", "reshape": "view", "_reshape_alias": "view"}

# A subject and a sentence about it. The subject is a tensor's name, or a module and a setting. It
# prevents two findings about the same thing.
Found = Iterator[tuple[str | tuple[str, str], str]]


def differences(reference: nn.Module, ported: nn.Module, *inputs: Any) -> list[str]:
    """Return how a ported network differs as a program. An empty list means the same program.

    Both networks are recorded on the CPU, because other backends execute their own operators.
    Operands that no operator computed (inputs, weights, constants) must have equal bits. All other
    operands must come from the same operator.

    Args:
        reference, ported: networks on any device; neither is changed.
        inputs: arguments of both networks; on the CPU.

    Returns:
        One sentence for each difference, in this order: tensors with another name, shape or type,
        training mode, operators, settings, values of tensors.
    """
    reference, ported = _on_cpu(reference), _on_cpu(ported)
    structure = dict(_structure(reference, ported))
    values = dict(_values(reference, ported))
    first = [*structure.values(), *(sentence for _, sentence in _modes(reference, ported))]
    expected = _steps(record(reference, *inputs), reference)
    try:
        found = _steps(record(ported, *inputs), ported)
    except ParityError as error:
        reason = f"the ported network does not run: {error}"
        return [*first, reason, *values.values()]
    known = structure.keys() | values.keys()
    operators = [(about, s) for about, s in _operators(expected, found) if about not in known]
    told = {about for about, _ in operators}
    settings = [s for about, s in _settings(reference, ported) if about not in told]
    return [*first, *(s for _, s in operators), *settings, *values.values()]


def _on_cpu(model: nn.Module) -> nn.Module:
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


def _settings(reference: nn.Module, ported: nn.Module) -> Found:
    """Report settings (`__constants__`) that differ between layers of the same path."""
    expected = dict(reference.named_modules())
    for path, module in ported.named_modules():
        other = expected.get(path)
        declared = {*getattr(module, "__constants__", ()), *getattr(other, "__constants__", ())}
        for name in sorted(declared - _IDLE_SETTINGS):
            if not (hasattr(other, name) and hasattr(module, name)):
                continue
            a, b = getattr(other, name), getattr(module, name)
            if not _same_setting(a, b):
                kind = type(module).__name__
                what = f"{kind} {name} {b} where the reference has {a}"
                yield (path, name), f"{what}, {_place(path)}"


def _same_setting(a: Any, b: Any) -> bool:
    """Return whether two settings are equal, like 3 and (3, 3), or cannot be compared here."""
    a, b = (list(v) if isinstance(v, list | tuple) else [v] for v in (a, b))
    if len(a) != len(b):
        a, b = (v * max(len(a), len(b)) if len(v) == 1 else v for v in (a, b))
    kinds = (str,), (bool, int, float, type(None))
    comparable = any(all(isinstance(v, kind) for v in [*a, *b]) for kind in kinds)
    return not comparable or a == b


# --- Operators


@dataclass(frozen=True)
class _Operand:
    """A tensor operand of a step."""

    tensor: Tensor
    source: tuple[int, int] | None  # the step, and which of its results; None: none computed it
    name: str | None  # of a parameter or buffer

    def __str__(self) -> str:
        return _kind(self.tensor)


@dataclass(frozen=True)
class _Step:
    """One operator that computes a result."""

    module: str
    name: str
    arguments: dict[str, Any]
    results: int

    def __str__(self) -> str:
        return self.name.strip("_").removeprefix("native_")


def _restrides(call: Call) -> bool:
    """Return whether an operator only changes the memory layout, like pooling in channels_last."""
    if call.name != "as_strided":
        return False
    before, after = call.arguments["self"], call.result
    return before.shape == after.shape and torch.equal(before, after)


def _steps(calls: list[Call], model: nn.Module) -> list[_Step]:
    """Find the source of each operand. Leave out operators that return their input unchanged."""
    named = chain(model.named_parameters(), model.named_buffers())
    names = {_memory(tensor): name for name, tensor in named}
    steps: list[_Step] = []
    made: dict[tuple[Any, ...], tuple[int, int]] = {}  # by tensor
    written: dict[int, tuple[int, int]] = {}  # by memory, where an operator wrote to part of it

    def operand(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        memory = _memory(value)
        return _Operand(value, made.get(_key(value), written.get(memory)), names.get(memory))

    for call in calls:
        arguments = {name: operand(value) for name, value in _flat(call.arguments).items()}
        results = tensors(call.result)
        if call.name in _HANDING_ON or _restrides(call):
            sources = [arguments["self"].source]
        else:
            sources = [(len(steps), i) for i in range(len(results))]
            name = _OTHER_NAMES.get(call.name, call.name)
            steps.append(_Step(call.module, name, arguments, len(results)))
        for result, source in zip(results, sources, strict=True):
            if source is not None and call.func._schema.is_mutable:
                made[_key(result)] = written[_memory(result)] = source
            elif source is not None:  # a view of all of a tensor is that tensor
                made.setdefault(_key(result), source)
                written.setdefault(_memory(result), source)
    return steps


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _key(tensor: Tensor) -> tuple[Any, ...]:
    return _memory(tensor), tensor.storage_offset(), tensor.shape, tensor.stride()


def _flat(arguments: dict[str, Any]) -> dict[str, Any]:
    """Name each tensor of a list, and leave out arguments that do not change the result."""
    flat: dict[str, Any] = {}
    for name, value in arguments.items():
        if isinstance(value, list | tuple) and tensors(value):
            flat |= {f"{name}[{i}]": v for i, v in enumerate(value)}
        elif name not in _IDLE_ARGUMENTS:
            flat[name] = list(value) if isinstance(value, tuple) else value
    return flat


def _operators(expected: list[_Step], found: list[_Step]) -> Found:
    """Report operators that are missing or new, then arguments that differ."""
    matcher = SequenceMatcher(
        None, [step.name for step in expected], [step.name for step in found], autojunk=False
    )
    pairs: list[tuple[_Step, _Step]] = []
    for tag, i, i_end, j, j_end in matcher.get_opcodes():
        wanted, had = expected[i:i_end], found[j:j_end]
        both = list(zip(wanted, had, strict=False))
        if tag == "equal":
            pairs += both
            continue
        for w, h in both:
            yield (h.module, h.name), f"{h} where the reference has {w}, {_place(h.module)}"
        for w in wanted[len(both) :]:
            yield (w.module, w.name), f"{w} of the reference is missing, {_place(w.module)}"
        for h in had[len(both) :]:
            yield (h.module, h.name), f"{h}, which the reference does not have, {_place(h.module)}"
    aligned = len(pairs) == len(expected) == len(found)
    reshaped = False
    for theirs, ours in pairs:
        for name in {**theirs.arguments, **ours.arguments}:
            a, b = theirs.arguments.get(name), ours.arguments.get(name)
            about: str | tuple[str, str] = (ours.module, name)
            if isinstance(a, _Operand) and isinstance(b, _Operand):
                if aligned and a.source != b.source:
                    what = (
                        f"from {_origin(b, found)} where the reference has {_origin(a, expected)}"
                    )
                elif str(a) != str(b):
                    if reshaped and b.source is not None:  # one shape leads to the next
                        continue
                    reshaped = reshaped or b.source is not None
                    what = f"{b} where the reference has {a}"
                elif a.source is b.source is None and not _same_bits(a.tensor, b.tensor):
                    about, what = b.name or about, "with other values than the reference's"
                else:
                    continue
            elif a != b:
                what = f"{b} where the reference has {a}"
            else:
                continue
            yield about, f"{ours} {name} {what}, {_place(ours.module)}"


def _origin(operand: _Operand, steps: list[_Step]) -> str:
    if operand.source is None:
        return operand.name or "an input or a constant"
    index, result = operand.source
    step = steps[index]
    name = f"{step}[{result}]" if step.results > 1 else str(step)
    return f"{name} ({step.module})" if step.module else name
