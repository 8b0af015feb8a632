"""From the sources that a system names, tried in order, to one state dict and its provenance.

A source is ``KIND:REST``, where `KINDS` says what kinds there are. Each kind is one class, which
parses the rest and fetches the tensors.
"""

import fnmatch
import importlib.metadata
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from npu_parity import evidence
from npu_parity.errors import ParityError, Unavailable
from npu_parity.sources import architectures, hubs, images

if TYPE_CHECKING:  # planning a run parses sources, and importing torch takes seconds
    from torch import nn

    from npu_parity.sources.checkpoints import State

PIN = re.compile(r"(?P<name>.*?)(#sha256=(?P<pin>[0-9a-f]{64}))?")
DEFAULT_FILE = "model.safetensors"


@dataclass(frozen=True)
class Wanted:
    """What a system wants its weights to be.

    Attributes:
        architecture: see `architectures.build`.
        arguments: keyword arguments of the architecture.
        sources: tried in order, see `obtain`.
        seeded: None, or ``{"tensors": [patterns], "seed": N}``: tensors that are drawn from a
            seed whatever the source is, such as a head that was never published.
        tensors: ``by_name``, or ``in_order`` for a checkpoint of the same tensors in the same
            order under other names.
        calibrate: let batch norms of seeded weights take their statistics from photographs.
        preprocessing: of the photographs that calibrate, see `preprocessing.Preprocessing`.
    """

    architecture: str
    arguments: dict[str, Any]
    sources: list[str]
    seeded: dict[str, Any] | None = None
    tensors: str = "by_name"
    calibrate: bool = True
    preprocessing: dict[str, Any] | None = None

    def build(self) -> "nn.Module":
        """Return the network with its own initialisation."""
        return architectures.build(self.architecture, self.arguments)


class Source(ABC):
    """A place that weights come from.

    Attributes:
        form: what the configuration must say after ``KIND:``.
        kind: the name of the kind.
        rest: what the configuration says after ``KIND:``, without the pin.
        pin: SHA-256 that the file must have, in hexadecimal; None where any file will do.
    """

    form: ClassVar[str]

    def __init__(self, kind: str, rest: str, pin: str | None = None):
        self.kind, self.rest, self.pin = kind, rest, pin
        if not self.fits():
            raise ParityError(
                f"weights source {kind}:{rest}: expected {kind}:{self.form}, with or without "
                "#sha256=64 hexadecimal digits"
            )

    def fits(self) -> bool:
        """Tell whether `rest` has the form that the kind wants."""
        return bool(self.rest)

    def user_files(self) -> list[str]:
        """Return the user's own files that the weights are read from."""
        return []

    @abstractmethod
    def obtain(
        self, wanted: Wanted, unreachable: Mapping[str, str]
    ) -> "tuple[State, dict[str, Any]]":
        """Return the tensors and their provenance; see `obtain`."""


class FileSource(Source):
    """A source that gives a checkpoint file."""

    @abstractmethod
    def file(self, unreachable: Mapping[str, str]) -> tuple[Path, dict[str, Any]]:
        """Return where the file is on this machine, and its provenance."""

    def obtain(
        self, wanted: Wanted, unreachable: Mapping[str, str]
    ) -> "tuple[State, dict[str, Any]]":
        """Read the file, add the tensors that are to be seeded, fit it to the architecture."""
        from npu_parity.sources.checkpoints import fit, read_file

        path, about = self.file(unreachable)
        state = read_file(path)
        digest = evidence.sha256(path)
        if self.pin and digest != self.pin:
            raise ParityError(
                f"weights {path}: SHA-256 is {digest}, expected the pinned {self.pin}"
            )
        found = {
            "repo": None,
            "revision": None,
            "pretrained": True,
            "seed": None,
            **about,
            "file_sha256": digest,
            "seeded_tensors": [],
            "calibrated_batch_norms": 0,
        }
        if wanted.seeded:
            drawn = _seeded(wanted)
            state = {n: t for n, t in state.items() if not _matches(n, wanted.seeded["tensors"])}
            state |= drawn
            found |= {"seed": wanted.seeded["seed"], "seeded_tensors": list(drawn)}
        name = f"{self.kind}:{self.rest}"
        return fit(state, wanted.build(), name, in_order=wanted.tensors == "in_order"), found


class Hub(FileSource):
    """A model repository on a hub, read through the hub's own client."""

    form = "OWNER/REPO[@REVISION][/FILE]"
    pattern = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<file>.+))?")

    def fits(self) -> bool:
        """Tell whether `rest` names a repository."""
        return self.pattern.fullmatch(self.rest) is not None

    def file(self, unreachable: Mapping[str, str]) -> tuple[Path, dict[str, Any]]:
        """Fetch the file; Unavailable where the hub cannot be reached or lacks it."""
        named = self.pattern.fullmatch(self.rest)
        assert named is not None
        if self.kind in unreachable:
            raise Unavailable(f"{self.kind}: {unreachable[self.kind]}")
        file = named["file"] or DEFAULT_FILE
        got = hubs.fetch(self.kind, named["repo"], file, named["revision"], sha256=self.pin)
        return got.path, {"repo": got.repo, "revision": got.revision, "file": got.file}


class Package(FileSource):
    """A file that an installed Python package ships."""

    form = "DISTRIBUTION/FILE"

    def fits(self) -> bool:
        """Tell whether `rest` names a file of a package."""
        return re.fullmatch(r"[\w.-]+/.+", self.rest) is not None

    def file(self, unreachable: Mapping[str, str]) -> tuple[Path, dict[str, Any]]:
        """Return the file; ParityError where the package is not installed or lacks it."""
        name, _, file = self.rest.partition("/")
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            raise ParityError(
                f"weights source package:{self.rest}: {name} is not installed; run `uv sync`"
            ) from None
        if file not in {str(f) for f in distribution.files or ()}:
            raise ParityError(f"weights source package:{self.rest}: {name} ships no file {file!r}")
        return Path(str(distribution.locate_file(file))), {"repo": name, "file": file}


class Local(FileSource):
    """A file of the user's own."""

    form = "FILE"

    def user_files(self) -> list[str]:
        """Return the file."""
        return [self.rest]

    def file(self, unreachable: Mapping[str, str]) -> tuple[Path, dict[str, Any]]:
        """Return the file."""
        return Path(self.rest), {"file": self.rest}


class Seed(Source):
    """``torch.manual_seed`` and the architecture's own initialisation."""

    form = "WHOLE_NUMBER"

    def fits(self) -> bool:
        """Tell whether `rest` is a whole number and no file is pinned."""
        return re.fullmatch(r"[0-9]+", self.rest) is not None and self.pin is None

    def obtain(
        self, wanted: Wanted, unreachable: Mapping[str, str]
    ) -> "tuple[State, dict[str, Any]]":
        """Draw every tensor, and give batch norms statistics where that is wanted."""
        import torch

        from npu_parity.sources import seeds
        from npu_parity.sources.preprocessing import Preprocessing

        model = seeds.draw(int(self.rest), wanted.build)
        norms = 0
        if wanted.calibrate:
            preprocessing = Preprocessing(wanted.architecture, wanted.preprocessing)
            photographs = [f"skimage:{name}" for name in images.PHOTOGRAPHS]
            arrays = [
                preprocessing(photograph.data)
                for photograph in images.collect(photographs, preprocessing.shape)
            ]
            norms = seeds.calibrate_batch_norm(model, torch.from_numpy(np.stack(arrays)))
        state = model.state_dict()
        return state, {
            "repo": None,
            "revision": None,
            "file": None,
            "file_sha256": None,
            "pretrained": False,
            "seed": int(self.rest),
            "seeded_tensors": list(state),
            "calibrated_batch_norms": norms,
        }


# The one list of kinds: a new one is a class, and a line here.
KINDS: dict[str, type[Source]] = {
    **dict.fromkeys(hubs.CLIENTS, Hub),
    "package": Package,
    "path": Local,
    "seed": Seed,
}


def parse(source: str) -> Source:
    """Return the source that a text names.

    >>> parse("seed:42").rest
    '42'

    Raises:
        ParityError: unknown kind, or not in the form that the kind wants.
    """
    kind, separator, rest = source.partition(":")
    if not separator or kind not in KINDS:
        kinds = ", ".join(f"{name}:" for name in KINDS)
        raise ParityError(f"weights source {source!r}: expected one of {kinds}")
    named = PIN.fullmatch(rest)
    if named is None:
        raise ParityError(f"weights source {source!r}: found a line break in it")
    return KINDS[kind](kind, named["name"], named["pin"])


def obtain(
    wanted: Wanted, unreachable: Mapping[str, str] | None = None
) -> "tuple[State, dict[str, Any]]":
    """Return a state dict that fits the architecture exactly, and where it came from.

    Sources, each with an optional ``#sha256=`` that pins the bytes of the file:

    - ``modelscope:OWNER/REPO[@REVISION][/FILE]``, ``huggingface:…``: a hub, through its client;
    - ``package:DISTRIBUTION/FILE``: a file that an installed package ships;
    - ``path:FILE``: a file of the user's own;
    - ``seed:N``: ``torch.manual_seed(N)`` and the architecture's own initialisation.

    A hub that cannot be reached, or lacks the file, lets the next source be tried. Anything else
    that is wrong is an error. `unreachable` gives hubs that are known to be out of reach, and why.

    Raises:
        ParityError: no source is left, or a file is damaged, not the pinned one, or lacks a
            tensor, has one too many or one of another shape.
    """
    tried: list[dict[str, str]] = []
    for source in wanted.sources:
        try:
            state, found = parse(source).obtain(wanted, unreachable or {})
        except Unavailable as error:
            tried.append({"source": source, "failed": str(error)})
            continue
        return state, {"source": source, **found, "tried": tried}
    failures = "; ".join(entry["failed"] for entry in tried)
    raise ParityError(
        f"weights of {wanted.architecture}: no source is left ({failures}); "
        "add seed:42 as the last source to go on without a hub"
    )


def _seeded(wanted: Wanted) -> "State":
    """Return the tensors that are drawn from a seed whatever the source is."""
    from npu_parity.sources import seeds

    assert wanted.seeded is not None
    drawn = seeds.draw(wanted.seeded["seed"], wanted.build).state_dict()
    for pattern in wanted.seeded["tensors"]:
        if not any(_matches(name, [pattern]) for name in drawn):
            raise ParityError(
                f"weights of {wanted.architecture}: seeded pattern {pattern!r} matches none "
                f"of its tensors, such as {next(iter(drawn))}"
            )
    return {n: t for n, t in drawn.items() if _matches(n, wanted.seeded["tensors"])}


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
