"""Files of installed Python packages: ``DISTRIBUTION/FILE``."""

import importlib.metadata
import re
from importlib.metadata import Distribution
from pathlib import Path

from npu_parity.errors import ParityError, shorten

FORM = "DISTRIBUTION/FILE"
NOT_STATED = "not stated"


def fits(text: str) -> bool:
    """Return whether a text names a file of a package."""
    return re.fullmatch(r"[\w.-]+/.+", text) is not None


def locate(text: str, what: str) -> tuple[Path, str, str]:
    """Return the path of a file, its distribution, and its name there.

    Args:
        text: ``DISTRIBUTION/FILE``.
        what: begins the message of an error.

    Raises:
        ParityError: the package is not installed or has no such file.

    >>> locate("numpy/numpy/version.py", "example")[1:]
    ('numpy', 'numpy/version.py')
    """
    name, _, file = text.partition("/")
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise ParityError(f"{what}: {name} is not installed; run `uv sync`") from None
    if file not in {str(f) for f in distribution.files or ()}:
        raise ParityError(f"{what}: {name} has no file {shorten(repr(file), 100)}")
    return Path(str(distribution.locate_file(file))), name, file


def license_of(name: str) -> str:
    """Return the licence that an installed package states, or "not stated".

    The first line of its licence file counts if its metadata has nothing.

    >>> license_of("numpy")
    'BSD-3-Clause...'
    """
    found = importlib.metadata.distribution(name)
    about = found.metadata
    stated = (about[key] for key in ("License-Expression", "License") if key in about)
    usable = (text for text in (*stated, _first_line(found)) if text and text != "UNKNOWN")
    return shorten(next(usable, NOT_STATED), 100)


def _first_line(distribution: Distribution) -> str:
    """Return the first line of the licence file of a package; empty if it has none."""
    files = (f for f in distribution.files or () if re.match("licen[cs]e", f.name, re.IGNORECASE))
    lines = (line.strip() for f in files for line in f.read_text(encoding="utf-8").splitlines())
    return next(filter(None, lines), "")
