"""What every script needs: the configuration, the network, the inputs and the emulated device."""

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
IMAGENET = {
    "resize": 256,
    "crop": 224,
    "interpolation": "bilinear",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}


def read_config() -> dict[str, Any]:
    """Return ``config.yaml`` of this folder."""
    return yaml.safe_load(Path("config.yaml").read_text(encoding="utf-8"))


def folder(system: str, device: str = "") -> Path:
    """Return the folder of a system or of one of its devices; it is made."""
    path = Path("peer", system, device)
    path.mkdir(parents=True, exist_ok=True)
    return path


def build(settings: dict[str, Any]) -> nn.Module:
    """Return the network of a system with its own initialisation, in evaluation mode."""
    library, _, name = settings["architecture"].rpartition(":")
    arguments = settings.get("arguments", {})
    if library == "timm":
        import timm

        model = timm.create_model(name, pretrained=False, **arguments)
    elif library == "torchvision":
        from torchvision.models import get_model

        model = get_model(name, weights=None, **arguments)
    else:
        spec = importlib.util.spec_from_file_location("network", library)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = getattr(module, name)(**arguments)
    return model.eval()


def load(system: str, settings: dict[str, Any]) -> nn.Module:
    """Return the network of a system with the weights that ``weights.py`` has saved."""
    from safetensors.torch import load_file

    model = build(settings)
    model.load_state_dict(load_file(folder(system) / "weights.safetensors"))
    return model


def preprocessing(settings: dict[str, Any]) -> dict[str, Any]:
    """Return resize, crop, interpolation, mean and std of a system.

    What the configuration does not say comes from the default weights of the library.
    """
    library, _, name = settings["architecture"].rpartition(":")
    found = dict(IMAGENET)
    if library == "timm":
        import timm
        from timm.data import resolve_data_config

        cfg = timm.get_pretrained_cfg(name)
        data = resolve_data_config(pretrained_cfg=cfg.to_dict())
        found = {key: data[key] for key in ("interpolation", "mean", "std")}
        found["crop"] = data["input_size"][1]
        found["resize"] = int(found["crop"] / data["crop_pct"])
    elif library == "torchvision":
        from torchvision.models import get_model_weights

        data = get_model_weights(name).DEFAULT.transforms()
        found = {"interpolation": data.interpolation.value, "mean": data.mean, "std": data.std}
        found |= {"resize": data.resize_size[0], "crop": data.crop_size[0]}
    return found | settings.get("preprocessing", {})


def transform(settings: dict[str, Any]) -> transforms.Compose:
    """Return the function from an image to a tensor (3, H, W)."""
    data = preprocessing(settings)
    return transforms.Compose(
        [
            transforms.Resize(data["resize"], transforms.InterpolationMode(data["interpolation"])),
            transforms.CenterCrop(data["crop"]),
            transforms.ToTensor(),
            transforms.Normalize(data["mean"], data["std"]),
        ]
    )


def photograph(name: str) -> Image.Image:
    """Return a photograph of scikit-image."""
    place = Path(importlib.util.find_spec("skimage").origin).parent / "data"
    return Image.open(next(place.glob(f"{name}.[pj]*"))).convert("RGB")


def packaged(text: str) -> Path:
    """Return the path of ``DISTRIBUTION/FILE``, a file of an installed package."""
    distribution, _, file = text.partition("#")[0].partition("/")
    return Path(importlib.metadata.distribution(distribution).locate_file(file))


def synthetic(index: int, size: int) -> Image.Image:
    """Return an image of blobs and grain, the same for each index."""
    generator = np.random.default_rng([0, index])
    blobs = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    smooth = np.asarray(blobs.resize((size, size), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = generator.integers(-16, 17, smooth.shape, dtype=np.int16)
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))


def read_inputs(settings: dict[str, Any]) -> NDArray[np.float32]:
    """Return the inputs of a system, float32 (inputs, 3, H, W)."""
    to_tensor, size = transform(settings), preprocessing(settings)["crop"]
    found: list[NDArray[np.float32]] = []
    for source in settings["inputs"]:
        kind, _, rest = source.partition(":")
        if kind == "random":
            for index in range(int(rest)):
                generator = np.random.default_rng([0, index])
                found.append(generator.standard_normal((3, size, size), dtype=np.float32))
            continue
        if kind == "skimage":
            images = [photograph(rest)]
        elif kind == "package":
            images = [Image.open(packaged(rest)).convert("RGB")]
        elif kind == "synthetic":
            images = [synthetic(index, size) for index in range(int(rest))]
        else:
            images = [Image.open(source).convert("RGB")]
        found += [to_tensor(image).numpy() for image in images]
    return np.stack(found)


def hf32(x: Tensor) -> Tensor:
    """Round float32 to 11 bits of mantissa, to nearest, ties to even. NaN is not expected."""
    bits = x.view(torch.int32)
    odd = (bits >> 12) & 1
    return ((bits + (0x7FF + odd)) & ~0xFFF).view(torch.float32)


def emulate_hf32(model: nn.Module) -> None:
    """Let every convolution round its operands as an NPU does. It stands for the NPU here."""

    def round_input(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (hf32(inputs[0]), *inputs[1:])

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = hf32(module.weight.data)
            module.register_forward_pre_hook(round_input)
