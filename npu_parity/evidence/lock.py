"""Snakemake's lock of a folder, after a run that was killed."""

import fcntl
import sys
from pathlib import Path
from typing import IO

LOCKS = Path(".snakemake/locks")  # as Snakemake keeps them
OWNERS = Path(".snakemake/owners")  # locked by every run, as long as it lives


def release_dead() -> IO[str]:
    """Remove the lock of a run that is no more; that of a live run is respected.

    Every run has a lock of the operating system on one file, which ends with the process however
    that ends. Where nobody else has one, Snakemake's lock files belong to nobody.

    Returns:
        The locked file. Keep it open for the length of the run.
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
