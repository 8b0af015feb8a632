"""Faults of the preprocessing."""

import copy
import functools
import io
from collections.abc import Callable

import numpy as np
from catalogue import Port, System, case
from numpy.typing import NDArray
from PIL import Image

from npu_parity.sources.preprocessing import Preprocessing


def inputs(name: str):
    """Register a function from a system to the port's inputs."""

    def register(function: Callable[[System], NDArray]) -> None:
        @case("fault", "inputs", name)
        def _(system: System) -> Port:
            return Port(copy.deepcopy(system.model), inputs=function(system))

    return register


@inputs("red and blue swapped")
def _(system):
    return system.prepared(lambda i: Image.fromarray(np.asarray(i)[..., ::-1]))


@inputs("mean and deviation of another dataset")
def _(system):
    half = system.settings["mean"][0] == 0.5
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) if half else ([0.5] * 3, [0.5] * 3)
    return system.prepared(mean=mean, std=std)


@inputs("not normalised")
def _(system):
    return system.prepared(mean=[0.0] * 3, std=[1.0] * 3)


@inputs("range 0 to 255")
def _(system):
    return system.prepared(
        mean=[m / 255 for m in system.settings["mean"]],
        std=[s / 255 for s in system.settings["std"]],
    )


@inputs("squeezed instead of cropped")
def _(system):
    return system.prepared(resize=[system.settings["crop"]] * 2)


@inputs("crop off by one pixel")
def _(system):
    resize, *rest = Preprocessing("", system.settings)._transform.transforms

    def prepare(image: Image.Image) -> NDArray:
        resized = resize(image)
        moved = resized.transform(resized.size, Image.Transform.AFFINE, (1, 0, 1, 0, 1, 0))
        return functools.reduce(lambda value, step: step(value), rest, moved).numpy()

    return np.stack([prepare(image) for image in system.images])


@inputs("another interpolation")
def _(system):
    bilinear = system.settings["interpolation"] == "bilinear"
    return system.prepared(interpolation="bicubic" if bilinear else "bilinear")


@inputs("two images exchanged")
def _(system):
    return system.inputs[[1, 0, *range(2, len(system.inputs))]].copy()


@inputs("mirrored")
def _(system):
    return system.inputs[..., ::-1].copy()


@inputs("mean of red and blue exchanged")
def _(system):
    return system.prepared(mean=system.settings["mean"][::-1])


@inputs("as JPEG of quality 95")
def _(system):
    def compressed(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=95)
        return Image.open(file)

    return system.prepared(compressed)


@inputs("inputs as float16")
def _(system):
    return system.inputs.astype(np.float16).astype(np.float32)
