"""Names in a repository of a hub: which file is meant, and which names are refused."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from npu_parity.errors import Absent, ParityError, shorten
from npu_parity.sources import containers
from npu_parity.sources.clients import Entry

# The names of weights in a repository, in the order of trial. Otherwise, its only weights file.
DEFAULT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Request:
    """A file of a model repository, as it is asked for.

    Attributes:
        hub: a name in `CLIENTS`.
        repo: ``owner/name``.
        file: a name within the repository, or a pattern such as ``model-*.pth``. The last match in
            natural order counts (122000 comes after 99000). None: the first of `DEFAULT_FILES`. The
            shards of an index belong to it.
        revision: branch, tag or commit; the hub's default branch if None.
        sha256: the expected SHA-256 of the file in hexadecimal.
        locked: the expected SHA-256 of every file by name, from `lock`; none if empty.
        cache_dir: replaces the client's default cache.

    Raises:
        ParityError: a name could leave a folder, on any system.
    """

    hub: str
    repo: str
    file: str | None = None
    revision: str | None = None
    sha256: str | None = None
    locked: Mapping[str, str] = field(default_factory=dict)
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        file = "model" if self.file is None else self.file
        for name in (self.repo, file, self.revision or "default"):
            if not containers.is_inside(name):
                raise ParityError(
                    f"{self.hub}: {name!r} is not a relative name; write it without '..'"
                )

    def __str__(self) -> str:
        """Return what messages call the file."""
        named = f"{self.hub}:{self.repo}" + (f" {self.file}" if self.file else "")
        return shorten(named + (f" at {self.revision}" if self.revision else ""), 120)

    @property
    def accepting(self) -> str:
        """The advice for a file that differs from weights.lock.yaml."""
        revision = f"@{self.revision}" if self.revision else ""
        file = f"/{self.file}" if self.file else ""
        return f"to accept it: npu-parity accept '{self.hub}:{self.repo}{revision}{file}'"


@dataclass(frozen=True)
class HubFile:
    """A verified file from a hub.

    Attributes:
        hub: a name in `CLIENTS`.
        repo: ``owner/name``.
        revision: the commit of the file (ModelScope: the last commit that changed this file).
        file: name within the repository.
        path: the file on this machine.
        sha256: SHA-256 of the file in hexadecimal.
        shards: the files that an index names.
        cache: why the file comes from the client's cache; None if the hub confirmed it.
    """

    hub: str
    repo: str
    revision: str
    file: str
    path: Path
    sha256: str
    shards: tuple["HubFile", ...] = ()
    cache: str | None = None


def choose_name(file: str | None, names: Iterable[str]) -> str | None:
    """Pick this name, or the last in natural order that matches; see `Request`."""

    def natural(name: str) -> list[str | int]:
        parts = re.split(r"([0-9]+)", name)
        return [int(part) if i % 2 else part for i, part in enumerate(parts)]

    def matches(name: str, pattern: str) -> bool:
        parts, patterns = name.split("/"), pattern.split("/")
        return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))

    names = sorted(names, key=natural)
    if file is not None:
        return next((n for n in [file] if n in names), None) or next(
            (n for n in reversed(names) if matches(n, file)), None
        )
    weights = [n for n in names if n.endswith(WEIGHTS) and "/" not in n]
    usual = [n for n in DEFAULT_FILES if n in names]
    return usual[0] if usual else weights[0] if len(weights) == 1 else None


def choose(request: Request, entries: list[Entry]) -> Entry:
    """Pick the entry of a file; Absent with the names that are there."""
    file = request.file
    if not entries:
        raise Absent(f"{request}: the hub lists no files; check the revision")
    chosen = choose_name(file, [entry.name for entry in entries])
    if chosen is None:
        listed = sorted(entries, key=lambda e: (not e.name.endswith(WEIGHTS), e.name))
        if file is not None:
            listed = entries
        names = shorten(", ".join(e.name for e in listed[:8]), 110)
        more = f" and {len(entries) - 8} more" if len(entries) > 8 else ""
        what = "no such file" if file else "no usual name; add /FILE to the source"
        raise Absent(f"{request}: {what}; the repository has {names}{more}")
    return next(entry for entry in entries if entry.name == chosen)
