"""The one door through which a user's network is imported, built and run.

A network is Python code, which may raise, print or change anything. Inside `guarded`, whatever it
raises becomes one line that names the place in the user's file, what it prints goes to stderr, and
the global state that it changes is put back.
"""

import contextlib
import functools
import itertools
import opcode
import os
import signal
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from npu_parity.errors import ParityError, reason, shorten

if TYPE_CHECKING:  # importing torch takes seconds, and planning a run does not need it
    from torch import nn

LINE = 280  # characters of a message; "error: " and a job's name may stand before it

_PACKAGE = Path(__file__).resolve().parents[1]
_STANDARD = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))
_INSTALLED = {"site-packages", "dist-packages"}
# Their operators are not those of floating point, and reading their weights may end the process.
_QUANTISED = (
    *("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized"),
    *("torch.nn.quantized", "torch.nn.intrinsic.quantized"),
)
# They are there too, but compute in floating point: additions of networks that can be quantised.
_FLOATING = ("FloatFunctional", "FXFloatFunctional")
_BUILT = ("torch", "torch_npu", "torchvision")  # some build them and use them where they are
_RAISE = opcode.opmap["RAISE_VARARGS"]

# Settings of torch, some only in newer versions. The wider ones come first: others inherit them.
_FLAGS = (
    *("fp32_precision", "mkldnn.fp32_precision", "mkldnn.conv.fp32_precision"),
    *("mkldnn.matmul.fp32_precision", "mkldnn.rnn.fp32_precision"),
    *("cuda.matmul.fp32_precision", "cudnn.fp32_precision", "cudnn.conv.fp32_precision"),
    *("cudnn.enabled", "cudnn.benchmark", "cudnn.deterministic"),
)
_State = dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]  # how it is read, and set


def named(model: "nn.Module") -> str:
    """Return the name of a network's class, shortened."""
    return shorten(type(model).__name__, 50)


def quantised(model: "nn.Module") -> str | None:
    """Return which module computes in whole numbers; None if no module does."""
    for path, module in model.named_modules():
        kind = type(module).__name__
        if type(module).__module__.startswith(_QUANTISED) and kind not in _FLOATING:
            return f"module {shorten(path, 50)!r} is quantised ({kind} in whole numbers)"
    return None


def expect_ready(model: "nn.Module", what: str = "", floating: bool = True) -> None:
    """Raise ParityError if `model` is no network, has no parameters yet, or is quantised.

    Args:
        what: names the network in the message; default the name of its class.
        floating: whether to refuse a quantised network.
    """
    from torch import nn
    from torch.nn.parameter import is_lazy

    what = shorten(what or named(model), 120)
    if not isinstance(model, nn.Module):
        raise ParityError(f"{what}: found {type(model).__name__}, expected a torch.nn.Module")
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if is_lazy(tensor):
            raise ParityError(
                f"{what}: tensor {shorten(name, 50)!r} of a lazy module has no shape yet; use a "
                "module with fixed sizes, or run the network once before you hand it over"
            )
    if floating and (found := quantised(model)):
        raise ParityError(
            f"{what}: {found}, expected floating point: check the network before you quantise it"
        )


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn whatever the user's code raises inside into one line; the error is its cause.

    A `ParityError` of this package, the user's Ctrl-C and what a signal handler raises stay what
    they are.

    Args:
        what: names the network and its input; the line starts with it.

    Raises:
        ParityError: type and message of the error, file and line of the user's code.

    >>> with explained("Net on input 0"):
    ...     assert False, "too small"
    Traceback (most recent call last):
    npu_parity.errors.ParityError: Net on input 0: AssertionError: too small
    """
    try:
        yield
    except BaseException as error:
        trace = _trace(error)
        if _not_the_networks(error, trace):
            raise
        where = _place(trace)
        start = shorten(what, 140)
        why = reason(error, LINE - len(start) - len(where))
        raise ParityError(f"{start}: {why}{where}") from error


@contextlib.contextmanager
def guarded(what: str, seed: bool = True) -> Iterator[None]:
    """Run a user's code inside; see `explained`. Restore the state of Python, torch and NumPy.

    Restored are the settings of torch that change numbers or timings, the directory, ``sys.path``,
    the filters of warnings, and the random numbers if the code seeds them. A note on stderr names
    a setting of torch that was changed.

    Args:
        what: names the network.
        seed: whether to undo ``torch.manual_seed``.
    """
    with (
        explained(what),
        _restored(what, seed),
        warnings.catch_warnings(),
        np.errstate(),
        _away_from_the_terminal(),
    ):
        yield


# --- Who raised it, and where


def _trace(error: BaseException) -> list[TracebackType]:
    """Return the traceback, the innermost frame first."""
    trace, entry = [], error.__traceback__
    while entry is not None:
        trace.append(entry)
        entry = entry.tb_next
    return trace[::-1]


def _not_the_networks(error: BaseException, trace: list[TracebackType]) -> bool:
    innermost = trace[0]
    if isinstance(error, ParityError | GeneratorExit) and _file(innermost).is_relative_to(_PACKAGE):
        return True
    if isinstance(error, KeyboardInterrupt) and not _at_raise(innermost):
        return True
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    codes = {code for handler in handlers if (code := getattr(handler, "__code__", None))}
    return any(entry.tb_frame.f_code in codes for entry in trace)


def _at_raise(entry: TracebackType) -> bool:
    """Return whether a statement ``raise`` made the error. For Ctrl-C, Python itself makes it."""
    return entry.tb_frame.f_code.co_code[entry.tb_lasti] == _RAISE


def _place(trace: list[TracebackType]) -> str:
    """Return the innermost place in the user's files; empty if there is none."""
    entry = next((entry for entry in trace if _is_the_users(_file(entry))), None)
    if entry is None:
        return ""
    path = _file(entry)
    with contextlib.suppress(ValueError, OSError):  # elsewhere; this folder no longer exists
        path = path.relative_to(Path.cwd())
    text = shorten(str(path)[::-1], 60)[::-1]  # the end tells more than the start
    return f" (at {text}:{entry.tb_lineno})"


def _file(entry: TracebackType) -> Path:
    return Path(entry.tb_frame.f_code.co_filename)


def _is_the_users(path: Path) -> bool:
    """Return whether a file belongs to no library. Generated code is in no file: ``<string>``."""
    files = [getattr(sys.modules.get(name), "__file__", None) for name in _BUILT]
    built = [Path(file).parent for file in files if file]
    libraries = (_PACKAGE, *_STANDARD, *built)
    return not (
        str(path).startswith("<")
        or _INSTALLED.intersection(path.parts)
        or any(path.is_relative_to(folder) for folder in libraries)
    )


# --- Global state


@contextlib.contextmanager
def _away_from_the_terminal() -> Iterator[None]:
    """Send prints to stderr, because stdout may be parsed; nobody answers ``input()``."""
    before = sys.stdin
    with open(os.devnull) as nothing, contextlib.redirect_stdout(sys.stderr):
        sys.stdin = nothing  # `exit` closes it
        try:
            yield
        finally:
            sys.stdin = before


@contextlib.contextmanager
def _restored(what: str, seed: bool) -> Iterator[None]:
    import torch

    state = _state()
    before = {name: _read(get) for name, (get, _) in state.items()}
    seeded, random = torch.initial_seed(), torch.get_rng_state()
    try:
        yield
    finally:
        changed = []
        for name, (get, put_back) in state.items():
            if _read(get) != before[name]:
                changed.append(name)
                with contextlib.suppress(RuntimeError, TypeError, OSError):  # as in `_read`
                    put_back(before[name])
        if seed and torch.initial_seed() != seeded:
            changed.append("torch.manual_seed")
            torch.set_rng_state(random)
        told = [name for name in changed if name.startswith("torch.")]
        if told:
            print(f"note: {what} changed {', '.join(told)}; it was put back", file=sys.stderr)


def _state() -> _State:
    """Return what is restored, by the name under which a user knows it."""
    import torch

    context = torch._GLOBAL_DEVICE_CONTEXT
    state: _State = {
        "os.chdir": (os.getcwd, os.chdir),
        "sys.path": (lambda: list(sys.path), lambda path: sys.path.__setitem__(slice(None), path)),
        "sys.setrecursionlimit": (sys.getrecursionlimit, sys.setrecursionlimit),
        "torch.set_default_device": (
            lambda: getattr(getattr(context, "device_context", None), "device", None),
            torch.set_default_device,
        ),
        "torch.set_default_dtype": (torch.get_default_dtype, torch.set_default_dtype),
        "torch.set_grad_enabled": (torch.is_grad_enabled, torch.set_grad_enabled),
        "torch.set_num_threads": (torch.get_num_threads, torch.set_num_threads),
        "torch.set_flush_denormal": (_flushes, torch.set_flush_denormal),
        "torch.use_deterministic_algorithms": (
            torch.get_deterministic_debug_mode,
            torch.set_deterministic_debug_mode,
        ),
        "torch.backends.mha.set_fastpath_enabled": (
            torch.backends.mha.get_fastpath_enabled,
            torch.backends.mha.set_fastpath_enabled,
        ),
        "torch.set_float32_matmul_precision": (
            torch.get_float32_matmul_precision,
            torch.set_float32_matmul_precision,
        ),
    }
    for flag in _FLAGS:
        path, _, attribute = flag.rpartition(".")
        with contextlib.suppress(AttributeError):  # of a newer torch
            holder = functools.reduce(getattr, filter(None, path.split(".")), torch.backends)
            state[f"torch.backends.{flag}"] = (
                functools.partial(getattr, holder, attribute, None),
                functools.partial(setattr, holder, attribute),
            )
    return state


def _read(get: Callable[[], Any]) -> Any:
    """Return a value of the state; None if it cannot be read.

    Torch refuses to tell a precision that was set in its old and in its new way. A directory may
    no longer exist.
    """
    with contextlib.suppress(RuntimeError, OSError):
        return get()
    return None


def _flushes() -> bool:
    """Return whether this processor replaces the smallest numbers by zero. Torch cannot tell."""
    smallest = float.fromhex("0x1p-1074")
    return smallest * 1.0 == 0.0
