"""The names of classes."""

from pathlib import Path

from npu_parity import evidence
from npu_parity.errors import ParityError


def find(name: str) -> Path:
    """Return a file of class names; ParityError if there is no such file."""
    path = evidence.find(name)
    if path is None:
        raise ParityError(f"labels: there is no file {name!r}")
    return path


def read(name: str) -> list[str]:
    """Return the class names of a file, one for each line, in the order of the classes."""
    return find(name).read_text(encoding="utf-8").splitlines()
