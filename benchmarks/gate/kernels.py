"""Kernels that replace operators of torch: wrong ones in `wrong`, equally correct ones in `right`.

The program does not show them, because a dispatch mode executes them instead of the operator.

A change gets the operator and its arguments and returns the result. Convolutions get their
arguments by name. Their operands are not yet rounded to the device's format.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from npu_parity.check import Context
from npu_parity.numerics.emulation import emulate
from npu_parity.numerics.formats import Numerics

Operator = Callable[..., Any]
Change = Callable[..., Any]

HF32 = Numerics(conv="hf32")
FLOAT32 = Numerics()

CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation")
CONVOLUTION += ("transposed", "output_padding", "groups")


class Kernels(TorchDispatchMode):
    """Replaces the operators named in `changes`, including their in-place variants."""

    def __init__(self, changes: dict[str, Change]):
        super().__init__()
        self.changes = changes

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2].rstrip("_")
        if name not in self.changes:
            return func(*args, **kwargs)
        if name == "convolution":
            args, kwargs = (), dict(zip(CONVOLUTION, args, strict=False)) | kwargs
        result = self.changes[name](func, *args, **kwargs)
        written = func._schema.is_mutable and result is not args[0]
        return args[0].copy_(result) if written else result


_on_device: ContextVar[bool] = ContextVar("_on_device", default=False)


def on_device() -> bool:
    """Return whether the code runs on a simulated device, like ``x.device.type != "cpu"``."""
    return _on_device.get()


def device(numerics: Numerics = HF32, *names: str, change: Change | None = None) -> Context:
    """Return a simulated device with `numerics`; `change` executes the named operators."""

    @contextlib.contextmanager
    def within() -> Iterator[None]:
        token = _on_device.set(True)
        try:
            with emulate(numerics), Kernels(dict.fromkeys(names, change)):
                yield
        finally:
            _on_device.reset(token)

    return within


def under(setting: Context, numerics: Numerics = HF32) -> Context:
    """Return a simulated device that runs under a setting of torch."""

    @contextlib.contextmanager
    def within() -> Iterator[None]:
        with setting(), emulate(numerics):
            yield

    return within


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Make torch use `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def without_onednn() -> Iterator[None]:
    """Make torch use its own kernels."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


@contextlib.contextmanager
def flushing() -> Iterator[None]:
    """Flush numbers below the smallest normal number to zero."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def when(condition: Callable[..., bool], change: Change) -> Change:
    """Restrict a change to calls that meet a condition on the operator's arguments."""

    def restricted(func: Operator, *args: Any, **of: Any) -> Any:
        return (change if condition(*args, **of) else _unchanged)(func, *args, **of)

    return restricted


def _unchanged(func: Operator, *args: Any, **of: Any) -> Any:
    return func(*args, **of)


def only(shape: torch.Size, change: Change) -> Change:
    """Restrict a change to convolutions whose weight has this shape."""
    return when(lambda **of: of["weight"].shape == shape, change)


def result(alter: Callable[[Tensor], Any]) -> Change:
    """Return a change that applies `alter` to the result of an operator."""

    def change(func: Operator, *args: Any, **kwargs: Any) -> Any:
        results = func(*args, **kwargs)
        first = results[0] if isinstance(results, tuple) else results
        alter(first)
        return results

    return change
