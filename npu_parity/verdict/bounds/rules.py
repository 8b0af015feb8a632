"""Recorded operators that can run again, and the rules that bound their errors.

A rule's docstring starts with its bound: y is the exact result, x the first operand.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map, tree_map_only

from npu_parity.numerics.formats import Numerics
from npu_parity.verdict.recording import Call


class Operator:
    """A recorded operator that can run again, with other operands and in another precision."""

    def __init__(
        self, call: Call, dtype: torch.dtype | None = None, numerics: Numerics | None = None
    ):
        self.func, self.name, self.note = call.func, call.name, ""
        self.numerics = numerics or Numerics()
        self.arguments: dict[str, Any] = call.arguments
        if dtype:

            def converted(value: Any) -> Any:
                if isinstance(value, Tensor) and value.is_floating_point():
                    return value.to(dtype)
                real = isinstance(value, torch.dtype) and value.is_floating_point
                return dtype if real else value

            self.arguments = tree_map(converted, call.arguments)

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def run(self, /, **changed: Any) -> Any:
        """Run the operator with some arguments changed. The recorded tensors stay as they are."""
        arguments = {**self.arguments, **changed}
        if self.func._schema.is_mutable:
            arguments = tree_map_only(Tensor, Tensor.clone, arguments)
        return self.func(**arguments)

    def magnitude(self) -> Tensor:
        """Return the operator's result on the magnitudes of its first operand."""
        name = next(iter(self.arguments))
        total: Tensor = self.run(**{name: self[name].double().abs()})
        return total


Rule = Callable[[Operator, Any], Tensor | tuple[Tensor, ...] | None]
RULES: dict[str, Rule] = {}


def bound(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of the named operators."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


def described() -> dict[str, list[str]]:
    """Return the operators that have a bound, grouped by the description of the bound."""
    found: dict[str, list[str]] = {}
    for name, rule in RULES.items():
        text = " ".join((inspect.getdoc(rule) or "").partition("\n\n")[0].split())
        found.setdefault(text, []).append(name)
    return found
