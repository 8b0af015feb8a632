"""Preprocessing: from an image to the input array of a network."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from npu_parity.errors import ParityError

IMAGENET = {
    "resize": 256,
    "crop": 224,
    "interpolation": "bilinear",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}


class Preprocessing:
    """A system's preprocessing: timm's for models of timm, else resize, crop, normalise.

    Args:
        architecture: ``timm:NAME`` selects timm's data configuration of this model.
        settings: keys of `IMAGENET`. They replace timm's settings, and missing keys get the values
            of `IMAGENET`. ``resize`` is the length of the short side or ``[height, width]``.

    """

    def __init__(self, architecture: str, settings: dict[str, Any] | None = None):
        from torchvision import transforms

        library, _, name = architecture.rpartition(":")
        if library == "timm" and not settings:
            import timm
            from timm.data.config import resolve_data_config
            from timm.data.transforms_factory import create_transform

            from npu_parity.sources.architectures import require_timm

            require_timm(name)
            pretrained = timm.get_pretrained_cfg(name)
            config = resolve_data_config(pretrained_cfg=pretrained.to_dict() if pretrained else {})
            self.settings = {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}
            self.shape: tuple[int, int, int] = tuple(config["input_size"])
            self._transform = create_transform(**config, is_training=False)
        else:
            self.settings = IMAGENET | (settings or {})
            mode = transforms.InterpolationMode(self.settings["interpolation"])
            self.shape = (3, self.settings["crop"], self.settings["crop"])
            self._transform = transforms.Compose(
                [
                    transforms.Resize(self.settings["resize"], mode),
                    transforms.CenterCrop(self.settings["crop"]),
                    transforms.ToTensor(),
                    transforms.Normalize(self.settings["mean"], self.settings["std"]),
                ]
            )

    def __call__(self, data: Image.Image | NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a float32 array (3, H, W). The shape of an array is checked, nothing else."""
        if isinstance(data, Image.Image):
            array: NDArray[np.float32] = self._transform(data).numpy()
            return array
        if data.shape != self.shape:
            raise ParityError(f"input: found shape {data.shape}, expected {self.shape}")
        return data.astype(np.float32, copy=False)
