"""From the content of a checkpoint to the state dict of a network. Every choice is recorded."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from npu_parity.errors import ParityError, shorten
from npu_parity.sources import fitting
from npu_parity.sources.fitting import State

DEPTH = 4  # of nested mappings; checkpoints have at most {"ema": {"module": {...}}}
# Parts of names that torch adds when it wraps a module inside a network.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Counters that programs add: torch.optim.swa_utils.AveragedModel, and the profiler thop.
NOT_WEIGHTS = {"n_averaged", "total_ops", "total_params"}
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
        tensors = {
            k: v.detach() for k, v in named.items() if torch.is_tensor(v) and not v.is_nested
        }
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

    A state dict fits if `fitting.fit` accepts it, under its names or without a prefix that all of
    them have. If none fits, each group of tensors whose names have the same first part is tried: a
    flat state dict may hold ``model.…`` and ``ema.…``. If several fit, averaged weights (EMA) have
    priority over raw ones, like in timm. Any other choice is the user's: `state` names one.

    Args:
        checkpoint: the content of the file.
        model: the network.
        origin: names the file in messages.
        state: the keys that lead to the state dict in the file, such as ``ema.module``.
        in_order: see `fitting.fit`.
        replace: replaces tensors of a state dict, such as a head that is drawn from a seed.

    Raises:
        ParityError: no state dict fits, or several fit and `state` does not name one.
    """
    states = checkpoint.states
    expected = fitting.expected_by(model, origin)
    unused = _unused_classifier(model)

    def tried(state: State) -> tuple[Adapted, str | None]:
        found = adapt(state, expected, checkpoint.aliases, replace, unused)
        return found, fitting.problem_of(found.state, expected, model, in_order)

    attempts = {name: tried(tensors) for name, tensors in states.items()}
    if all(problem for _, problem in attempts.values()):  # several networks in one state dict?
        groups = {name: tried(tensors) for name, tensors in _groups(states).items()}
        attempts |= {name: group for name, group in groups.items() if group[1] is None}
    adapted = {name: found for name, (found, _) in attempts.items()}
    problems = {name: problem for name, (_, problem) in attempts.items()}
    usable = {name: adapted[name].state for name, problem in problems.items() if problem is None}
    if state is not None:
        name = _named(state, [*attempts], origin)
    elif usable:
        name = _preferred(usable, origin)
    else:  # the state that comes nearest has the most useful problem
        name = max(adapted, key=lambda n: len(adapted[n].state.keys() & expected.keys()))
    if len(attempts) > 1 and name not in usable:
        origin = f"{shorten(origin, 100)}, state {shorten(name, 40)!r}"
    used = adapted[name]
    return fitting.fit(used.state, model, origin, in_order), {
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
    unused: tuple[str, ...] = (),
) -> Adapted:
    """Return a state dict under the names of the network, as far as its own names lead there.

    Args:
        state: the tensors under the names of the file.
        expected: the state dict of the network.
        aliases: names that stand for another tensor of the file.
        replace: see `choose`.
        unused: layers that the network was built without. Their tensors are left out.
    """
    left_out = [
        name for name in state if name.rpartition(".")[2] in NOT_WEIGHTS and name not in expected
    ]
    kept = [name for name in state if name not in left_out]
    prefix = _prefix(kept, expected)
    names = {name: _unwrapped(name.removeprefix(prefix), expected) for name in kept}
    if len({*names.values()}) < len(names):
        names = {name: name.removeprefix(prefix) for name in kept}
    heads = tuple(f"{layer}." for layer in unused)
    dropped = [n for n in kept if names[n].startswith(heads) and names[n] not in expected]
    left_out += dropped
    names = {name: new for name, new in names.items() if name not in dropped}
    wrapped = {w for n, new in names.items() for w in WRAPPERS if w in n and w not in prefix + new}
    tensors = {new: state[name] for name, new in names.items()}
    used: dict[str, str] = {}
    also = {k.removeprefix(prefix): v.removeprefix(prefix) for k, v in (aliases or {}).items()}
    also |= {k: v for k, v in fitting.tied(expected, tensors).items() if k not in also}
    for name, other in also.items():
        if name in expected and name not in tensors and other in tensors:
            tensors[name], used[name] = tensors[other], other
    return Adapted(replace(tensors), prefix, sorted(wrapped), used, left_out)


def _groups(states: Mapping[str, State]) -> dict[str, State]:
    """Return the tensors of each state dict by the first part of their names, if it has several."""
    found: dict[str, State] = {}
    for keys, state in states.items():
        parts: dict[str, State] = {}
        for name, tensor in state.items():
            parts.setdefault(name.partition(".")[0], {})[name] = tensor
        if len(parts) > 1:
            found |= {f"{keys}.{part}".lstrip("."): group for part, group in parts.items()}
    return found


def _unused_classifier(model: nn.Module) -> tuple[str, ...]:
    """Return the classifier's layers of a network of timm that was built with `num_classes=0`."""
    if getattr(model, "num_classes", None) != 0:
        return ()
    layers = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    return (layers,) if isinstance(layers, str) else tuple(layers)


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


def _named(state: str, states: list[str], origin: str) -> str:
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
