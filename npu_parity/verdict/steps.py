"""The operators that a network executes, and where each of their operands comes from.

`find_steps` keeps no computed values, so its memory does not grow with the number of layers.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_map_only

from npu_parity.numerics.schema import computes_nothing
from npu_parity.verdict import settings
from npu_parity.verdict.recording import Call, Visitor, memory, observed, tensors

# Operators that may return their input unchanged.
_MAY_HAND_ON = {
    *("as_strided", "view", "expand", "slice", "permute", "transpose", "squeeze", "unsqueeze"),
    *("_to_copy", "flip", "constant_pad_nd", "t"),
}

Source = tuple[int, int]  # a step, and which of its results


class Kind(NamedTuple):
    """The type and the shape of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> "Kind":
        """Return the kind of a tensor."""
        return cls(tensor.dtype, tuple(tensor.shape))

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {self.shape}"


@dataclass(frozen=True)
class Operand:
    """A tensor operand of a step.

    Attributes:
        kind: its type and shape.
        source: what computed it; None for an input, a weight or a constant.
        value: the tensor itself, if no step computed it.
        name: of a parameter or buffer.
    """

    kind: Kind
    source: Source | None
    value: Tensor | None
    name: str | None


@dataclass(frozen=True)
class Step:
    """One operator that computes a result."""

    module: str
    name: str
    arguments: dict[str, Any]
    results: tuple[Kind, ...]

    def __str__(self) -> str:
        return self.name.strip("_").removeprefix("native_")

    def scalars(self) -> dict[str, Any]:
        """Return the arguments that are no tensors."""
        return {n: v for n, v in self.arguments.items() if not isinstance(v, Operand)}


def find_steps(model: nn.Module, *inputs: Any, evaluating: bool = True) -> list[Step]:
    """Run a network and return its operators. Leave out those that return their input unchanged.

    Raises:
        ParityError: the network fails, see `network.guarded`.
    """
    inputs = tree_map_only(Tensor, Tensor.clone, inputs)
    with observed(model, *inputs, evaluating=evaluating) as path, _Finder(path, model) as finder:
        model(*inputs)
    steps: list[Step] = finder.steps
    return steps


class _Finder(Visitor):
    """Finds the source of each operand while a network runs. It keeps no computed values.

    Memory is known by its storage. A weak reference keeps the storage's identity, so that new
    memory at the same place is not taken for it. The reference of a freed storage is let go: many
    of them between large pieces of memory would keep the allocator from using these again.
    """

    def __init__(self, path: list[str], model: nn.Module):
        super().__init__(path, self._add)
        self.steps: list[Step] = []
        named = chain(model.named_parameters(), model.named_buffers())
        self._names = {memory(tensor): name for name, tensor in named}
        self._storages: dict[int, StorageWeakRef] = {}  # of computed tensors
        # By storage: the source of each tensor there, and where an operator wrote to part of it.
        self._made: dict[int, dict[tuple[Any, ...], Source]] = defaultdict(dict)
        self._written: dict[int, Source] = {}
        self._constants: dict[int, list[tuple[int, str]]] = defaultdict(list)  # step and argument

    def set_aside(self, tensor: Tensor) -> Callable[[Tensor], Tensor]:
        """Let what is known about memory, before an operator writes to it, follow the copy."""
        moved = super().set_aside(tensor)
        old, new = _storage(tensor), self._watched(moved(tensor))
        if old in self._made:
            self._made[new] = self._made.pop(old)
        if old in self._written:
            self._written[new] = self._written.pop(old)
        for index, name in self._constants.pop(old, ()):
            self._constants[new].append((index, name))
            operand = self.steps[index].arguments[name]
            self.steps[index].arguments[name] = replace(operand, value=moved(operand.value))
        return moved

    def _add(self, call: Call) -> None:
        self._forget()
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
                if isinstance(value, Operand) and value.value is not None:
                    self._constants[_storage(value.value)].append((index, n))
            kinds = tuple(map(Kind.of, results))
            self.steps.append(Step(call.module, name, arguments, kinds))
        for result, source in zip(results, sources, strict=True):
            if source is None:
                continue
            storage = self._watched(result)
            if call.func._schema.is_mutable:
                self._made[storage][_view(result)] = self._written[storage] = source
            else:  # a view of all of a tensor is that tensor
                self._made[storage].setdefault(_view(result), source)
                self._written.setdefault(storage, source)

    def _operand(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        storage = _storage(value)
        made = self._made.get(storage, {})
        source = made.get(_view(value), self._written.get(storage))
        constant = value if source is None else None
        return Operand(Kind.of(value), source, constant, self._names.get(memory(value)))

    def _watched(self, tensor: Tensor) -> int:
        storage = _storage(tensor)
        if storage not in self._storages:
            self._storages[storage] = StorageWeakRef(tensor.untyped_storage())
        return storage

    def _forget(self) -> None:
        """Drop what is known about freed memory."""
        for storage in [s for s, reference in self._storages.items() if reference.expired()]:
            del self._storages[storage]
            self._made.pop(storage, None)
            self._written.pop(storage, None)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _hands_on(call: Call) -> bool:
    """Return whether an operator returns its first operand, perhaps in another memory layout."""
    if call.name in settings.HANDING_ON:
        return True
    if settings.name(call.func) not in _MAY_HAND_ON or not isinstance(call.result, Tensor):
        return False
    before, after = call.arguments["self"], call.result
    if after.device.type != "cpu" or after.layout != torch.strided:
        return False
    return Kind.of(before) == Kind.of(after) and torch.equal(before, after)


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
