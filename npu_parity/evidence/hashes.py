"""The hashes of many files. A file that nobody touched is not read again.

As in git's index, a file is untouched if its size, its inode and its times are the same. One of
them is the time of the last change of the inode, which nobody can set. This decides what to make
again. Who reads a result hashes every byte of it, and so does ``npu-parity verify``.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from npu_parity.errors import ParityError
from npu_parity.evidence.files import read_json, write_text
from npu_parity.evidence.manifest import sha256

# Two changes within one tick of a file system's clock have the same time. The longest takes 2 s.
TICK = 2 * 10**9


@contextmanager
def hashes(files: Iterable[Path], memory: Path) -> Iterator[Callable[[Path], str]]:
    """Hash files on all processors, and yield a function that waits for the hash of one of them.

    Args:
        files: the files.
        memory: a JSON file with the hashes of an earlier run; it is written anew.
    """
    start = time.time_ns()
    stamps = {str(file): _stamp(file) for file in files}
    known = {name: one for name, one in _read(memory).items() if one[:-1] == stamps.get(name)}
    with ThreadPoolExecutor() as pool:
        new = {name: pool.submit(sha256, name) for name in stamps.keys() - known.keys()}

        def digest(file: Path) -> str:
            name = str(file)
            return str(known[name][-1]) if name in known else new[name].result()

        yield digest
    if new:
        known |= {
            name: [*stamps[name], found.result()]
            for name, found in new.items()
            if not found.exception() and max(stamps[name]) < start - TICK
        }
        with suppress(ParityError):  # without a memory, the next run reads all files
            write_text(memory, json.dumps(known))


def _stamp(file: Path) -> list[float]:
    """Return what changes whenever somebody writes a file; times are in nanoseconds."""
    try:
        found = file.stat()
    except OSError:  # another run has just removed it
        return [math.inf]
    return [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]


def _read(memory: Path) -> dict[str, list[float | str]]:
    """Return what a memory knows; nothing if there is none or it is damaged."""
    with suppress(ParityError):
        known = read_json(memory)
        if isinstance(known, dict) and all(isinstance(one, list) and one for one in known.values()):
            return known
    return {}
