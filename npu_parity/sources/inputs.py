"""One input: its name, its source, its hash and its data; and the base of all sources."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from npu_parity import evidence
from npu_parity.errors import ParityError, shorten
from npu_parity.sources import decoding
from npu_parity.sources.decoding import WHITE, Colour

Shape = tuple[int, int, int]
Data = Image.Image | NDArray[np.float32]


@dataclass(frozen=True)
class Input:
    """One input.

    Attributes:
        name: its name in tables.
        source: its source in the configuration.
        sha256: the SHA-256 of the file of an image, or of the values of an array.
        data: an RGB image before preprocessing, or a float32 array (3, H, W) that needs no
            preprocessing.
        changes: what was done to the image when it was read, such as its orientation in EXIF.
    """

    name: str
    source: str
    sha256: str
    data: Data
    changes: tuple[str, ...] = ()


class Source(ABC):
    """A source of inputs.

    Attributes:
        text: the whole source in the configuration.
        rest: the text after ``KIND:``; the whole text for a path.

    Raises:
        ParityError: the text does not have the form of its kind.
    """

    def __init__(self, text: str, rest: str):
        self.text, self.rest = text, rest

    def user_files(self) -> list[str]:
        """Return the user's own files among the inputs."""
        return []

    def skipped(self) -> list[str]:
        """Return the names of files that are beside the inputs and are not used."""
        return []

    @abstractmethod
    def inputs(self, shape: Shape, background: Colour) -> Iterator[Input]:
        """Yield the inputs.

        Args:
            shape: (3, H, W), the shape of generated inputs and of arrays.
            background: the colour under transparent pixels.
        """

    def mistake(self, text: str) -> ParityError:
        """Return an error that names this source."""
        return ParityError(f"input {shorten(self.text, 150)}: {text}")


def read_image(
    path: Path, source: str | None = None, background: Colour = WHITE, name: str | None = None
) -> Input:
    """Return an image file as RGB; see `decoding.decode`.

    Args:
        path: the file.
        source: its source in the configuration; default the path.
        background: the colour under transparent pixels.
        name: its name in tables; default the name of the file.

    Raises:
        ParityError: it is missing, too large or not a readable image.
    """
    if problem := evidence.problem(path):
        raise ParityError(f"input {shorten(str(path), 150)}: {problem}")
    try:
        if path.stat().st_size > decoding.LARGEST:
            raise ValueError(f"more than {decoding.LARGEST >> 20} MiB")
        content = path.read_bytes()
        data, changes = decoding.decode(content, background)
    except Exception as error:  # the decoders raise many kinds of errors for a damaged file
        raise ParityError(
            f"input {shorten(str(path), 100)}: not a readable image ({decoding.explain(error)}); "
            "expected JPEG, PNG or a similar format"
        ) from None
    digest = hashlib.sha256(content).hexdigest()
    return Input(name or path.name, source or str(path), digest, data, changes)
