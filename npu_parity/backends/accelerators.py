"""One job for each card: a process takes a free accelerator of a machine that has several."""

import fcntl
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

POLL_SECONDS = 1.0  # between two looks for a free card

_taken: dict[str, tuple[str, int]] = {}  # card and descriptor of its locked file, by backend


def take(backend: str, cards: Sequence[str], folder: Path | None = None) -> str:
    """Wait until a card is free, and take it until this process ends. Return its name.

    The operating system keeps the lock of a file for each card. So a killed process frees its card.

    Args:
        backend: a part of the file's name.
        cards: names of the cards, at least one.
        folder: where the files are; default: the folder for temporary files.
    """
    if backend in _taken:
        return _taken[backend][0]
    place = folder or Path(tempfile.gettempdir())
    while True:
        for card in cards:
            path = place / f"npu-parity-{os.getuid()}-{backend}-{card}.lock"
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                continue
            _taken[backend] = card, file
            return card
        time.sleep(POLL_SECONDS)
