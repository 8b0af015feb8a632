"""From photographs, synthetic images or random samples to the array that a network is fed."""

import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from npu_parity.errors import ParityError

PHOTOGRAPHS = {  # shipped by scikit-image; CC0 or public domain
    "astronaut": "astronaut.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "rocket": "rocket.jpg",
}
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
IMAGENET = {
    "resize": 256,
    "crop": 224,
    "interpolation": "bilinear",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}


@dataclass(frozen=True)
class Input:
    """One input: its name, where it is from, the SHA-256 of its bytes, and its data.

    `data` is an RGB image that has yet to be preprocessed, or a float32 array (3, H, W) that is
    fed as it is.
    """

    name: str
    source: str
    sha256: str
    data: Image.Image | np.ndarray


class Preprocessing:
    """A system's own preprocessing: timm's where timm has one, else resize, crop, normalise.

    Args:
        architecture: ``timm:NAME`` takes timm's data configuration of that model.
        settings: any of `IMAGENET`'s keys, of which the rest are the defaults; given, they
            replace timm's. ``resize`` is the length of the short side or ``[height, width]``.

    """

    def __init__(self, architecture: str, settings: dict[str, Any] | None = None):
        from torchvision import transforms

        library, _, name = architecture.rpartition(":")
        if library == "timm" and not settings:
            import timm

            from npu_parity.architectures import require_timm

            require_timm(name)
            pretrained = timm.get_pretrained_cfg(name)
            config = timm.data.resolve_data_config(
                pretrained_cfg=pretrained.to_dict() if pretrained else {}
            )
            self.settings = {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}
            self.shape: tuple[int, int, int] = tuple(config["input_size"])
            self._transform = timm.data.create_transform(**config, is_training=False)
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

    def __call__(self, data: Image.Image | np.ndarray) -> np.ndarray:
        """Return a float32 array (3, H, W); an array passes through, its shape checked."""
        if isinstance(data, Image.Image):
            return self._transform(data).numpy()
        if data.shape != self.shape:
            raise ParityError(f"input: found shape {data.shape}, expected {self.shape}")
        return data.astype(np.float32, copy=False)


def collect(sources: list[str], shape: tuple[int, int, int]) -> Iterator[Input]:
    """Yield the inputs that `sources` name, in order.

    Args:
        sources: ``skimage:NAME`` (a photograph), ``synthetic:N`` (images of smooth blobs and
            grain), ``random:N`` (standard normal samples, not preprocessed), or the path of an
            image or of a folder of images (in the order of their names).
        shape: (3, H, W) of what the network is fed; size of the synthetic and random inputs.

    Raises:
        ParityError: unknown source, missing file, a folder without images, no readable image.

    """
    for source in sources:
        kind, _, rest = source.partition(":")
        if kind == "skimage":
            yield _photograph(source, rest)
        elif kind in ("synthetic", "random"):
            make = _synthetic if kind == "synthetic" else _random
            for index in range(_count(source, rest)):
                data = make(np.random.default_rng([0, index]), shape)
                digest = hashlib.sha256(np.asarray(data).tobytes()).hexdigest()
                yield Input(f"{kind}_{index}", source, digest, data)
        else:
            yield from (read_image(path, source) for path in _files(source))


def read_image(path: Path, source: str | None = None) -> Input:
    """Return an image file as RGB; ParityError when it is missing or no readable image."""
    try:
        content = path.read_bytes()
        with Image.open(path) as image:
            if image.mode[0] in "IF":  # Pillow would clip them to white
                raise ValueError(f"{image.mode}: more than 8 bits a channel")
            data = image.convert("RGB")
    except FileNotFoundError:
        raise ParityError(f"input {path}: there is no such file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ParityError(
            f"input {path}: not a readable image ({error}); expected JPEG, PNG or the like"
        ) from None
    return Input(path.name, source or str(path), hashlib.sha256(content).hexdigest(), data)


def files(sources: list[str]) -> list[str]:
    """Return the images that `sources` name by path, those of folders one by one."""
    kinds = ("skimage", "synthetic", "random")
    return [str(f) for s in sources if s.partition(":")[0] not in kinds for f in _files(s)]


def photograph_path(name: str) -> Path:
    """Return the file of one of scikit-image's photographs, without importing the package."""
    spec = importlib.util.find_spec("skimage")
    return Path(spec.origin).parent / "data" / PHOTOGRAPHS[name]


def _photograph(source: str, name: str) -> Input:
    if name not in PHOTOGRAPHS:
        raise ParityError(
            f"input {source}: found photograph {name!r}, expected {', '.join(PHOTOGRAPHS)}"
        )
    image = read_image(photograph_path(name), source)
    return Input(name, source, image.sha256, image.data)


def _files(source: str) -> list[Path]:
    path = Path(source)
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise ParityError(f"input {source}: the folder has no image (.jpg, .png, …)")
    return found


def _count(source: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ParityError(f"input {source}: found {text!r}, expected a number of at least 1")
    return int(text)


def _synthetic(generator: np.random.Generator, shape: tuple[int, int, int]) -> Image.Image:
    """Return smooth colour blobs under a fine grain: something for every frequency band."""
    height, width = shape[1:]
    blobs = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    smooth = np.asarray(blobs.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = generator.integers(-16, 17, (height, width, 3), dtype=np.int16)
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))


def _random(generator: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    return generator.standard_normal(shape, dtype=np.float32)
