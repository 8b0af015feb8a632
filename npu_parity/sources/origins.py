"""The kinds of sources of weights. Each is one class: it parses its text and gives tensors."""

import fnmatch
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from npu_parity import evidence
from npu_parity.errors import Absent, ParityError, Unavailable, shorten
from npu_parity.sources import (
    architectures,
    containers,
    hub_cache,
    hubs,
    images,
    lock,
    packages,
    repositories,
)

if TYPE_CHECKING:  # planning a run parses sources, and importing torch takes seconds
    from torch import nn

    from npu_parity.sources.fitting import State


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
        state: the keys that lead to the state dict within a checkpoint, such as ``ema``; None if
            the checkpoint has one, or timm's choice is wanted.
        lock: the file with the hashes of hub files, see `lock`; None for none.
    """

    architecture: str
    arguments: dict[str, Any]
    sources: list[str]
    seeded: dict[str, Any] | None = None
    tensors: str = "by_name"
    calibrate: bool = True
    preprocessing: dict[str, Any] | None = None
    state: str | None = None
    lock: Path | None = None

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

    @property
    def text(self) -> str:
        """The source as the configuration writes it."""
        return f"{self.kind}:{self.rest}" + (f"#sha256={self.pin}" if self.pin else "")

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
    def file(self, wanted: Wanted, unreachable: Mapping[str, str]) -> tuple[Path, dict[str, Any]]:
        """Return the path of the file on this machine and its provenance."""

    def obtain(
        self, wanted: Wanted, unreachable: Mapping[str, str]
    ) -> "tuple[State, dict[str, Any]]":
        """Compare the hash, read the file, add seeded tensors, and fit all to the architecture."""
        path, about = self.file(wanted, unreachable)
        if problem := evidence.problem(path):
            raise ParityError(f"weights {shorten(str(path), 150)}: {problem}")
        digest = evidence.sha256(path)
        if self.pin and digest != self.pin:
            raise ParityError(
                f"weights {path}: SHA-256 is {digest}, expected the pinned {self.pin}"
            )
        from npu_parity.sources import checkpoints, states

        found = {**about, "file_sha256": digest}
        drawn: State = {}
        patterns: list[str] = []
        if wanted.seeded:
            drawn, patterns = _seeded(wanted), wanted.seeded["tensors"]
            found |= {"seed": wanted.seeded["seed"], "seeded_tensors": list(drawn)}
        state, choices = states.choose(
            checkpoints.read(path),
            wanted.build(),
            f"{self.kind}:{self.rest}",
            state=wanted.state,
            in_order=wanted.tensors == "in_order",
            replace=lambda s: {n: t for n, t in s.items() if not _matches(n, patterns)} | drawn,
        )
        return state, found | choices


class Hub(FileSource):
    """A model repository on a hub, read with the hub's own client."""

    form = "OWNER/REPO[@REVISION][/FILE]"
    pattern = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<file>.+))?")

    def fits(self) -> bool:
        """Return whether `rest` names a repository."""
        return self.pattern.fullmatch(self.rest) is not None

    def request(self, entry: lock.Locked | None = None) -> repositories.Request:
        """Return the request for the file, with the hashes of an entry of the lock."""
        named = self.pattern.fullmatch(self.rest)
        assert named is not None
        files = entry.files if entry else {}
        return repositories.Request(
            self.kind,
            named["repo"],
            named["file"],
            named["revision"],
            sha256=self.pin,
            locked={name: about["sha256"] for name, about in files.items()},
        )

    def file(self, wanted: Wanted, unreachable: Mapping[str, str]) -> tuple[Path, dict[str, Any]]:
        """Fetch the file, or take it from the client's cache if the hub is out of reach."""
        source = f"{self.kind}:{self.rest}"
        entry = lock.read(wanted.lock).get(source) if wanted.lock else None
        request = self.request(entry)
        try:
            if self.kind in unreachable:
                raise Unavailable(f"{self.kind}: {unreachable[self.kind]}")
            got = hubs.fetch(request)
        except Unavailable as error:
            cached = hub_cache.find(request)
            if cached is None:
                raise
            revision = entry.revision if entry else cached.revision
            got = replace(cached, revision=revision, cache=f"{cached.cache}, because {error}")
        if wanted.lock and entry is None:
            files = {
                part.file: {"sha256": part.sha256, "size": part.path.stat().st_size}
                for part in (got, *got.shards)
            }
            lock.write(wanted.lock, source, lock.Locked(got.repo, got.revision, files))
        about = {"repo": got.repo, "revision": got.revision, "file": got.file, "cache": got.cache}
        return got.path, about

    def beside(
        self, names: Iterable[str], lock: Path | None, unreachable: Mapping[str, str]
    ) -> Iterator[tuple[Path, str]]:
        """Yield the files with these names beside the weights that the hub or its cache has.

        Each comes with its own source, which is also its name in the lock.
        """
        named = self.pattern.fullmatch(self.rest)
        assert named is not None
        revision = f"@{named['revision']}" if named["revision"] else ""
        folder = PurePosixPath(named["file"] or "").parent
        for name in names:
            other = Hub(self.kind, f"{named['repo']}{revision}/{folder / name}")
            try:
                path, _ = other.file(Wanted("", {}, [], lock=lock), unreachable)
            except (Unavailable, Absent):
                continue
            yield path, other.text


class Package(FileSource):
    """A file of an installed Python package."""

    form = packages.FORM

    def fits(self) -> bool:
        """Return whether `rest` names a file of a package."""
        return packages.fits(self.rest)

    def file(self, wanted: Wanted, unreachable: Mapping[str, str]) -> tuple[Path, dict[str, Any]]:
        """Return the file; ParityError if the package is not installed or has no such file."""
        path, name, file = packages.locate(self.rest, f"weights source package:{self.rest}")
        return path, {"repo": name, "file": file, "license": packages.license_of(name)}


class Local(FileSource):
    """The user's own file, or a folder as a hub has it."""

    form = "FILE"

    def path(self) -> Path:
        """Return the file; in a folder, the one that would count in a repository of a hub."""
        path = Path(self.rest)
        if not os.path.isdir(path):
            return path
        name = repositories.choose_name(None, [p.name for p in path.iterdir() if p.is_file()])
        if name is None:
            raise ParityError(
                f"weights {shorten(self.rest, 100)}: this is a folder without a usual name of "
                f"weights, such as {repositories.DEFAULT_FILES[0]}: name the file"
            )
        return path / name

    def user_files(self) -> list[str]:
        """Return the file, and the shards that it names if it is an index."""
        path = self.path()
        if not containers.is_index(path) or evidence.problem(path):
            return [str(path)]
        return [str(path), *(str(path.parent / name) for name in containers.shards(path))]

    def file(self, wanted: Wanted, unreachable: Mapping[str, str]) -> tuple[Path, dict[str, Any]]:
        """Return the file."""
        return self.path(), {"file": str(self.path())}


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
        from npu_parity.sources.fitting import fit
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
            "pretrained": False,
            "seed": int(self.rest),
            "seeded_tensors": list(state),
            "calibrated_batch_norms": norms,
        }


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
