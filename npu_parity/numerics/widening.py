"""Run a network in float64 although it asks for float32 inside.

A network may write ``x.float()`` or ``torch.zeros(..., dtype=torch.float32)``. In float64, such a
request would round, or mix two types.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from npu_parity.numerics import depthwise
from npu_parity.numerics.dispatch import Operators
from npu_parity.numerics.schema import computes_nothing, mapped

WIDER = {torch.float32: torch.float64, torch.complex64: torch.complex128}


def wide(tensor: Tensor) -> Tensor:
    """Return a copy in float64 or complex128. Whole numbers stay what they are."""
    return tensor.detach().to(WIDER.get(tensor.dtype, tensor.dtype), copy=True)


class Widening(Operators):
    """Computes in float64 what asks for float32. Enter it through `widened`."""

    def __init__(self) -> None:
        super().__init__()
        self._constants: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def run(
        self, func: torch._ops.OpOverload[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run one operator with wide operands. Leave out assertions: they are of float32."""
        if computes_nothing(func):
            return func(*args, **kwargs) if "record" in func.name() else None
        return self.run_wide(func, *mapped(self._widened, (args, kwargs)))

    def run_wide(
        self, func: torch._ops.OpOverload[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run one operator, whose operands are wide."""
        return depthwise.run(func, args, kwargs)

    def _widened(self, value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return WIDER.get(value, value)
        if not isinstance(value, Tensor) or value.dtype not in WIDER:
            return value
        # A constant. It keeps its memory alive, and what is written to its copy is read again.
        key = value.data_ptr(), value.shape, value.stride()
        if key not in self._constants:
            self._constants[key] = value, wide(value)
        return self._constants[key][1]


@contextmanager
def widened(mode: Widening | None = None) -> Iterator[None]:
    """Run a network in float64 inside. Its weights and inputs must be float64 already.

    >>> with widened():
    ...     torch.ones(1).float().dtype
    torch.float64
    """
    with float64_by_default(), mode or Widening():
        yield


@contextmanager
def float64_by_default() -> Iterator[None]:
    """Make operators that compute floating-point numbers from integers return float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
