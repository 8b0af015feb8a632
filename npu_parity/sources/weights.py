"""Get a system's weights from the first available source: one state dict and its provenance.

A source is ``KIND:REST``, with a kind from `KINDS`. Each kind is one class, which parses the rest
and fetches the tensors.
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
from npu_parity.backends import environment
from npu_parity.errors import ParityError, Unavailable, shorten
from npu_parity.sources import architectures, hubs, images

if TYPE_CHECKING:  # planning a run parses sources, and importing torch takes seconds
    from torch import nn

    from npu_parity.sources.checkpoints import State

PIN = re.compile(r"(?P<name>[^#\n]*)(#sha256=(?P<pin>[0-9a-f]{64}))?")
DEFAULT_FILE = "model.safetensors"


@dataclass(frozen=True)
class Wanted:
    """The request for a system's weights.

    Attributes:
        architecture: see `architectures.build`.
        arguments: keyword arguments of the architecture.
        sources: sources in the order of trial, see `obtain`.
        seeded: None, or ``{"tensors": [patterns], "seed": N}``. These tensors are always drawn from
            the seed, such as an unpublished head.
        tensors: ``by_name``, or ``in_order`` for a checkpoint with the same tensors in the same
            order under other names.
        calibrate: whether batch norms of seeded weights get their statistics from photographs.
        preprocessing: preprocessing of these photographs, see `preprocessing.Preprocessing`.
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
    """A source of weights.

    Attributes:
        form: the expected form of the text after ``KIND:``.
        kind: the name of the kind.
        rest: the text after ``KIND:``, without the pin.
        pin: the expected SHA-256 of the file in hexadecimal; None accepts any file.
    """

    form: ClassVar[str]

    def __init__(self, kind: str, rest: str, pin: str | None = None):
        self.kind, self.rest, self.pin = kind, rest, pin
        if not self.fits():
            raise self.malformed(kind, rest)

    def fits(self) -> bool:
        """Return whether `rest` has the form of its kind."""
        return bool(self.rest)

    @classmethod
    def malformed(cls, kind: str, rest: str) -> ParityError:
        """Return the error for a source in a wrong form."""
        return ParityError(
            f"weights source {shorten(repr(f'{kind}:{rest}'), 100)}: expected {kind}:{cls.form}, "
            "with or without "
            "#sha256=64 hexadecimal digits"
        )

    def user_files(self) -> list[str]:
        """Return the user's own files among the weights."""
        return []

    @abstractmethod
    def obtain(
        self, wanted: Wanted, unreachable: Mapping[str, str]
    ) -> "tuple[State, dict[str, Any]]":
        """Return the tensors and their provenance; see `obtain`."""


class FileSource(Source):
    """A source of a checkpoint file."""

    @abstractmethod
    def file(self, unreachable: Mapping[str, str]) -> tuple[Path, dict[str, Any]]:
        """Return the path of the file on this machine and its provenance."""

    def obtain(
        self, wanted: Wanted, unreachable: Mapping[str, str]
    ) -> "tuple[State, dict[str, Any]]":
        """Read the file, add seeded tensors, and fit the result to the architecture."""
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
    """A model repository on a hub, read with the hub's own client."""

    form = "OWNER/REPO[@REVISION][/FILE]"
    pattern = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<file>.+))?")

    def fits(self) -> bool:
        """Return whether `rest` names a repository."""
        return self.pattern.fullmatch(self.rest) is not None

    def file(self, unreachable: Mapping[str, str]) -> tuple[Path, dict[str, Any]]:
        """Fetch the file; Unavailable if the hub does not answer or does not have the file."""
        named = self.pattern.fullmatch(self.rest)
        assert named is not None
        if self.kind in unreachable:
            raise Unavailable(f"{self.kind}: {unreachable[self.kind]}")
        file = named["file"] or DEFAULT_FILE
        got = hubs.fetch(self.kind, named["repo"], file, named["revision"], sha256=self.pin)
        return got.path, {"repo": got.repo, "revision": got.revision, "file": got.file}


class Package(FileSource):
    """A file of an installed Python package."""

    form = "DISTRIBUTION/FILE"

    def fits(self) -> bool:
        """Return whether `rest` names a file of a package."""
        return re.fullmatch(r"[\w.-]+/.+", self.rest) is not None

    def file(self, unreachable: Mapping[str, str]) -> tuple[Path, dict[str, Any]]:
        """Return the file; ParityError if the package is not installed or has no such file."""
        name, _, file = self.rest.partition("/")
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            raise ParityError(
                f"weights source package:{self.rest}: {name} is not installed; run `uv sync`"
            ) from None
        if file not in {str(f) for f in distribution.files or ()}:
            raise ParityError(f"weights source package:{self.rest}: {name} has no file {file!r}")
        return Path(str(distribution.locate_file(file))), {"repo": name, "file": file}


class Local(FileSource):
    """The user's own file."""

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
        """Return whether `rest` is a whole number below 2^64 without a pin."""
        number = re.fullmatch("[0-9]{1,20}", self.rest) and self.pin is None
        return bool(number) and int(self.rest) < 2**64

    def obtain(
        self, wanted: Wanted, unreachable: Mapping[str, str]
    ) -> "tuple[State, dict[str, Any]]":
        """Draw every tensor, and calibrate batch norms if requested."""
        import torch

        from npu_parity.sources import seeds
        from npu_parity.sources.checkpoints import fit
        from npu_parity.sources.preprocessing import Preprocessing

        model = seeds.draw(int(self.rest), wanted.build)
        norms = 0
        if wanted.calibrate:
            preprocessing = Preprocessing(wanted.architecture, wanted.preprocessing, wanted.sources)
            photographs = [f"skimage:{name}" for name in images.PHOTOGRAPHS]
            arrays = [
                preprocessing(photograph.data)
                for photograph in images.collect(photographs, preprocessing.shape)
            ]
            norms = seeds.calibrate_batch_norm(model, torch.from_numpy(np.stack(arrays)))
        with torch.random.fork_rng(devices=[]):  # a second initialisation shows what is constant
            state = fit(model.state_dict(), wanted.build(), f"{self.kind}:{self.rest}")
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


# The only list of kinds. A new kind needs a class, and a line here.
KINDS: dict[str, type[Source]] = {
    **dict.fromkeys(hubs.CLIENTS, Hub),
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

    If a hub does not answer or does not have the file, the next source is tried. Any other problem
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
        "add seed:42 as the last source to continue without a hub"
    )


def _seeded(wanted: Wanted) -> "State":
    """Return the tensors that are always drawn from the seed."""
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
