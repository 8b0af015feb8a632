"""``weights.lock.yaml``: the files that hubs gave, written at first use and compared later.

The file is beside ``config.yaml``. Commit it: then every machine uses the same weights.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from npu_parity import evidence
from npu_parity.errors import ParityError, shorten
from npu_parity.evidence import manifest

FILE = Path("weights.lock.yaml")
HEADER = """\
# The files of hubs that these weights came from. A file that changes on a hub is refused.
# Commit this file. `npu-parity accept SOURCE` removes an entry, and the next run writes it again.
"""
MEND = "restore it from version control, or delete it to accept what the hubs have now"


@dataclass(frozen=True)
class Locked:
    """The entry of a source.

    Attributes:
        repo: ``owner/name``.
        revision: the commit at first use.
        files: SHA-256 and size by name. The first file is the checkpoint or the index of shards.
    """

    repo: str
    revision: str
    files: dict[str, dict[str, Any]]

    def sha256(self, file: str) -> str | None:
        """Return the SHA-256 of a file; None if the entry does not have the file."""
        found: str | None = self.files.get(file, {}).get("sha256")
        return found


def read(path: Path) -> dict[str, Locked]:
    """Return the entries by source; none if there is no file.

    Raises:
        ParityError: the file cannot be read, or an entry is not complete.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ParityError(f"{path} cannot be read ({shorten(str(error), 100)}): {MEND}") from None
    try:
        found = yaml.safe_load(text) or {}
        entries = {source: Locked(**entry) for source, entry in found.items()}
        complete = all(
            isinstance(entry.repo, str)
            and isinstance(entry.revision, str)
            and all({"sha256", "size"} <= file.keys() for file in entry.files.values())
            and entry.files
            for entry in entries.values()
        )
    except (yaml.YAMLError, AttributeError, TypeError, RecursionError):
        complete = False
    if not complete:
        raise ParityError(f"{path} is damaged or not complete: {MEND}")
    return entries


def write(path: Path, source: str, entry: Locked) -> None:
    """Add the entry of a source that has none. Other processes wait."""
    with manifest.locked(path.parent):
        entries = read(path)
        if source not in entries:
            _save(path, entries | {source: entry})


def accept(source: str, path: Path = FILE) -> None:
    """Remove the entry of a source, so that the next run accepts what the hub has.

    Raises:
        ParityError: there is no such entry.
    """
    with manifest.locked(path.parent):
        entries = read(path)
        if source not in entries:
            known = shorten(", ".join(entries) or "no entries", 150)
            raise ParityError(f"{path} has no entry {shorten(source, 80)!r}, it has {known}")
        _save(path, {name: entry for name, entry in entries.items() if name != source})


def _save(path: Path, entries: dict[str, Locked]) -> None:
    data = {source: vars(entries[source]) for source in sorted(entries)}
    evidence.write_text(path, HEADER + yaml.safe_dump(data, sort_keys=False, width=1000))
