"""Inputs: photographs, synthetic images, random samples and the user's own images.

A source is a path or ``KIND:REST``, with a kind from `KINDS`. Each kind is one class, which parses
the rest and yields the inputs.
"""

import hashlib
import importlib.util
import io
import os
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from npu_parity import evidence
from npu_parity.errors import ParityError, first_line, shorten

PHOTOGRAPHS = {  # shipped by scikit-image; CC0 or public domain
    "astronaut": "astronaut.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "rocket": "rocket.jpg",
}
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})

Shape = tuple[int, int, int]
Data = Image.Image | NDArray[np.float32]


@dataclass(frozen=True)
class Input:
    """One input: its name, its source, the SHA-256 of its bytes, and its data.

    `data` is an RGB image before preprocessing, or a float32 array (3, H, W) that needs no
    preprocessing.
    """

    name: str
    source: str
    sha256: str
    data: Data


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

    @abstractmethod
    def inputs(self, shape: Shape) -> Iterator[Input]:
        """Yield the inputs. Generated inputs have the shape `shape`, (3, H, W)."""


class Photograph(Source):
    """A photograph from scikit-image: ``skimage:NAME``."""

    def __init__(self, text: str, rest: str):
        super().__init__(text, rest)
        if rest not in PHOTOGRAPHS:
            raise ParityError(
                f"input {shorten(text, 60)}: found photograph {shorten(repr(rest), 60)}, "
                f"expected {', '.join(PHOTOGRAPHS)}"
            )

    def inputs(self, shape: Shape) -> Iterator[Input]:
        """Yield the photograph."""
        image = read_image(photograph_path(self.rest), self.text)
        yield Input(self.rest, self.text, image.sha256, image.data)


class Generated(Source):
    """Inputs that are generated from the seeds 0, 1, …: ``KIND:COUNT``."""

    def __init__(self, text: str, rest: str):
        super().__init__(text, rest)
        if not re.fullmatch("[1-9][0-9]{0,5}", rest):
            expected = "expected a number from 1 to 999999"
            found = shorten(repr(rest), 60)
            raise ParityError(f"input {shorten(text, 60)}: found {found}, {expected}")

    def inputs(self, shape: Shape) -> Iterator[Input]:
        """Yield COUNT inputs."""
        for index in range(int(self.rest)):
            data = self.make(np.random.default_rng([0, index]), shape)
            digest = hashlib.sha256(np.asarray(data).tobytes()).hexdigest()
            yield Input(f"{self.text.partition(':')[0]}_{index}", self.text, digest, data)

    @abstractmethod
    def make(self, generator: np.random.Generator, shape: Shape) -> Data:
        """Return one input."""


class Synthetic(Generated):
    """Smooth blobs of colour with fine grain, which cover all frequency bands."""

    def make(self, generator: np.random.Generator, shape: Shape) -> Image.Image:
        """Return an RGB image of the shape's height and width."""
        height, width = shape[1:]
        blobs = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(blobs.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
        grain = generator.integers(-16, 17, (height, width, 3), dtype=np.int16)
        return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))


class Random(Generated):
    """Standard normal samples without preprocessing."""

    def make(self, generator: np.random.Generator, shape: Shape) -> NDArray[np.float32]:
        """Return a float32 array of the shape."""
        return generator.standard_normal(shape, dtype=np.float32)


class Files(Source):
    """The path of an image or of a folder of images, in the order of their names."""

    def user_files(self) -> list[str]:
        """Return the images; ParityError if a folder has none."""
        return [str(path) for path in self._paths()]

    def inputs(self, shape: Shape) -> Iterator[Input]:
        """Yield every image."""
        yield from (read_image(path, self.text) for path in self._paths())

    def _paths(self) -> list[Path]:
        path, name = Path(self.rest), shorten(self.text, 150)
        if not os.path.isdir(path):  # unlike `Path.is_dir`, false for a name that no file can have
            return [path]
        try:
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        except OSError as error:
            raise ParityError(f"input {name}: {error.strerror}") from None
        if not found:
            raise ParityError(f"input {name}: the folder has no image (.jpg, .png, …)")
        return found


# The only list of kinds. A new kind needs a class, and a line here. Any other source is a path.
KINDS: dict[str, type[Source]] = {
    "skimage": Photograph,
    "synthetic": Synthetic,
    "random": Random,
}


def parse(source: str) -> Source:
    """Return the source of a text; ParityError if the text does not have the form of its kind.

    >>> parse("random:100").rest
    '100'
    """
    kind, _, rest = source.partition(":")
    return KINDS[kind](source, rest) if kind in KINDS else Files(source, source)


def collect(sources: list[str], shape: Shape) -> Iterator[Input]:
    """Yield the inputs of `sources`, in order.

    Args:
        sources: ``skimage:NAME`` (a photograph), ``synthetic:N`` (images of smooth blobs and
            grain), ``random:N`` (standard normal samples without preprocessing), or the path of an
            image or of a folder of images (in the order of their names).
        shape: (3, H, W), the network's input shape, for synthetic and random inputs.

    Raises:
        ParityError: unknown source, missing file, folder without images, or unreadable image.
    """
    for source in sources:
        yield from parse(source).inputs(shape)


def files(sources: list[str]) -> list[str]:
    """Return the user's own images in `sources`, including each image of a folder."""
    return [file for source in sources for file in parse(source).user_files()]


def alike(inputs: NDArray[Any], names: Sequence[str]) -> list[str]:
    """Return why an exchange would not show: channels or inputs are equal.

    Args:
        inputs: (inputs, channels, ...).
        names: names of the inputs.

    >>> alike(np.array([[[1.0], [2.0]], [[1.0], [2.0]]]), ["cat", "dog"])
    ['inputs cat and dog are equal, so an exchange would not show']
    """
    found = []
    if inputs.ndim > 2 and inputs.shape[1] > 1 and (inputs == inputs[:, :1]).all():
        found.append("all channels of every input are equal, so an exchange would not show")
    first: dict[bytes, str] = {}
    for name, row in zip(names, inputs, strict=True):
        other = first.setdefault(hashlib.sha256(row.tobytes()).digest(), name)
        if other != name:
            found.append(f"inputs {other} and {name} are equal, so an exchange would not show")
    return found[:2]


def read_image(path: Path, source: str | None = None) -> Input:
    """Return an image file as RGB; ParityError if it is missing or not a readable image."""
    if problem := evidence.problem(path):
        raise ParityError(f"input {shorten(str(path), 150)}: {problem}")
    try:
        content = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                if image.mode[0] in "IF":  # Pillow would clip the values to white
                    raise ValueError(f"{image.mode}: more than 8 bits a channel")
                data = image.convert("RGB")
    except Exception as error:  # the decoders raise many kinds of errors for a damaged file
        raise ParityError(
            f"input {shorten(str(path), 100)}: not a readable image "
            f"({shorten(first_line(error), 100)}); expected JPEG, PNG or a similar format"
        ) from None
    return Input(path.name, source or str(path), hashlib.sha256(content).hexdigest(), data)


def photograph_path(name: str) -> Path:
    """Return the file of a photograph in scikit-image, without importing the package."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ParityError(f"input {name}: scikit-image is not installed; run `uv sync`")
    return Path(spec.origin).parent / "data" / PHOTOGRAPHS[name]
