"""Pictures, drawn again from the files of the results and compared.

Only the version of matplotlib that drew a picture draws it again alike. Another processor may move
a point by a rounding error. So coordinates may differ by `NEAR`, which nobody sees, and colours of
points that are stored as an image by one.
"""

import base64
import io
import re
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from npu_parity.audit.words import lines

NEAR = 0.01  # points, 1/72 inch
DRAWN_BY = re.compile(r"Matplotlib v([\w.]+)")
NAME = re.compile(r"\b(?:[a-zA-Z]|image)[0-9a-f]{10}\b")  # of a shape; follows from coordinates
IMAGE = re.compile(r"data:image/png;base64,([^\"]*)")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def other_version(svg: str) -> str | None:
    """Return the version of matplotlib that drew a picture, if this one cannot compare it."""
    found = DRAWN_BY.search(svg)
    version = found[1] if found else "unknown"
    return None if version == matplotlib.__version__ else version


def difference(found: str, drawn: str) -> str | None:
    """Return what differs between a picture and the same picture drawn again; None if nothing.

    >>> difference('<path d="M 1.000 2"/>', '<path d="M 1.001 2"/>')
    >>> difference('<path d="M 1 2"/>', '<path d="M 1 3"/>')
    'line 1: found 2, the results give 3'
    """
    images = [IMAGE.findall(text) for text in (found, drawn)]
    for number, (ours, theirs) in enumerate(zip(*images, strict=False), 1):
        if ours != theirs and not _alike(ours, theirs):
            return f"image {number}: found other points than the results give"
    found, drawn = (IMAGE.sub(lines, text) for text in (found, drawn))
    for number, pair in enumerate(zip(found.splitlines(), drawn.splitlines(), strict=False), 1):
        ours, theirs = (NAME.sub("", line) for line in pair)
        if NUMBER.sub("0", ours) != NUMBER.sub("0", theirs):
            return f"line {number}: found {_shown(ours)}, the results give {_shown(theirs)}"
        for a, b in zip(NUMBER.findall(ours), NUMBER.findall(theirs), strict=True):
            if abs(float(a) - float(b)) > NEAR:
                return f"line {number}: found {a}, the results give {b}"
    has, gives = (len(text.splitlines()) for text in (found, drawn))
    return None if has == gives else f"found {has} lines, the results give {gives}"


def _alike(ours: str, theirs: str) -> bool:
    """Whether two PNG images in base64 have the same pixels up to one level of a colour."""
    try:
        a, b = (_pixels(side) for side in (ours, theirs))
    except (OSError, ValueError):  # not base64, or no image
        return False
    return a.shape == b.shape and bool(np.abs(a - b).max(initial=0) <= 1)


def _pixels(encoded: str) -> NDArray[Any]:
    image = Image.open(io.BytesIO(base64.b64decode(encoded)))
    return np.asarray(image.convert("RGBA"), dtype=np.int16)


def _shown(line: str) -> str:
    text = re.sub(r"<[^>]*>", "", line).strip() or line.strip()
    return repr(text[:80])
