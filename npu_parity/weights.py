"""From the sources that a system names, tried in order, to one state dict and its provenance."""

import fnmatch
import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from npu_parity import architectures, evidence, hubs
from npu_parity.checkpoints import State, fit, read_file
from npu_parity.errors import ParityError, Unavailable
from npu_parity.inputs import PHOTOGRAPHS, Preprocessing, collect

HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<file>.+))?")
DEFAULT_FILE = "model.safetensors"


@dataclass(frozen=True)
class Wanted:
    """What a system wants its weights to be.

    Attributes:
        architecture: see `architectures.build`.
        arguments: keyword arguments of the architecture.
        sources: tried in order, see `obtain`.
        seeded: None, or ``{"tensors": [patterns], "seed": N}``: tensors that are drawn from a
            seed whatever the source, such as a head that was never published.
        tensors: ``by_name``, or ``in_order`` for a checkpoint of the same tensors in the same
            order under other names.
        calibrate: let batch norms of seeded weights take their statistics from photographs.
        preprocessing: of the photographs that calibrate, see `inputs.Preprocessing`.

    """

    architecture: str
    arguments: dict[str, Any]
    sources: list[str]
    seeded: dict[str, Any] | None = None
    tensors: str = "by_name"
    calibrate: bool = True
    preprocessing: dict[str, Any] | None = None


def obtain(wanted: Wanted, unreachable: Mapping[str, str] | None = None) -> tuple[State, dict]:
    """Return a state dict that fits the architecture exactly, and where it came from.

    Sources, each with an optional ``#sha256=`` that pins the bytes of the file:

    - ``modelscope:OWNER/REPO[@REVISION][/FILE]``, ``huggingface:…``: a hub, through its client;
    - ``package:DISTRIBUTION/FILE``: a file that an installed package ships;
    - ``path:FILE``: a file of one's own;
    - ``seed:N``: ``torch.manual_seed(N)`` and the architecture's own initialisation.

    A hub that cannot be reached, or lacks the file, lets the next source be tried; anything else
    that is wrong is an error. `unreachable` gives hubs that are known to be out of reach, and why.

    Raises:
        ParityError: no source is left, or a file is damaged, not the pinned one, or lacks a
            tensor, has one too many or one of another shape.

    """
    tried: list[dict[str, str]] = []
    for source in wanted.sources:
        try:
            state, found = _read(source, wanted, unreachable or {})
        except Unavailable as error:
            tried.append({"source": source, "failed": str(error)})
            continue
        return state, {"source": source, **found, "tried": tried}
    failures = "; ".join(entry["failed"] for entry in tried)
    raise ParityError(
        f"weights of {wanted.architecture}: no source is left ({failures}); "
        "add seed:42 as the last source to go on without a hub"
    )


def calibrate_batch_norm(model: nn.Module, images: torch.Tensor) -> int:
    """Give every batch norm the statistics of `images`; return how many there are.

    Weights drawn at random, without this, make the outputs of a deep network vanish or ignore
    the input. Args: images: float32 (N, 3, H, W).
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = 1.0, True  # the batch's statistics, not an average
    if norms:
        with torch.no_grad():
            model(images)
    for norm in norms:
        norm.training = False
    return len(norms)


def _read(source: str, wanted: Wanted, unreachable: Mapping[str, str]) -> tuple[State, dict]:
    """Return the state dict of one source and what is to be said of it."""
    name, _, pin = source.partition("#sha256=")
    kind, _, rest = name.partition(":")
    if kind == "seed":
        return _seed(rest, wanted)
    found: dict[str, Any] = {"repo": None, "revision": None, "pretrained": True, "seed": None}
    if kind in hubs.HUBS:
        path, about = _hub(kind, rest, pin or None, unreachable)
        found |= about
    elif kind == "package":
        path = _package(rest)
        found |= {"repo": rest.partition("/")[0], "file": rest.partition("/")[2]}
    elif kind == "path":
        path = Path(rest)
        found |= {"file": rest}
    else:
        raise ParityError(
            f"weights source {source!r}: expected modelscope:, huggingface:, package:, path: "
            "or seed:"
        )
    state = read_file(path)
    digest = evidence.sha256(path)
    if pin and digest != pin:
        raise ParityError(f"weights {path}: SHA-256 is {digest}, expected the pinned {pin}")
    found |= {"file_sha256": digest, "seeded_tensors": [], "calibrated_batch_norms": 0}
    model = architectures.build(wanted.architecture, wanted.arguments)
    if wanted.seeded:
        drawn = _draw(wanted.seeded["seed"], wanted).state_dict()
        names = [n for n in drawn if _matches(n, wanted.seeded["tensors"])]
        for pattern in wanted.seeded["tensors"]:
            if not any(_matches(n, [pattern]) for n in names):
                raise ParityError(
                    f"weights of {wanted.architecture}: seeded pattern {pattern!r} matches none "
                    f"of its tensors, such as {next(iter(drawn))}"
                )
        state = {n: t for n, t in state.items() if not _matches(n, wanted.seeded["tensors"])}
        state |= {n: drawn[n] for n in names}
        found |= {"seed": wanted.seeded["seed"], "seeded_tensors": names}
    return fit(state, model, source, in_order=wanted.tensors == "in_order"), found


def _seed(text: str, wanted: Wanted) -> tuple[State, dict]:
    if not text.isdecimal():
        raise ParityError(f"weights source seed:{text}: found {text!r}, expected a whole number")
    model = _draw(int(text), wanted)
    norms = 0
    if wanted.calibrate:
        preprocessing = Preprocessing(wanted.architecture, wanted.preprocessing)
        photographs = collect([f"skimage:{name}" for name in PHOTOGRAPHS], preprocessing.shape)
        images = np.stack([preprocessing(photograph.data) for photograph in photographs])
        norms = calibrate_batch_norm(model, torch.from_numpy(images))
    state = model.state_dict()
    return state, {
        "repo": None,
        "revision": None,
        "file": None,
        "file_sha256": None,
        "pretrained": False,
        "seed": int(text),
        "seeded_tensors": list(state),
        "calibrated_batch_norms": norms,
    }


def _draw(seed: int, wanted: Wanted) -> nn.Module:
    """Return the network as its own initialisation makes it after ``torch.manual_seed(seed)``."""
    if not 0 <= seed < 2**64:
        raise ParityError(f"weights seed: found {seed}, expected 0 to 2^64 - 1")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return architectures.build(wanted.architecture, wanted.arguments)


def _hub(kind: str, rest: str, pin: str | None, unreachable: Mapping[str, str]):
    match = HUB.fullmatch(rest)
    if match is None:
        raise ParityError(f"weights source {kind}:{rest}: expected OWNER/REPO[@REVISION][/FILE]")
    if kind in unreachable:
        raise Unavailable(f"{kind}: {unreachable[kind]}")
    got = hubs.fetch(
        kind, match["repo"], match["file"] or DEFAULT_FILE, match["revision"], sha256=pin
    )
    return got.path, {"repo": got.repo, "revision": got.revision, "file": got.file}


def _package(rest: str) -> Path:
    name, _, file = rest.partition("/")
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise ParityError(
            f"weights source package:{rest}: {name} is not installed; run `uv sync`"
        ) from None
    if file not in {str(f) for f in distribution.files or ()}:
        raise ParityError(f"weights source package:{rest}: {name} ships no file {file!r}")
    return Path(distribution.locate_file(file))


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
