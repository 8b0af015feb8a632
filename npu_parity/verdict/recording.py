"""What a network computes, as the sequence of aten operators of one forward pass.

Recorded calls can be compared (`npu_parity.program`) and executed again, one by one, on
another device (`npu_parity.operators`).
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from npu_parity.numerics.emulation import attention_apart, is_composite

# Memory without values: nothing is computed, and what is found there differs from run to run.
_ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}


@dataclass(frozen=True, eq=False)
class Call:
    """One executed operator with its operands as they were before it ran.

    Attributes:
        index: position in the recording.
        module: dotted path of the innermost submodule that was executing; "" is the root.
        operator: e.g. ``aten.convolution.default``.
        func: the operator itself; ``func(*args, **kwargs)`` runs it again.
        args, kwargs: operands; tensors share memory with the network's own where nothing wrote
            to it later.
        result: a tensor, a tuple or list of tensors, or a number.
    """

    index: int
    module: str
    operator: str
    func: torch._ops.OpOverload
    args: tuple
    kwargs: dict[str, Any]
    result: Any

    @property
    def name(self) -> str:
        """Name without namespace and overload; the in-place variant has the same name."""
        return self.func._schema.name.partition("::")[2].rstrip("_")

    @property
    def first(self) -> Tensor | None:
        """The first tensor of the result; None where there is none."""
        return next(iter(tensors(self.result)), None)

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """All arguments by their name and in the order of the schema, defaults included."""
        schema = self.func._schema.arguments
        given = {**dict(zip((a.name for a in schema), self.args, strict=False)), **self.kwargs}
        return {a.name: given.get(a.name, a.default_value) for a in schema}


def tensors(values: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and dictionaries, in order."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def record(model: nn.Module, *inputs: Any) -> list[Call]:
    """Run a network in evaluation mode, without gradients, and return every operator it executes.

    Composite operators and attention are taken apart, as `npu_parity.emulation.emulate` does.
    Allocations are left out. The network's training flags are afterwards as they were.

    Args:
        model: weights are kept by reference: do not write to them while the calls are in use.
        inputs: what `model` is called with; on its device.
    """
    # Inside inference_mode, tensors could not be written to later and composites arrive whole.
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        _evaluating(model),
        attention_apart(),
        _path(model) as path,
        _Recorder(path) as recorder,
    ):
        model(*inputs)
    return recorder.calls


class _Recorder(TorchDispatchMode):
    def __init__(self, path: list[str]):
        super().__init__()
        self.calls: list[Call] = []
        self._path = path
        self._users: dict[int, set[int]] = defaultdict(set)  # memory -> calls that refer to it

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        # Module.to() exchanges what is behind a Parameter; a detached tensor keeps its memory.
        operands = tree_map_only(Tensor, Tensor.detach, (args, kwargs))
        for tensor in _written(func, args, kwargs):
            operands = tree_map_only(Tensor, self._set_aside(tensor), operands)
        result = func(*args, **kwargs)
        if func.overloadpacket.__name__ not in _ALLOCATIONS:
            kept = tree_map_only(Tensor, Tensor.detach, result)
            module = self._path[-1]
            call = Call(len(self.calls), module, str(func), func, *operands, kept)
            for tensor in tensors((operands, kept)):
                self._users[_memory(tensor)].add(call.index)
            self.calls.append(call)
        return result

    def _set_aside(self, tensor: Tensor) -> Callable[[Tensor], Tensor]:
        """Copy memory that is about to be written; earlier calls refer to the copy from now on.

        Returns a function that exchanges a tensor in that memory for the same one in the copy.
        """
        memory = _memory(tensor)
        copy = tensor.untyped_storage().clone()

        def moved(x: Tensor) -> Tensor:
            if _memory(x) != memory:
                return x
            return x.new_empty(0).set_(copy, x.storage_offset(), x.size(), x.stride())

        for i in self._users.pop(memory, ()):
            call = self.calls[i]
            held = tree_map_only(Tensor, moved, (call.args, call.kwargs, call.result))
            self.calls[i] = replace(call, args=held[0], kwargs=held[1], result=held[2])
        return moved


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _written(func: torch._ops.OpOverload, args: tuple, kwargs: dict) -> list[Tensor]:
    """Return the operands that an operator writes to, by its schema."""
    schema = func._schema
    if not schema.is_mutable:
        return []
    names = [a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write]
    given = {**dict(zip((a.name for a in schema.arguments), args, strict=False)), **kwargs}
    return tensors([given.get(name) for name in names])


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags.items():
            module.training = flag


@contextmanager
def _path(model: nn.Module) -> Iterator[list[str]]:
    """Yield a list whose last element is always the path of the submodule that is executing."""
    path = [""]
    handles = []

    def enters(name: str) -> Callable[..., None]:
        return lambda *_: path.append(name)

    def leaves(*_: Any) -> None:  # a hook that returned something would replace the output
        path.pop()

    try:
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(enters(name)))
            handles.append(module.register_forward_hook(leaves, always_call=True))
        yield path
    finally:
        for handle in handles:
            handle.remove()
