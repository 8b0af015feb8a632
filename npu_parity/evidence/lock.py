"""Before a run: its folders can be written, and what a killed run left behind is removed."""

import fcntl
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from npu_parity.errors import ParityError
from npu_parity.evidence.manifest import PARTIAL, ROOM

LOCKS = Path(".snakemake/locks")  # as Snakemake keeps them
OWNERS = Path(".snakemake/owners")  # locked by every run, as long as it lives


def require_folders(folders: Iterable[str]) -> None:
    """Raise ParityError unless a run can make these folders and write into them.

    Snakemake would stop with a traceback, or the jobs would fail without a word.
    """
    for folder in map(Path, folders):
        place = next(p for p in (folder, *folder.parents) if os.path.lexists(p))
        if not place.is_dir():
            raise ParityError(f"{place} is no folder, expected a folder: move it to another place")
        if not os.access(place, os.W_OK | os.X_OK):
            raise ParityError(f"{place} cannot be written: allow it, or run in another folder")


def release_dead() -> IO[str]:
    """Remove the lock and the incomplete files of a dead run. Those of a live run stay.

    Every run also locks one file through the operating system. That lock ends with the process,
    even if the process is killed. If no other process has such a lock, Snakemake's lock files are
    left over, and so are files under a temporary name.

    Returns:
        The locked file. Keep it open during the run.

    Raises:
        ParityError: the folder of the run cannot be written.
    """
    try:
        OWNERS.parent.mkdir(exist_ok=True)
        owners = OWNERS.open("a")
    except OSError as error:
        raise ParityError(f"{OWNERS} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(owners, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another run is alive
        pass
    else:
        left = list(LOCKS.glob("*.lock"))
        for file in (*left, *Path(ROOM).rglob(PARTIAL)):
            file.unlink(missing_ok=True)
        if left:
            print("removed the lock of a run that was killed", file=sys.stderr)
    fcntl.flock(owners, fcntl.LOCK_SH)
    return owners
