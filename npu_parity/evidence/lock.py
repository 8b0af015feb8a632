"""Remove Snakemake's lock of a folder after a run was killed."""

import fcntl
import sys
from pathlib import Path
from typing import IO

LOCKS = Path(".snakemake/locks")  # as Snakemake keeps them
OWNERS = Path(".snakemake/owners")  # locked by every run, as long as it lives


def release_dead() -> IO[str]:
    """Remove the lock of a dead run. The lock of a live run stays.

    Every run also locks one file through the operating system. That lock ends with the process,
    even if the process is killed. If no other process has such a lock, Snakemake's lock files are
    left over.

    Returns:
        The locked file. Keep it open during the run.
    """
    OWNERS.parent.mkdir(exist_ok=True)
    owners = OWNERS.open("a")
    try:
        fcntl.flock(owners, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another run is alive
        pass
    else:
        left = list(LOCKS.glob("*.lock"))
        for file in left:
            file.unlink(missing_ok=True)
        if left:
            print("removed the lock of a run that was killed", file=sys.stderr)
    fcntl.flock(owners, fcntl.LOCK_SH)
    return owners
