"""The names of classes."""

from pathlib import Path

from npu_parity import evidence
from npu_parity.errors import ParityError, shorten


def find(name: str) -> Path:
    """Return a file of class names; ParityError if there is no such file."""
    path = evidence.find(name)
    if path is None:
        raise ParityError(f"labels {shorten(name, 150)}: {evidence.problem(name)}")
    return path


def read(name: str) -> list[str]:
    """Return the class names of a file, one for each line, in the order of the classes.

    Raises:
        ParityError: there is no such file, or it is not UTF-8.
    """
    try:
        return find(name).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        text = f"labels {shorten(name, 150)}: this is not UTF-8; save the file as UTF-8"
        raise ParityError(text) from None
