"""The preprocessing that weights were trained for: of timm, torchvision, or a file beside them."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from npu_parity import evidence
from npu_parity.errors import ParityError, first_line, shorten
from npu_parity.evidence.files import PACKAGE
from npu_parity.sources.architectures import require_timm

Settings = dict[str, Any]
Found = tuple[Settings, str]  # settings and where they come from
# Yields the files beside a source of weights that may say how to preprocess, and their names.
Beside = Callable[[str], Iterator[tuple[Path, str]]]

TIMM = re.compile(r"(?:modelscope|huggingface):timm/(?P<name>[\w.-]+)")
HUB = re.compile(r"(?:modelscope|huggingface):")
BESIDE = ("preprocessor_config.json", "config.json")  # of transformers, of timm
LARGEST = 2**20  # bytes of such a file
# The numbers of Pillow's filters, which transformers writes.
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
ANY_SIZE = {"resize": 256, "crop": 224, "interpolation": "bilinear"}  # for detectors
# What image processors of transformers can do and this project does not.
BEYOND = ("do_pad", "include_top", "rescale_offset", "do_flip_channel_order")


def local(source: str) -> Iterator[tuple[Path, str]]:
    """Yield the files beside the user's own weights that may say how to preprocess."""
    kind, _, rest = source.partition(":")
    if kind == "path":
        path = Path(rest.partition("#")[0])
        folder = path if path.is_dir() else path.parent
        yield from ((folder / n, str(folder / n)) for n in BESIDE if (folder / n).is_file())


def settings(
    architecture: str,
    weights: Sequence[str],
    stated: Settings | None = None,
    beside: Beside = local,
) -> Found | None:
    """Return resize, crop, interpolation, mean and std, and where they come from.

    The sources of weights count first: a repository of timm on a hub, or the file
    ``preprocessor_config.json`` or ``config.json`` beside the weights. Then the default weights of
    the architecture's library. A key is missing if the preprocessing cannot be expressed.

    Args:
        architecture: ``timm:NAME``, ``torchvision:NAME`` or any other.
        weights: the sources of the weights, as in the configuration.
        stated: settings of the configuration; the sources may differ in these keys.
        beside: yields the files beside weights; by default, a hub is not asked.

    Raises:
        ParityError: timm or torchvision does not know the model, a file is damaged, or two sources
            of weights want different preprocessing.
    """
    named = [found for source in weights if (found := _of_source(source, beside))]
    for other, origin in named[1:]:
        first = named[0][0]
        differ = [k for k in first.keys() | other.keys() if first.get(k) != other.get(k)]
        if open_keys := sorted(set(differ) - set(stated or ())):
            raise ParityError(
                f"preprocessing: {shorten(named[0][1], 80)} and {shorten(origin, 80)} differ in "
                f"{', '.join(open_keys)}; add preprocessing: with these keys to the configuration"
            )
    library, _, name = architecture.rpartition(":")
    if named or library not in LIBRARIES:
        return named[0] if named else None
    return LIBRARIES[library](name)


def files(weights: Sequence[str]) -> list[str]:
    """Return the files beside local weights that may say how to preprocess."""
    return [str(path) for source in weights for path, _ in local(source)]


def telling(weights: Sequence[str]) -> list[str]:
    """Return the sources of weights that may say how to preprocess."""
    return [source for source in weights if HUB.match(source) or any(local(source))]


def asked(weights: Sequence[str]) -> list[str]:
    """Return the sources of weights whose hub has to be asked how to preprocess."""
    return [source for source in weights if HUB.match(source) and not TIMM.match(source)]


def _of_source(source: str, beside: Beside) -> Found | None:
    if named := TIMM.match(source):
        return _timm(named["name"])
    return next((found for path, name in beside(source) if (found := read(path, name))), None)


def _timm(name: str) -> Found | None:
    import timm

    require_timm(name)
    try:
        found = timm.get_pretrained_cfg(name)
    except RuntimeError:
        tags = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        raise ParityError(
            f"preprocessing: timm {timm.__version__} does not know the weights "
            f"{shorten(name, 80)}; expected {shorten(', '.join(tags), 120)}"
        ) from None
    tag = f".{found.tag}" if found and found.tag and "." not in name else ""
    return (_from_timm(found.to_dict()), f"timm {name}{tag}") if found else None


def _torchvision(name: str) -> Found | None:
    """Return the transforms of the default weights. Detectors resize and normalise themselves."""
    import torchvision

    from npu_parity.sources.architectures import require_torchvision

    require_torchvision(name)
    default = torchvision.models.get_model_weights(name).DEFAULT
    found, origin = default.transforms(), f"torchvision {default}"
    match type(found).__name__:
        case "ImageClassification":
            (resize,), (crop,) = found.resize_size, found.crop_size
        case "SemanticSegmentation":  # no crop, but all inputs of a system have one shape
            (resize,), (crop,) = found.resize_size, found.resize_size
        case "ObjectDetection":
            return {**ANY_SIZE, "mean": [0.0] * 3, "std": [1.0] * 3}, f"{origin}, any size"
        case _:  # video, optical flow
            return None
    return {
        "resize": resize,
        "crop": crop,
        "interpolation": found.interpolation.value,
        "mean": list(found.mean),
        "std": list(found.std),
    }, origin


LIBRARIES: dict[str, Callable[[str], Found | None]] = {"timm": _timm, "torchvision": _torchvision}


def read(path: Path, name: str = "") -> Found | None:
    """Return the preprocessing in a JSON file of transformers or timm; None if it has none.

    Args:
        path: the file.
        name: what messages call it; by default its path.

    Raises:
        ParityError: it is too large, not JSON, or has values that no preprocessing can have.
    """
    name = name or str(path)
    if problem := evidence.problem(path):
        raise ParityError(f"{name}: {problem}")
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST >> 20} MiB")
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
        if not isinstance(data, dict):
            raise ValueError(f"found {type(data).__name__}, expected an object")
        if "image_mean" in data or "do_resize" in data:
            found = _from_transformers(data)
        elif "mean" in (own := data.get("pretrained_cfg", data)):
            found = _from_timm(own)
        else:
            return None
        _expect_valid(found)
    except Exception as error:  # any value may be of any type
        raise ParityError(
            f"{shorten(name, 120)}: no preprocessing can be read "
            f"({shorten(first_line(error), 120)}); mend it, or state preprocessing: in full"
        ) from None
    return found, name


def _from_timm(config: Settings) -> Settings:
    """Return the settings of timm's ``pretrained_cfg``, with timm's defaults."""
    from timm.data.config import resolve_data_config

    found = resolve_data_config(pretrained_cfg=config)
    channels, height, width = found["input_size"]
    settings = {
        "interpolation": found["interpolation"],
        "mean": list(found["mean"]),
        "std": list(found["std"]),
    }
    if channels == 3 and height == width and found["crop_mode"] in ("center", "squash"):
        edge = int(height / found["crop_pct"])  # as `timm.data.transforms_factory` does
        squash = found["crop_mode"] == "squash"
        settings |= {"resize": [edge, edge] if squash else edge, "crop": height}
    return settings


def _from_transformers(config: Settings) -> Settings:
    """Return the settings of an image processor (``preprocessor_config.json``).

    An old file has a number as size: the short side if a crop follows, else both sides. ConvNeXt's
    processor (``crop_pct``) resizes to size / crop_pct and crops, or squeezes from 384 pixels on.
    """
    if beyond := [key for key in BEYOND if config.get(key)]:
        raise ValueError(f"{beyond[0]} is not supported")
    if (
        not config.get("do_rescale", True)
        or abs(config.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6
    ):
        raise ValueError("expected values rescaled by 1/255")
    normal = config.get("do_normalize", True)
    found: Settings = {"mean": config["image_mean"] if normal else [0.0] * 3}
    found["std"] = config["image_std"] if normal else [1.0] * 3
    if "resample" in config:
        found["interpolation"] = FILTERS[config["resample"]]
    size, crop = config.get("size"), _square(config.get("crop_size"))
    edge = size.get("shortest_edge") if isinstance(size, dict) else size
    cropped = config.get("do_center_crop", crop is not None)
    if not config.get("do_resize", True):
        return found
    if edge and config.get("crop_pct"):
        small = edge < 384
        return found | {
            "resize": int(edge / config["crop_pct"]) if small else [edge] * 2,
            "crop": edge,
        }
    if sides := _square(size) if isinstance(size, dict) else None if cropped else size:
        return found | {"resize": [sides] * 2, "crop": crop if cropped else sides}
    return found | {"resize": edge, "crop": crop} if edge and cropped else found


def _square(size: Any) -> int | None:
    """Return the side of a square: a number, or an object with equal height and width."""
    if isinstance(size, dict):
        height: int | None = size.get("height")
        return height if height == size.get("width") else None
    return size if isinstance(size, int) else None


def _expect_valid(found: Settings) -> None:
    """Raise an exception if the configuration could not state these settings."""
    import jsonschema

    rules = yaml.safe_load((PACKAGE / "config.schema.yaml").read_text(encoding="utf-8"))
    system = rules["properties"]["models"]["additionalProperties"]
    own = {**system["properties"]["preprocessing"], "$defs": rules["$defs"]}
    for error in jsonschema.Draft202012Validator(own).iter_errors(found):
        key = ".".join(map(str, error.absolute_path))
        raise ValueError(f"{key} is {error.instance!r}")


def _no_number(text: str) -> float:
    raise ValueError(f"found {text}, expected a finite number")
