"""The manifest of a folder of results: each file's hash, what made it and what it was made from.

Every folder under ``results/`` has a ``manifest.json``. A program that writes a result enters it
there. A program that reads a result compares it with the entry, so a changed byte never reaches a
table.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from npu_parity.errors import ParityError

NAME = "manifest.json"
ROOM = "results"  # the folder whose files are entered
PARTIAL = ".*.partial"  # files that are being written

# A manifest belongs to no rule. Without it, nothing in its folder counts.
MEND_ALL = "run `snakemake --cores 4`, which makes this folder's files again"

Entry = dict[str, Any]
KEYS = {"sha256", "program", "code", "options", "read"}


@dataclass
class Job:
    """The program that runs in this process.

    Attributes:
        program: its name, without folder and suffix.
        code: hash of its code, see `npu_parity.evidence.code`.
        options: its command line, without what changes no result (threads, output).
        read: SHA-256 of every result that it has read, by path.
    """

    program: str = ""
    code: str = ""
    options: Sequence[str] = ()
    read: dict[str, str] = field(default_factory=dict)


JOB = Job()  # of this process; `job` sets it


@contextmanager
def job(program: str, code: str, options: Sequence[str]) -> Iterator[None]:
    """Enter all files that are written inside as results of this program."""
    global JOB
    before, JOB = JOB, Job(program, code, options)
    try:
        yield
    finally:
        JOB = before


def holds(path: Path) -> bool:
    """Return whether a file is a result. Only results are in manifests."""
    return ROOM in Path(os.path.relpath(path)).parts[:-1] and path.name != NAME


def enter(path: Path, digest: str) -> None:
    """Enter a result that was just written, with what made it and all that this job has read."""
    entry = {
        "sha256": digest,
        "program": JOB.program,
        "code": JOB.code,
        "options": list(JOB.options),
        "read": {name: JOB.read[name] for name in sorted(JOB.read)},
    }
    with locked(path.parent):
        manifest = path.with_name(NAME)
        try:
            entries = read(path.parent)
        except ParityError:  # it was changed, so nothing in it counts
            entries = {}
        partial = partial_of(manifest)
        partial.write_text(_text(entries | {path.name: entry}), encoding="utf-8")
        partial.replace(manifest)


def copy(folder: Path, names: Iterable[str], to: Path) -> None:
    """Copy results with their entries to another folder.

    Raises:
        ParityError: a result is not in the manifest, or was changed since it was made.
    """
    entries = read(folder)
    to.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (
            name not in entries
            or sha256(shutil.copyfile(folder / name, to / name)) != (entries[name]["sha256"])
        ):
            raise ParityError(
                f"{folder / name} was changed since it was made: {mend(folder / name)}"
            )
    kept = {name: entries[name] for name in names}
    (to / NAME).write_text(_text(kept), encoding="utf-8")


def partial_of(path: Path) -> Path:
    """Return the temporary name under which this process writes a file."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def check(path: Path, content: bytes) -> None:
    """Raise ParityError unless a result has the bytes that its manifest states."""
    if not holds(path):
        return
    digest = hashlib.sha256(content).hexdigest()
    entry = read(path.parent).get(path.name)
    if entry is None:
        raise ParityError(f"{path} is not in {path.with_name(NAME)}: {mend(path)}")
    if entry["sha256"] != digest:
        raise ParityError(f"{path} was changed since it was made: {mend(path)}")
    note(path, digest)


def note(path: Path, digest: str) -> None:
    """Remember that this job has read a result."""
    JOB.read[Path(os.path.relpath(path)).as_posix()] = digest


def read(folder: Path) -> dict[str, Entry]:
    """Return the entries of a folder's manifest by file name; an empty mapping without a manifest.

    Raises:
        ParityError: the manifest itself was changed.
    """
    path = folder / NAME
    try:
        text = path.read_text(encoding="utf-8")
        entries: dict[str, Entry] = json.loads(text)["files"]
        if text == _text(entries) and all(entry.keys() == KEYS for entry in entries.values()):
            return entries
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ParityError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise ParityError(f"{path} was changed since it was made: {MEND_ALL}")


def folders(results: Path) -> list[Path]:
    """Return the folders of results, in order; nothing if there are no results."""
    found = (path for path in results.rglob("*") if path.is_dir())
    return [results, *sorted(found)] if results.is_dir() else []


def made_from_others(results: Path, entries: dict[Path, Entry]) -> Iterator[tuple[Path, str]]:
    """Yield each result that was made from another version of a result, and that result's name.

    Args:
        results: the folder.
        entries: of `all_entries`.
    """
    hashes = {
        f"{ROOM}/{path.relative_to(results).as_posix()}": entry["sha256"]
        for path, entry in entries.items()
    }
    for path, entry in entries.items():
        for name, digest in entry["read"].items():
            if hashes.get(name, digest) != digest:
                yield path, name
                break


def all_entries(results: Path) -> dict[Path, Entry]:
    """Return the entries of all folders by path. A manifest that was changed has none."""
    found: dict[Path, Entry] = {}
    for folder in folders(results):
        with suppress(ParityError):
            found |= {folder / name: entry for name, entry in read(folder).items()}
    return found


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal, like ``sha256sum``."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mend(path: Path) -> str:
    """Return what to do about a result that was changed."""
    return f"run `snakemake --cores 4 {path}`, which makes it again"


def _text(entries: dict[str, Entry]) -> str:
    """Return the text of a manifest. The same entries always give the same text, with its hash."""
    files = {name: entries[name] for name in sorted(entries)}
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    whole = {"files": files, "sha256": digest}
    return json.dumps(whole, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time change the manifest of a folder, or another file in it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
