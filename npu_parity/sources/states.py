"""From the content of a checkpoint to the state dict of a network. Every choice is recorded."""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from npu_parity.backends import network
from npu_parity.errors import ParityError, shorten

State = dict[str, torch.Tensor]

COUNTER = "num_batches_tracked"  # not used in inference; older checkpoints do not have it
VARIANCE = "running_var"
DEPTH = 4  # of nested mappings; checkpoints have at most {"ema": {"module": {...}}}
# Parts of names that torch adds when it wraps a module inside a network.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
NOT_WEIGHTS = ("n_averaged",)  # the counter of torch.optim.swa_utils.AveragedModel
# timm uses averaged weights if a checkpoint has them beside the raw ones. So does `choose`, but
# only if all names are among these.
AVERAGED = re.compile(r"(^|[._])(ema|swa|avg|average|averaged)(?=[._]|$)", re.IGNORECASE)
RAW = {*("", "state_dict", "model_state_dict", "model_state", "model", "net", "network"), "module"}
RAW |= {"params", "weights", "shadow"}


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        container: the kind of file, see `containers`.
        states: each mapping of names to tensors, by the keys that lead to it (``ema.module``).
        aliases: names of tensors that are stored once, under another name.
        shards: the files that the index names, with their hashes.
    """

    container: str
    states: dict[str, State]
    aliases: dict[str, str] = field(default_factory=dict)
    shards: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Adapted:
    """A state dict under the names of a network, and what was changed to get it."""

    state: State
    prefix: str = ""
    wrappers: list[str] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def find(data: Any) -> dict[str, State]:
    """Return every mapping of names to tensors in `data`, by the keys that lead to it."""
    seen: set[int] = set()

    def walk(value: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, State]]:
        if not isinstance(value, Mapping) or len(keys) > DEPTH or id(value) in seen:
            return
        seen.add(id(value))
        named = {k: v for k, v in value.items() if isinstance(k, str)}
        tensors = {k: v.detach() for k, v in named.items() if torch.is_tensor(v)}
        if tensors:
            yield ".".join(keys), tensors
        for key, inner in named.items():
            yield from walk(inner, (*keys, key))

    return dict(walk(data, ()))


def choose(
    checkpoint: Checkpoint,
    model: nn.Module,
    origin: str,
    *,
    state: str | None = None,
    in_order: bool = False,
    replace: Callable[[State], State] = dict,
) -> tuple[State, dict[str, Any]]:
    """Return the state dict of `checkpoint` that fits `model`, and a record of each choice.

    A state dict fits if `fit` accepts it, under its names or without a prefix that all of them
    have. If several fit, averaged weights (EMA) have priority over raw ones, like in timm. Any
    other choice is the user's: `state` names one.

    Args:
        checkpoint: the content of the file.
        model: the network.
        origin: names the file in messages.
        state: the keys that lead to the state dict in the file, such as ``ema.module``.
        in_order: see `fit`.
        replace: replaces tensors of a state dict, such as a head that is drawn from a seed.

    Raises:
        ParityError: no state dict fits, or several fit and `state` does not name one.
    """
    states = checkpoint.states
    expected = _expected(model, origin)
    adapted = {n: adapt(s, expected, checkpoint.aliases, replace) for n, s in states.items()}
    problems = {n: _problem(a.state, expected, model, in_order) for n, a in adapted.items()}
    fitting = {n: adapted[n].state for n, problem in problems.items() if problem is None}
    if state is not None:
        name = _named(state, states, origin)
    elif fitting:
        name = _preferred(fitting, origin)
    else:  # the state that comes nearest has the most useful problem
        name = max(adapted, key=lambda n: len(adapted[n].state.keys() & expected.keys()))
    if len(states) > 1 and name not in fitting:
        origin = f"{shorten(origin, 100)}, state {shorten(name, 40)!r}"
    used = adapted[name]
    return fit(used.state, model, origin, in_order), {
        "container": checkpoint.container,
        "state": name or None,
        "other_states": {
            other: problem or "fits too" for other, problem in problems.items() if other != name
        },
        "prefix": used.prefix,
        "wrappers": used.wrappers,
        "aliases": used.aliases,
        "left_out": used.left_out,
        "matched": "in_order" if in_order and {*expected} - {*used.state} else "by_name",
        "shards": checkpoint.shards,
    }


def adapt(
    state: State,
    expected: State,
    aliases: Mapping[str, str] | None = None,
    replace: Callable[[State], State] = dict,
) -> Adapted:
    """Return a state dict under the names of the network, as far as its own names lead there.

    Args:
        state: the tensors under the names of the file.
        expected: the state dict of the network.
        aliases: names that stand for another tensor of the file.
        replace: see `choose`.
    """
    left_out = [name for name in state if name in NOT_WEIGHTS and name not in expected]
    kept = [name for name in state if name not in left_out]
    prefix = _prefix(kept, expected)
    names = {name: _unwrapped(name.removeprefix(prefix), expected) for name in kept}
    if len({*names.values()}) < len(names):
        names = {name: name.removeprefix(prefix) for name in kept}
    wrapped = {w for n, new in names.items() for w in WRAPPERS if w in n and w not in prefix + new}
    tensors = {new: state[name] for name, new in names.items()}
    used: dict[str, str] = {}
    also = {k.removeprefix(prefix): v.removeprefix(prefix) for k, v in (aliases or {}).items()}
    also |= {k: v for k, v in _tied(expected, tensors).items() if k not in also}
    for name, other in also.items():
        if name in expected and name not in tensors and other in tensors:
            tensors[name], used[name] = tensors[other], other
    return Adapted(replace(tensors), prefix, sorted(wrapped), used, left_out)


def fit(state: State, model: nn.Module, origin: str, in_order: bool = False) -> State:
    """Return `state` with the tensor names of `model`. Floating-point tensors become float32.

    `state` must have all tensors of `model` in the same shapes, and no others. Only the call
    counters of batch norms may be missing. With `in_order`, the names may differ if number, order
    and shapes are the same. All values must be finite, except where the network's own initial value
    is the same infinity, like in the mask of an attention. No variance may be negative.

    Raises:
        ParityError: a tensor does not fit; the message names the first one.

    """
    expected = _expected(model, origin)
    if problem := _problem(state, expected, model, in_order):
        raise ParityError(f"weights {shorten(origin, 150)}: {problem}")
    state = _completed(state, expected, in_order)
    fitted = {name: state[name].to(expected[name].dtype).contiguous() for name in expected}
    for name, tensor in fitted.items():
        if problem := _wrong_values(name, tensor, state[name], expected[name]):
            raise ParityError(f"weights {shorten(origin, 150)}: tensor {name!r} has {problem}")
    for name, other in _tied(expected, expected).items():
        if not torch.equal(fitted[name], fitted[other]):
            raise ParityError(
                f"weights {shorten(origin, 150)}: tensors {name!r} and {other!r} differ, but "
                f"{network.named(model)} has one tensor for both: use the network of these weights"
            )
    return fitted


def _expected(model: nn.Module, origin: str) -> State:
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


def _problem(state: State, expected: State, model: nn.Module, in_order: bool) -> str | None:
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
        if tensor.is_meta or tensor.is_nested or tensor.layout != torch.strided:
            form = "meta, without data" if tensor.is_meta else "sparse or nested"
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


def _unwrapped(name: str, expected: State) -> str:
    if name in expected or not any(wrapper in name for wrapper in WRAPPERS):
        return name
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _prefix(names: list[str], expected: State) -> str:
    """Return the shortest prefix that all names have and that leads to most names of the network.

    >>> _prefix(["module.model.a.w", "module.model.a.b"], {"a.w": None, "a.b": None})
    'module.model.'
    """
    first, last = min(names, default=""), max(names, default="")
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), None)
    common = first[:same]
    ends = [0, *(i + 1 for i, character in enumerate(common) if character == ".")]
    return max(
        (common[:end] for end in ends),
        key=lambda prefix: (
            sum(name.removeprefix(prefix) in expected for name in names),
            sum(_unwrapped(name.removeprefix(prefix), expected) in expected for name in names),
        ),
    )


def _tied(expected: State, present: Mapping[str, Any]) -> dict[str, str]:
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


def _named(state: str, states: Mapping[str, State], origin: str) -> str:
    """Return the state dict that the user names, or the only one below that name."""
    below = [name for name in states if name.startswith(f"{state}.")]
    found = [state] if state in states else below
    if len(found) != 1:
        known = _listed(states) if any(states) else "no names: its tensors are not nested"
        raise ParityError(
            f"weights {shorten(origin, 150)}: state {shorten(state, 60)!r} is not there; "
            f"the file has {known}; change or remove `state:`"
        )
    return found[0]


def _preferred(fitting: Mapping[str, State], origin: str) -> str:
    """Return the state dict to use among those that fit; averaged weights before raw ones."""
    distinct: list[str] = []
    for name, state in fitting.items():
        if not any(_equal(state, fitting[other]) for other in distinct):
            distinct.append(name)
    averaged = [name for name in distinct if AVERAGED.search(name)]
    others = {AVERAGED.sub("", name).strip("._") for name in distinct}
    known = all(set(name.split(".")) <= RAW for name in others)
    if len(distinct) == 1 or (known and len(averaged) == 1):
        return (averaged or distinct)[0]
    raise ParityError(
        f"weights {shorten(origin, 150)}: {len(distinct)} different states fit, "
        f"{_listed(distinct)}; write `state: NAME` to choose one"
    )


def _equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def _listed(names: Mapping[str, Any] | list[str]) -> str:
    return shorten(", ".join(name or "(top level)" for name in names), 120)
