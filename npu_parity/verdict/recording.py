"""Record a network as the sequence of aten operators of one forward pass.

Recorded calls can be compared (`npu_parity.program`) and executed again, one by one, on
another device (`npu_parity.operators`).
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map_only

from npu_parity.backends import network
from npu_parity.numerics import schema
from npu_parity.numerics.dispatch import Operators
from npu_parity.numerics.emulation import attention_apart

# These operators compute nothing. The values in new memory differ from run to run.
ALLOCATIONS = {
    *("empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided")
}


@dataclass(frozen=True, eq=False)
class Call:
    """One executed operator, with its operands before it ran.

    Attributes:
        index: position in the recording.
        module: dotted path of the innermost submodule that executed it; "" is the root.
        operator: e.g. ``aten.convolution.default``.
        func: the operator itself; ``func(*args, **kwargs)`` runs it again.
        args, kwargs: operands. Tensors share memory with the network's tensors, unless an operator
            wrote to this memory later.
        result: a tensor, a tuple or list of tensors, or a number.
    """

    index: int
    module: str
    operator: str
    func: torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any

    @property
    def name(self) -> str:
        """The name without namespace and overload. An in-place variant has the same name."""
        return self.func._schema.name.partition("::")[2].rstrip("_")

    @property
    def first(self) -> Tensor | None:
        """The first tensor of the result; None if there is none."""
        return next(iter(tensors(self.result)), None)

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """All arguments by name, in the order of the schema, including defaults."""
        return schema.arguments(self.func, self.args, self.kwargs)


def tensors(values: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and dictionaries, in order."""
    found: list[Tensor] = []
    _collect(values, found)
    return found


def _collect(values: Any, found: list[Tensor]) -> None:
    if isinstance(values, Tensor):
        found.append(values)
    elif isinstance(values, dict):
        _collect(list(values.values()), found)
    elif isinstance(values, tuple | list):
        for value in values:
            if not isinstance(value, int | float):  # most of them, and a call takes time
                _collect(value, found)


def record(model: nn.Module, *inputs: Any, evaluating: bool = True) -> list[Call]:
    """Run a network without gradients, and return every executed operator.

    It splits composite operators, attention and LSTMs, like `npu_parity.emulate`. It leaves out
    allocations, and fills new memory with zeros. Afterwards the network has its old training flags
    again. Modules that torch has compiled to a graph (traced, scripted, exported) have no paths.

    Args:
        model: the calls refer to its weights, so do not write to them while the calls are in use.
        inputs: arguments of `model`; on its device. The network gets copies.
        evaluating: whether the network runs in evaluation mode, or else with its own flags.

    Raises:
        ParityError: the network fails, see `network.guarded`.

    >>> network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> [call.name for call in record(network, torch.ones(1, 2))]
    ['t', 'addmm', 'relu']
    """
    inputs = tree_map_only(Tensor, Tensor.clone, inputs)  # a network may write to its input
    with observed(model, *inputs, evaluating=evaluating) as path, _Recorder(path) as recorder:
        model(*inputs)
    calls: list[Call] = recorder.calls
    return calls


def visit(model: nn.Module, *inputs: Any, each: Callable[[Call], None]) -> None:
    """Run a network like `record`, and call ``each(call)`` after every executed operator.

    No call is kept, so that memory does not grow with the number of layers. A call's tensors are
    valid until `each` returns.

    >>> names = []
    >>> visit(nn.ReLU(), torch.ones(2), each=lambda call: names.append(call.name))
    >>> names
    ['relu']
    """
    inputs = tree_map_only(Tensor, Tensor.clone, inputs)
    with observed(model, *inputs) as path, Visitor(path, each):
        model(*inputs)


@contextmanager
def observed(model: nn.Module, *inputs: Any, evaluating: bool = True) -> Iterator[list[str]]:
    """Prepare a network for a run inside a dispatch mode; see `record`.

    Yields:
        A list whose last element is always the path of the executing submodule.

    Raises:
        ParityError: the network fails, see `network.guarded`.
    """
    network.expect_ready(model)
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors(inputs))
    # Inference mode forbids later writes to its tensors and does not split composite operators.
    with (
        network.guarded(f"{network.named(model)} on an input of shape {shapes}"),
        torch.inference_mode(False),
        torch.no_grad(),
        _evaluating(model) if evaluating else nullcontext(),
        attention_apart(),
        _as_written(),
        _path(model) as path,
    ):
        yield path


class Visitor(Operators):
    """Hands every executed operator to a function, which runs outside of all dispatch modes."""

    def __init__(self, path: list[str], each: Callable[[Call], None]):
        super().__init__()
        self._path, self._each, self._count = path, each, 0

    def run(
        self, func: torch._ops.OpOverload[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run one operator, and hand it over."""
        # Module.to() replaces the memory of a Parameter. A detached tensor keeps its memory.
        operands = schema.map_tensors(Tensor.detach, (args, kwargs))
        for tensor in schema.written(func, args, kwargs):
            operands = schema.map_tensors(self.set_aside(tensor), operands)
        result = func(*args, **kwargs)
        if func.overloadpacket.__name__ in ALLOCATIONS:
            result.zero_()
        else:
            kept = schema.map_tensors(Tensor.detach, result)
            held, named = operands
            call = Call(self._count, self._path[-1], str(func), func, held, named, kept)
            self._count += 1
            with _disable_current_modes():
                self._each(call)
        return result

    def set_aside(self, tensor: Tensor) -> Callable[[Tensor], Tensor]:
        """Copy memory before an operator writes to it.

        Returns a function that maps a tensor in this memory to the same tensor in the copy.
        """
        place = memory(tensor)
        copy = tensor.untyped_storage().clone()

        def moved(x: Tensor) -> Tensor:
            if memory(x) != place:
                return x
            return x.new_empty(0).set_(copy, x.storage_offset(), x.size(), x.stride())

        return moved


class _Recorder(Visitor):
    """Keeps every executed operator."""

    def __init__(self, path: list[str]):
        super().__init__(path, self._keep)
        self.calls: list[Call] = []
        self._users: dict[int, set[int]] = defaultdict(set)  # memory -> calls that refer to it

    def _keep(self, call: Call) -> None:
        for tensor in tensors((call.args, call.kwargs, call.result)):
            self._users[memory(tensor)].add(call.index)
        self.calls.append(call)

    def set_aside(self, tensor: Tensor) -> Callable[[Tensor], Tensor]:
        """Make earlier calls use the copy, too."""
        moved = super().set_aside(tensor)
        for i in self._users.pop(memory(tensor), ()):
            call = self.calls[i]
            held = schema.map_tensors(moved, (call.args, call.kwargs, call.result))
            self.calls[i] = replace(call, args=held[0], kwargs=held[1], result=held[2])
        return moved


def memory(tensor: Tensor) -> int:
    """Return the address of a tensor's memory, which its views share."""
    return tensor.untyped_storage().data_ptr()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    flags = {module: module.training for module in model.modules()}
    try:
        try:
            model.eval()
        except NotImplementedError:  # an exported module has only one mode
            for module in flags:
                module.training = False
        yield
    finally:
        for module, flag in flags.items():
            module.training = flag


@contextmanager
def _as_written() -> Iterator[None]:
    """Run compiled modules (torch.compile, torch.jit) operator by operator, without fusion."""
    with ExitStack() as stack:
        stack.enter_context(torch.jit._fuser.optimized_execution(False))
        if "torch._dynamo" in sys.modules:  # torch.compile imports it, which takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def _path(model: nn.Module) -> Iterator[list[str]]:
    """Yield a list whose last element is always the path of the executing submodule."""
    path = [""]
    handles = []

    def enters(name: str) -> Callable[..., None]:
        return lambda *_: path.append(name)

    def leaves(*_: Any) -> None:  # a returned value would replace the module's output
        path.pop()

    try:
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):  # no hook can enter it
                continue
            handles.append(module.register_forward_pre_hook(enters(name)))
            handles.append(module.register_forward_hook(leaves, always_call=True))
        yield path
    finally:
        for handle in handles:
            handle.remove()
