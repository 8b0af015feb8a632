"""Get a system's weights from the first available source: one state dict and its provenance.

A source is ``KIND:REST``, with a kind from `KINDS`. Each kind is one class, which parses the rest
and fetches the tensors.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npu_parity import evidence
from npu_parity.backends import environment
from npu_parity.errors import Absent, ParityError, Unavailable, shorten
from npu_parity.sources import pretrained
from npu_parity.sources.clients import CLIENTS
from npu_parity.sources.origins import Hub, Local, Package, Seed, Source, Wanted

if TYPE_CHECKING:  # planning a run parses sources, and importing torch takes seconds
    from npu_parity.sources.fitting import State

PIN = re.compile(r"(?P<name>[^#\n]*)(#sha256=(?P<pin>[0-9a-f]{64}))?")

# What weights.json says about a source that has no such thing.
NOTHING: dict[str, Any] = {
    **dict.fromkeys(("repo", "revision", "file", "file_sha256", "cache", "license")),
    "pretrained": True,
    "seed": None,
    "seeded_tensors": [],
    "calibrated_batch_norms": 0,
}


# The only list of kinds. A new kind needs a class, and a line here.
KINDS: dict[str, type[Source]] = {
    **dict.fromkeys(CLIENTS, Hub),
    "package": Package,
    "path": Local,
    "seed": Seed,
}


def save(state: "State", path: Path) -> str:
    """Write tensors as one safetensors file and return its SHA-256.

    Raises:
        ParityError: the file cannot be written.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # safetensors requires contiguous tensors that share no memory.
    copies = {n: t.clone(memory_format=torch.contiguous_format) for n, t in state.items()}

    def writer(partial: Path) -> None:
        try:
            save_file(copies, partial)
        except SafetensorError as error:  # what the system says, such as no space
            raise OSError(str(error).removeprefix("Error while serializing: ")) from error

    return evidence.write(path, writer)


def parse(source: str) -> Source:
    """Return the source of a text.

    >>> parse("seed:42").rest
    '42'

    Raises:
        ParityError: the kind is unknown, or the text does not have its form.
    """
    kind, separator, rest = source.partition(":")
    if not separator or kind not in KINDS:
        kinds = ", ".join(f"{name}:" for name in KINDS)
        found = shorten(repr(source), 100)
        raise ParityError(f"weights source {found}: expected one of {kinds}")
    named = PIN.fullmatch(rest)
    if named is None:
        raise KINDS[kind].malformed(kind, rest)
    return KINDS[kind](kind, named["name"], named["pin"])


def beside(lock: Path | None, unreachable: Mapping[str, str]) -> pretrained.Beside:
    """Return a function for `pretrained.settings` that also asks hubs.

    Args:
        lock: the file with the hashes of hub files; None for none.
        unreachable: hubs that are known not to answer, with the reason.
    """

    def found(source: str) -> Iterator[tuple[Path, str]]:
        parsed = parse(source)
        if isinstance(parsed, Hub):
            yield from parsed.beside(pretrained.BESIDE, lock, unreachable)
        else:
            yield from pretrained.local(source)

    return found


@environment.guarded()
def obtain(
    wanted: Wanted, unreachable: Mapping[str, str] | None = None
) -> "tuple[State, dict[str, Any]]":
    """Return a state dict that fits the architecture exactly, and its provenance.

    Sources of files may end with ``#sha256=`` and the expected SHA-256:

    - ``modelscope:OWNER/REPO[@REVISION][/FILE]``, ``huggingface:…``: a hub, with its client;
    - ``package:DISTRIBUTION/FILE``: a file of an installed package;
    - ``path:FILE``: the user's own file;
    - ``seed:N``: ``torch.manual_seed(N)`` and the architecture's own initialisation.

    If a hub is out of reach, its client's cache is searched, and then the next source is tried. If
    a hub answers but does not have the file, another hub is tried, but no seed. Any other problem
    is an error. `unreachable` contains hubs that are known not to answer, with the reason.

    Raises:
        ParityError: no source is left, or a file is damaged, does not match its pin, or does not
            fit the architecture.

    >>> wanted = Wanted("torchvision:squeezenet1_1", {}, ["path:none.pth", "seed:42"])
    >>> obtain(wanted)
    Traceback (most recent call last):
    npu_parity.errors.ParityError: weights none.pth: there is no such file
    >>> state, provenance = obtain(Wanted("torchvision:squeezenet1_1", {}, ["seed:42"]))
    >>> provenance["pretrained"], len(state)
    (False, 52)
    """
    tried: list[dict[str, str]] = []
    absent: Absent | None = None
    for source in map(parse, wanted.sources):
        if absent and isinstance(source, Seed):
            raise ParityError(
                f"weights {absent}; seed: is only for hubs that are out of reach"
            ) from absent
        try:
            state, found = source.obtain(wanted, unreachable or {})
        except (Unavailable, Absent) as error:
            tried.append({"source": source.text, "failed": str(error)})
            absent = absent or (error if isinstance(error, Absent) else None)
            continue
        return state, {"source": source.text, **NOTHING, **found, "tried": tried}
    failures = "; ".join(entry["failed"] for entry in tried)
    raise ParityError(
        f"weights of {wanted.architecture}: no source is left ({failures}); "
        "add seed:42 as the last source to continue without a hub"
    )
