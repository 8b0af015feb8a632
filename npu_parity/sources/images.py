"""Inputs: photographs, synthetic images, random samples, and the user's own images and arrays.

A source is a path or ``KIND:REST``, with a kind from `KINDS`. Each kind is one class, which parses
the rest and yields the inputs.
"""

import hashlib
import importlib.util
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from npu_parity.errors import ParityError, shorten
from npu_parity.sources import own, packages
from npu_parity.sources.decoding import WHITE, Colour
from npu_parity.sources.inputs import Data, Input, Shape, Source, read_image

PHOTOGRAPHS = {  # shipped by scikit-image; CC0 or public domain
    "astronaut": "astronaut.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "rocket": "rocket.jpg",
}


class Photograph(Source):
    """A photograph from scikit-image: ``skimage:NAME``."""

    def __init__(self, text: str, rest: str):
        super().__init__(text, rest)
        if rest not in PHOTOGRAPHS:
            raise ParityError(
                f"input {shorten(text, 60)}: found photograph {shorten(repr(rest), 60)}, "
                f"expected {', '.join(PHOTOGRAPHS)}"
            )

    def inputs(self, shape: Shape, background: Colour) -> Iterator[Input]:
        """Yield the photograph."""
        yield read_image(photograph_path(self.rest), self.text, name=self.rest)


class Packaged(Source):
    """An image of an installed Python package: ``package:DISTRIBUTION/FILE``."""

    def __init__(self, text: str, rest: str):
        super().__init__(text, rest)
        if not packages.fits(rest):
            raise self.mistake(f"expected package:{packages.FORM}")

    def inputs(self, shape: Shape, background: Colour) -> Iterator[Input]:
        """Yield the image."""
        path, _, _ = packages.locate(self.rest, f"input {shorten(self.text, 150)}")
        yield read_image(path, self.text, background, name=path.stem)


class Generated(Source):
    """Inputs that are generated from the seeds 0, 1, …: ``KIND:COUNT``."""

    def __init__(self, text: str, rest: str):
        super().__init__(text, rest)
        if not re.fullmatch("[1-9][0-9]{0,5}", rest):
            expected = "expected a number from 1 to 999999"
            found = shorten(repr(rest), 60)
            raise ParityError(f"input {shorten(text, 60)}: found {found}, {expected}")

    def inputs(self, shape: Shape, background: Colour) -> Iterator[Input]:
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


# The only list of kinds. A new kind needs a class, and a line here. Any other source is a path.
KINDS: dict[str, type[Source]] = {
    "skimage": Photograph,
    "package": Packaged,
    "synthetic": Synthetic,
    "random": Random,
}


def parse(source: str) -> Source:
    """Return the source of a text; ParityError if the text does not have the form of its kind.

    >>> parse("random:100").rest
    '100'
    """
    kind, _, rest = source.partition(":")
    return KINDS[kind](source, rest) if kind in KINDS else own.of_path(source)


def collect(sources: list[str], shape: Shape, background: Colour = WHITE) -> Iterator[Input]:
    """Yield the inputs of `sources`, in order.

    Args:
        sources: ``skimage:NAME`` (a photograph), ``package:DISTRIBUTION/FILE`` (an image),
            ``synthetic:N`` (images of smooth blobs and grain), ``random:N`` (standard normal
            samples without preprocessing), or a path, see `own.Files`, `own.Listed` and
            `own.Arrays`.
        shape: (3, H, W), the network's input shape, for synthetic and random inputs and arrays.
        background: the colour under transparent pixels.

    Raises:
        ParityError: unknown source, missing file, folder without images, unreadable image or array.
    """
    for source in sources:
        yield from parse(source).inputs(shape, background)


def files(sources: list[str]) -> list[str]:
    """Return the user's own files in `sources`, including each image of a folder or list."""
    return [file for source in sources for file in parse(source).user_files()]


def skipped(sources: list[str]) -> list[dict[str, Any]]:
    """Return the files beside the inputs that are not used; see `own.about_skipped`."""
    return own.about_skipped(map(parse, sources))


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


def photograph_path(name: str) -> Path:
    """Return the file of a photograph in scikit-image, without importing the package."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ParityError(f"input {name}: scikit-image is not installed; run `uv sync`")
    return Path(spec.origin).parent / "data" / PHOTOGRAPHS[name]
