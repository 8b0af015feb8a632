"""Emulate a device that stores results in 16 bits and computes inside an operator in float32.

Kernels in float16 and bfloat16 widen their operands, compute and add in float32, and round the
result once. The emulation does the same for every operator, whatever the CPU's own kernels do.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from npu_parity.numerics.dispatch import Operators
from npu_parity.numerics.emulation import attention_apart
from npu_parity.numerics.rounding import NARROW
from npu_parity.numerics.schema import is_composite, written

aten = torch.ops.aten

_NARROW = frozenset(NARROW.values())
_JOINING = {aten.cat, aten.stack}  # promote their operands, like pointwise operators


class Storage(Operators):
    """Runs every operator with 16-bit operands in float32 and rounds its results to 16 bits.

    Torch's rules of promotion decide the dtype of a result. Float32 data stays as it is. Enter it
    through `stored`, which also prevents fused attention.

    Attributes:
        overflow: names the first operator with a result beyond the range of its format; None if
            there is none.
        module: the module that ran this operator; None if unknown.
    """

    def __init__(self) -> None:
        super().__init__()
        self.overflow: str | None = None
        self.module: nn.Module | None = None

    def parts(self, func: torch._ops.OpOverload) -> Callable[..., Any] | None:
        """Return the parts of a composite operator. A layer of an LSTM is one kernel."""
        return func.decompose if is_composite(func) else None

    def run(
        self, func: torch._ops.OpOverload[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run one operator in float32, and round its results."""
        given, structure = tree_flatten((args, kwargs))
        moves = func.is_view or torch.Tag.inplace_view in func.tags
        if moves or not any(map(is_narrow, given)):
            result = func(*args, **kwargs)
            if func.overloadpacket is aten._to_copy and is_narrow(result):
                self._watch(args[0], result, func)
            return result
        wide = [_widened(value) for value in given]
        wide_args, wide_kwargs = tree_unflatten(wide, structure)
        results, nesting = tree_flatten(func(*wide_args, **wide_kwargs))
        operands = {id(w): value for w, value in zip(wide, given, strict=True)}
        for w in written(func, wide_args, wide_kwargs):
            if is_narrow(original := operands[id(w)]):
                original.copy_(w)
                self._watch(w, original, func)
        dtype = _dtype(func, given, kwargs)
        for i, found in enumerate(results):
            if id(found) in operands:  # an operator that returns its operand
                results[i] = operands[id(found)]
            elif isinstance(found, Tensor) and found.dtype == torch.float32 != dtype:
                results[i] = found.to(dtype)
                self._watch(found, results[i], func)
        return tree_unflatten(results, nesting)

    def _watch(self, before: Tensor, after: Tensor, func: torch._ops.OpOverload) -> None:
        """Remember the operator if rounding made a finite value infinite for the first time."""
        if self.overflow is None and bool((after.isinf() & before.isfinite()).any()):
            self.overflow = f"overflow beyond {torch.finfo(after.dtype).max:.6g} in {func}"
            self.module = _running()


@contextmanager
def stored() -> Iterator[Storage]:
    """Run the code inside with 16-bit results computed in float32 and rounded once.

    Attention is split into matrix products. Torch computes them in float32 and rounds the result to
    16 bits, like a fused kernel.

    >>> x = torch.tensor([1.0, 2.0**-8, 2.0**-8], dtype=torch.bfloat16)
    >>> with stored():
    ...     x.sum()
    tensor(1.0078, dtype=torch.bfloat16)
    """
    with attention_apart(), Storage() as storage:
        yield storage


def is_narrow(value: Any) -> bool:
    """Return whether a value is a tensor of 16-bit floating-point numbers."""
    return isinstance(value, Tensor) and value.dtype in _NARROW


def _widened(value: Any) -> Any:
    if is_narrow(value):
        return value.float()
    return torch.float32 if isinstance(value, torch.dtype) and value in _NARROW else value


def _dtype(func: torch._ops.OpOverload, given: list[Any], kwargs: dict[str, Any]) -> torch.dtype:
    """Return the dtype of an operator's results: what it is asked for, or what torch promotes to.

    Operators that do not promote return the dtype of their first operand: batch norm with float32
    weights returns 16 bits.
    """
    if kwargs.get("dtype") is not None:
        asked: torch.dtype = kwargs["dtype"]
        return asked
    dtypes = [v.dtype for v in given if isinstance(v, Tensor) and v.is_floating_point()]
    if torch.Tag.pointwise in func.tags or func.overloadpacket in _JOINING:
        floats = [v for v in given if isinstance(v, Tensor) and v.is_floating_point()]
        ranked = [v.dtype for v in floats if v.ndim] or dtypes  # a scalar tensor promotes nothing
        return functools.reduce(torch.promote_types, ranked)
    return dtypes[0]


def _running() -> nn.Module | None:
    """Return the innermost module that runs now, from Python's stack."""
    frame = sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        if isinstance(module := frame.f_locals.get("self"), nn.Module):
            return module
    return None
