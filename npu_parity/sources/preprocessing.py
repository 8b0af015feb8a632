"""Preprocessing: from an image to the input array of a network."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from npu_parity.errors import ParityError
from npu_parity.sources import pretrained
from npu_parity.sources.decoding import WHITE, Colour

IMAGENET = {
    "resize": 256,
    "crop": 224,
    "interpolation": "bilinear",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}
CONFIGURED = "configuration"
LARGEST = 2**26  # pixels of a resized image


class Preprocessing:
    """A system's preprocessing: resize, crop, normalise.

    The keys of `settings` count first, then what the weights say, then what the architecture's
    library says for its default weights, then `IMAGENET`. See `pretrained.settings`.

    Args:
        architecture: ``timm:NAME``, ``torchvision:NAME`` or any other.
        settings: keys of `IMAGENET`, and ``background``, the colour under transparent pixels.
            ``resize`` is the length of the short side or ``[height, width]``.
        weights: the sources of the weights, as in the configuration.
        beside: yields the files beside weights, see `pretrained.settings`.

    Attributes:
        settings: the value of every key, and ``antialias``: whether resizing filters.
        origins: for every key, where its value comes from.

    Raises:
        ParityError: the weights have no complete preprocessing, or two sources of weights differ.
    """

    def __init__(
        self,
        architecture: str,
        settings: dict[str, Any] | None = None,
        weights: Sequence[str] = (),
        beside: pretrained.Beside = pretrained.local,
    ):
        from torchvision import transforms

        stated = settings or {}
        found, origin = IMAGENET, "ImageNet's usual values"
        if not IMAGENET.keys() <= stated.keys():
            known = pretrained.settings(architecture, weights, stated, beside)
            found, origin = known or (found, origin)
        fixed = {"antialias": True, "background": list(WHITE)}  # Pillow always filters
        self.settings = {**found, **fixed, **stated}
        self.origins = {
            **dict.fromkeys(found, origin),
            **dict.fromkeys(fixed, "default"),
            **dict.fromkeys(stated, CONFIGURED),
        }
        if missing := [key for key in IMAGENET if key not in self.settings]:
            raise ParityError(
                f"preprocessing: {origin} gives no fixed {' and '.join(missing)}; "
                f"add preprocessing: {{{missing[0]}: …}} to the system's configuration"
            )
        self.background: Colour = tuple(self.settings["background"])
        self.shape = (3, self.settings["crop"], self.settings["crop"])
        mode = transforms.InterpolationMode(self.settings["interpolation"])
        self._transform = transforms.Compose(
            [
                transforms.Resize(self.settings["resize"], mode),
                transforms.CenterCrop(self.settings["crop"]),
                transforms.ToTensor(),
                transforms.Normalize(self.settings["mean"], self.settings["std"]),
            ]
        )

    def __call__(
        self, data: Image.Image | NDArray[np.float32], name: str = ""
    ) -> NDArray[np.float32]:
        """Return a float32 array (3, H, W).

        Raises:
            ParityError: the array has another shape, or the image is so narrow that resizing its
                short side would need too much memory.
        """
        what = f"input {name}".rstrip()
        if isinstance(data, Image.Image):
            self._expect_bounded(data, what)
            array: NDArray[np.float32] = self._transform(data).numpy()
            return array
        if data.shape != self.shape:
            raise ParityError(f"{what}: found shape {data.shape}, expected {self.shape}")
        return data.astype(np.float32, copy=False)

    def _expect_bounded(self, image: Image.Image, what: str) -> None:
        short, long = sorted(image.size)
        edge = self.settings["resize"]
        if isinstance(edge, int) and edge * edge * long // short > LARGEST:
            raise ParityError(
                f"{what}: found {image.width} x {image.height} pixels, too narrow to resize the "
                f"short side to {edge}; crop the image first"
            )
