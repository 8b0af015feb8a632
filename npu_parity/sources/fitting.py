"""Whether a state dict fits a network exactly: names, shapes, types and values."""

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from npu_parity.backends import network
from npu_parity.errors import ParityError, shorten

State = dict[str, torch.Tensor]

COUNTER = "num_batches_tracked"  # not used in inference; older checkpoints do not have it
VARIANCE = "running_var"


def fit(state: State, model: nn.Module, origin: str, in_order: bool = False) -> State:
    """Return `state` with the tensor names of `model`. Floating-point tensors become float32.

    `state` must have all tensors of `model` in the same shapes, and no others. Only the call
    counters of batch norms may be missing. With `in_order`, the names may differ if number, order
    and shapes are the same. All values must be finite, except where the network's own initial value
    is the same infinity, like in the mask of an attention. No variance may be negative.

    Raises:
        ParityError: a tensor does not fit; the message names the first one.

    """
    expected = expected_by(model, origin)
    if problem := problem_of(state, expected, model, in_order):
        raise ParityError(f"weights {shorten(origin, 150)}: {problem}")
    state = _completed(state, expected, in_order)
    fitted = {name: state[name].to(expected[name].dtype).contiguous() for name in expected}
    for name, tensor in fitted.items():
        if problem := _wrong_values(name, tensor, state[name], expected[name]):
            raise ParityError(f"weights {shorten(origin, 150)}: tensor {name!r} has {problem}")
    for name, other in tied(expected, expected).items():
        if not torch.equal(fitted[name], fitted[other]):
            raise ParityError(
                f"weights {shorten(origin, 150)}: tensors {name!r} and {other!r} differ, but "
                f"{network.named(model)} has one tensor for both: use the network of these weights"
            )
    return fitted


def expected_by(model: nn.Module, origin: str) -> State:
    """Return the state dict of a network; ParityError if it has more than tensors."""
    with network.guarded(network.named(model)):
        expected = model.state_dict()
    for name, value in expected.items():
        if not torch.is_tensor(value):  # a module's own `get_extra_state`
            raise ParityError(
                f"weights {origin}: {network.named(model)} has a state {name!r} of type "
                f"{type(value).__name__}, expected tensors only"
            )
    return dict(expected)


def _completed(state: State, expected: State, in_order: bool) -> State:
    if in_order and state.keys() != expected.keys() and len(state) == len(expected):
        state = dict(zip(expected, state.values(), strict=True))
    return {**{k: v for k, v in expected.items() if k.endswith(COUNTER)}, **state}


def problem_of(state: State, expected: State, model: nn.Module, in_order: bool) -> str | None:
    """Return why names, shapes or types do not fit; None if they do. No value is read."""
    kind = type(model).__name__
    shapes = [tensor.shape for tensor in expected.values()]
    same = [tensor.shape for tensor in state.values()] == shapes
    state = _completed(state, expected, in_order)
    lacks = [name for name in expected if name not in state]
    others = [name for name in state if name not in expected]
    for problem, names in (("lacks", lacks), ("has an unexpected", others)):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            return (
                f"{problem} tensor {shorten(names[0], 60)!r}{more}; "
                + (_nearest(names[0], others or list(state)) if lacks else "")
                + f"expected the {len(expected)} tensors of {kind}"
                + ("; if only names differ, write `tensors: in_order`" if same else "")
            )
    for name, tensor in state.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape:
            found = f"shape {tuple(tensor.shape)}, expected {tuple(wanted.shape)}"
            return f"tensor {name!r} has {shorten(found, 120)}"
        if tensor.is_meta or tensor.layout != torch.strided:
            form = "meta, without data" if tensor.is_meta else "sparse"
            return f"tensor {name!r} is {form}, expected dense values: save it dense"
        if tensor.is_quantized or (wanted.is_floating_point() and not tensor.is_floating_point()):
            return f"tensor {name!r} is {tensor.dtype}, expected floating point"
    return None


def _wrong_values(
    name: str, tensor: torch.Tensor, given: torch.Tensor, initial: torch.Tensor
) -> str | None:
    """Return what is wrong with the values of a tensor; None if nothing is."""
    wrong = ~torch.isfinite(tensor) & (tensor != initial)
    count, total = int(wrong.sum()), tensor.numel()
    if count:
        beyond = " in float32" if torch.isfinite(given[wrong]).all() else ""
        example = given[wrong][0].item()
        return (
            f"{count} of {total} values that are not finite{beyond}, such as {example}: "
            "fetch or train it again"
        )
    if name.endswith(VARIANCE) and (tensor < 0).any():
        return f"a negative variance, {tensor.min().item():g}: fetch or train it again"
    if not initial.is_floating_point() and (tensor != given).any():
        return f"values of {given.dtype} that {tensor.dtype} cannot hold"
    return None


def tied(expected: State, present: Mapping[str, Any]) -> dict[str, str]:
    """Return names that stand for one tensor of the network: each further name, and one present."""
    groups: dict[Any, list[str]] = {}
    for name, tensor in expected.items():
        if tensor.numel() and not tensor.is_meta:
            place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
            groups.setdefault(place, []).append(name)
    found: dict[str, str] = {}
    for names in groups.values():
        first = next((name for name in names if name in present), names[0])
        found |= {name: first for name in names if name != first}
    return found


def _nearest(name: str, names: list[str]) -> str:
    """Return the names that are most like a missing one."""
    close = difflib.get_close_matches(name, names[:5000], n=2, cutoff=0.3) or names[:2]
    shown = ", ".join(repr(shorten(found, 45)) for found in close)
    return f"nearest here: {shown}; " if close else "it has no tensors; "
