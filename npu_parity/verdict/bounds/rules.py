"""Recorded operators that can run again, and the rules that bound their errors.

A rule's docstring starts with its bound: y is the exact result, x the first operand.
"""

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from npu_parity.numerics import depthwise
from npu_parity.numerics.formats import Numerics
from npu_parity.numerics.schema import map_tensors, mapped
from npu_parity.numerics.widening import float64_by_default
from npu_parity.verdict.blocks import Index, blocks
from npu_parity.verdict.bounds.arithmetic import TINY
from npu_parity.verdict.recording import Call

_WIDER = {
    **dict.fromkeys((torch.float32, torch.float16, torch.bfloat16), torch.float64),
    torch.complex64: torch.complex128,
}


class Operator:
    """A recorded operator that can run again, with other operands and in another precision.

    Attributes:
        note: explains a possible failure.
        narrow: the arguments in the precision in which they were recorded.
        free: elements of the first result that may have any value, because a usual algorithm
            overflows on the way or meets infinity; None if there are none.
    """

    def __init__(
        self,
        call: Call,
        dtype: torch.dtype | None = None,
        numerics: Numerics | None = None,
        flushed: bool = False,
    ):
        """Prepare the operator to run again.

        Args:
            call: the recorded operator.
            dtype: float64 converts all floating-point and complex operands; None leaves them.
            numerics: the numerics of the device; default float32.
            flushed: whether subnormal operands become zero.
        """
        self.func, self.name, self.note = call.func, call.name, ""
        self.product: Any = None  # what the rule of products knows, see `products.Product`
        self.free: Tensor | None = None
        self.numerics = numerics or Numerics()
        exact = self._exact = dtype is torch.float64

        def wider(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(_WIDER.get(value.dtype, value.dtype))
            return _WIDER.get(value, value) if isinstance(value, torch.dtype) else value

        self.narrow: dict[str, Any] = call.arguments
        if flushed:
            self.narrow = map_tensors(_flush, self.narrow)
        self.arguments: dict[str, Any] = mapped(wider, self.narrow) if exact else self.narrow

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def tensor(self, name: str) -> Tensor:
        """Return an argument that is a tensor."""
        tensor: Tensor = self.arguments[name]
        return tensor

    def run(self, /, **changed: Any) -> Any:
        """Run the operator with some arguments changed. The recorded tensors stay as they are."""
        arguments = {**self.arguments, **changed}
        if self.func._schema.is_mutable:
            arguments = map_tensors(Tensor.clone, arguments)
        if not self._exact:
            return self.func(**arguments)
        with float64_by_default():
            if self.name == "convolution":
                return depthwise.run(self.func, tuple(arguments.values()), {})
            return self.func(**arguments)

    def magnitude(self, **changed: Any) -> Any:
        """Return the operator's result on the magnitudes of its first operand."""
        name = next(iter(self.arguments))
        return self.run(**{name: self[name].abs().double(), **changed})

    def part(self, index: Index, shape: torch.Size) -> "Operator":
        """Return the operator on parts of those operands that have the shape of the result."""

        def part(value: Tensor) -> Tensor:
            return value[index] if value.shape == shape else value

        operator = copy.copy(self)
        operator.arguments = map_tensors(part, self.arguments)
        return operator

    def allow(self, elements: Tensor) -> None:
        """Let these elements of the first result have any value."""
        if elements.any():
            self.free = elements if self.free is None else self.free | elements


def smallest(x: Tensor) -> float:
    """Return the smallest magnitude above zero of a float32 tensor; infinity if there is none.

    Magnitudes have the order of their bits as integers. Twice the bits are without the sign. The
    added number makes 0 the largest integer.
    """
    rest, least = 0x7FFF_FFFF, 0x7FFF_FFFF
    shift = torch.tensor(rest, dtype=torch.int32)
    for index in blocks(x.shape):
        least = min(least, int(torch.add(shift, x[index].view(torch.int32), alpha=2).min()))
    bits = (least - rest) % 2**32 // 2 or 0x7F80_0000
    return torch.tensor(bits, dtype=torch.int32).view(torch.float32).item()


def largest(x: Tensor) -> float:
    """Return the largest magnitude of a tensor; NaN if it has a NaN, 0 if it is empty."""
    low, high = x.aminmax() if x.numel() else (x.new_zeros(()), x.new_zeros(()))
    return float(torch.maximum(-low, high))


def has_subnormal(x: Tensor) -> bool:
    """Return whether a float32 tensor has values that devices may flush to 0 (OpenCL 3.0, 7.5)."""
    return x.dtype == torch.float32 and smallest(x) < TINY


def _flush(x: Tensor) -> Tensor:
    return x.masked_fill(x.abs() < TINY, 0) if has_subnormal(x) else x


Rule = Callable[[Operator, Any], Tensor | tuple[Tensor, ...] | None]
RULES: dict[str, Rule] = {}


def bound(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of the named operators."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


def by_parts(rule: Callable[[Operator, Tensor], Tensor]) -> Rule:
    """Apply a rule to parts of the result, which is faster.

    In such a rule, the bound of an element depends only on this element and on those of operands of
    the same shape. It does not use `Operator.allow`.
    """

    @functools.wraps(rule)
    def applied(operator: Operator, exact: Tensor) -> Tensor:
        bound = torch.empty(exact.shape, dtype=torch.float64)
        for index in blocks(exact.shape):
            bound[index] = rule(operator.part(index, exact.shape), exact[index])
        return bound

    return applied


def described() -> dict[str, list[str]]:
    """Return the operators that have a bound, grouped by the description of the bound."""
    found: dict[str, list[str]] = {}
    for name, rule in RULES.items():
        text = " ".join((inspect.getdoc(rule) or "").partition("\n\n")[0].split())
        found.setdefault(text, []).append(name)
    return found
