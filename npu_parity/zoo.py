"""Write a configuration with a system for each network of timm or torchvision that fits a pattern.

The networks have seeded weights, and nothing is executed on a device: the runs predict what each
arithmetic does to each network. Networks are built on torch's device "meta", without memory for
weights, so a look at hundreds of them is cheap.
"""

import difflib
import fnmatch
import inspect
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.progress import track

from npu_parity import config, evidence
from npu_parity.errors import ParityError, shorten
from npu_parity.sources import architectures
from npu_parity.sources.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import nn

FORM = "timm:PATTERN or torchvision:PATTERN, such as timm:mobilenetv3*"
PATTERN = re.compile(r"(?P<library>timm|torchvision):(?P<glob>[\w*?\[\]!-]+)")
WEIGHTS = ["seed:42"]
INPUTS = ["skimage:chelsea", "skimage:coffee"]
# For each arithmetic of products, a backend that has it.
ARITHMETIC = {"hf32": "npu", "tf32": "cuda", "fp16": "npu", "bf16": "cpu"}
# Systems of a run. Linux allows 128 KiB for one argument of a program, and the settings of all
# systems are one argument of the program that writes the summary.
MOST = 600
# The task of torchvision's networks by a part of their module's name. None: they take no images.
TASKS = {
    "detection": "features",
    "segmentation": "segmentation",
    "video": None,
    "optical_flow": None,
}


@dataclass(frozen=True)
class Network:
    """A network that is built on "meta".

    Attributes:
        architecture: ``timm:NAME`` or ``torchvision:NAME``.
        arguments: those that it needs to be built without weights.
        family: the module that defines it.
        parameters: their number.
    """

    architecture: str
    arguments: dict[str, Any]
    family: str
    parameters: int

    @property
    def system(self) -> str:
        """The name of its system, a name that the configuration accepts."""
        return re.sub(r"\W", "_", self.architecture)


@dataclass(frozen=True)
class Zoo:
    """The systems of a configuration.

    Attributes:
        systems: their settings by name, the smallest network first.
        left_out: why a network that fits the patterns has no system, by architecture.
    """

    systems: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def write(
    patterns: Sequence[str], path: str | Path, number: int | None = None, each: int | None = None
) -> Zoo:
    """Write a new configuration with a system for each network that fits; see `find`.

    Raises:
        ParityError: the file exists, a pattern fits no network, or no network can be run.
    """
    path = Path(path)
    if path.exists() or path.is_symlink():
        raise ParityError(f"{path}: exists already; give another --to, or remove it")
    zoo = find(patterns, number, each)
    if not zoo.systems:
        name, reason = next(iter(zoo.left_out.items()))
        more = f" (and {len(zoo.left_out) - 1} more)" if len(zoo.left_out) > 1 else ""
        raise ParityError(f"no network is left; {name}: {reason}{more}")
    about = f"# Written by: npu-parity zoo {' '.join(map(repr, patterns))}"
    options = {"number": number, "each": each}
    about += "".join(f" --{name} {value}" for name, value in options.items() if value is not None)
    text = yaml.safe_dump(whole(zoo.systems), sort_keys=False, default_flow_style=None, width=100)

    def save(partial: Path) -> None:
        partial.write_text(f"{about}\n\n{text}", encoding="utf-8")
        config.load(partial)

    evidence.write(path, save)
    return zoo


def whole(systems: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return a configuration of `systems` that predicts each arithmetic and measures no time.

    It keeps no weights and no inputs, because both can be made again.
    """
    predicted = {
        form: {"backend": backend, "numerics": {"conv": form, "matmul": form}, "measure": "never"}
        for form, backend in ARITHMETIC.items()
    }
    return {
        "reference": "cpu",
        "devices": {"cpu": {"backend": "cpu"}, **predicted},
        "latency": {"batch_sizes": []},
        "keep_large": False,
        "models": systems,
    }


def find(patterns: Sequence[str], number: int | None = None, each: int | None = None) -> Zoo:
    """Return a system for each network that fits a pattern and can be run on photographs.

    Args:
        patterns: such as ``timm:mobilenetv3*``.
        number: the largest number of systems; the smallest networks stay.
        each: the largest number of systems of each module of timm or torchvision.

    Raises:
        ParityError: a pattern has another form, or fits no network; or more than `MOST` fit.
    """
    zoo = Zoo()
    networks: list[Network] = []
    fitting = matching(patterns)
    if number is None and each is None and len(fitting) > MOST:
        raise _too_many(len(fitting))
    for architecture in _watched(fitting):
        try:
            networks.append(built(architecture))
        except ParityError as error:
            zoo.left_out[architecture] = _reason(architecture, error)
    families: Counter[str] = Counter()
    for network in sorted(networks, key=lambda n: (n.parameters, n.architecture)):
        if families[network.family] == each:
            continue
        if len(zoo.systems) == number:
            break
        if len(zoo.systems) == MOST:
            raise _too_many(len(networks))
        try:
            zoo.systems[network.system] = settings(network)
        except ParityError as error:
            zoo.left_out[network.architecture] = _reason(network.architecture, error)
        else:
            families[network.family] += 1
    return zoo


def _watched(architectures: Sequence[str]) -> Iterable[str]:
    """Show on a terminal how many networks are built: all of timm take minutes."""
    console = Console(stderr=True)
    hidden = not console.is_terminal
    return track(
        architectures, "Building networks", console=console, transient=True, disable=hidden
    )


def _too_many(found: int) -> ParityError:
    return ParityError(
        f"{found} networks fit, and a configuration has at most {MOST}: give --number or --each"
    )


def matching(patterns: Sequence[str]) -> list[str]:
    """Return the architectures that fit any of the patterns, each once.

    Raises:
        ParityError: a pattern has another form, or fits no network.

    >>> matching(["torchvision:resnet1*", "torchvision:resnet18"])
    ['torchvision:resnet101', 'torchvision:resnet152', 'torchvision:resnet18']
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        parsed = PATTERN.fullmatch(pattern)
        if parsed is None:
            raise ParityError(f"pattern {shorten(repr(pattern), 80)}: expected {FORM}")
        library = parsed["library"]
        names = _names(library)
        fitting = fnmatch.filter(names, parsed["glob"])
        if not fitting:
            close = difflib.get_close_matches(re.sub(r"\W", "", parsed["glob"]), names, n=3)
            hint = f"; the nearest names are {', '.join(close)}" if close else ""
            raise ParityError(f"pattern {pattern}: {library} has no such network{hint}")
        found |= dict.fromkeys(f"{library}:{name}" for name in fitting)
    return list(found)


def built(architecture: str) -> Network:
    """Return a network after it was built on "meta".

    Raises:
        ParityError: it cannot be built, or takes no images.
    """
    family, builder = _family(architecture)
    if _task(family) is None:
        raise ParityError("its inputs are no single images")
    without = {"weights_backbone": None}
    arguments = without if without.keys() <= inspect.signature(builder).parameters.keys() else {}
    model = _on_meta(architecture, arguments)
    return Network(architecture, arguments, family, architectures.parameters(model))


def settings(network: Network) -> dict[str, Any]:
    """Return the settings of the system of a network.

    Raises:
        ParityError: a classifier does not accept one image of its own size.
    """
    found: dict[str, Any] = {"architecture": network.architecture}
    if network.arguments:
        found["arguments"] = network.arguments
    found |= {"weights": list(WEIGHTS), "inputs": list(INPUTS)}
    task = _task(network.family)
    if task == "classification" and not _classifies(network):
        task = "features"
    return found if task == "classification" else found | {"task": task}


def _classifies(network: Network) -> bool:
    """Run a network on "meta"; return whether its outputs are scores of classes."""
    import torch

    shape = Preprocessing(network.architecture).shape
    model = _on_meta(network.architecture, network.arguments)
    with torch.no_grad(), torch.device("meta"):
        try:
            scores = model(torch.empty(1, *shape))
        except Exception as error:  # networks raise anything
            text = f"does not run on an image {shape} on torch's device meta: {error}"
            raise ParityError(text) from None
    if not isinstance(scores, torch.Tensor):
        raise ParityError(f"returns {type(scores).__name__}, expected one tensor")
    return scores.ndim == 2 and getattr(model, "num_classes", 1) != 0


def _on_meta(architecture: str, arguments: dict[str, Any]) -> "nn.Module":
    import torch

    with torch.device("meta"):
        return architectures.build(architecture, dict(arguments))


def _names(library: str) -> list[str]:
    import timm
    import torchvision

    listing = {"timm": timm.list_models, "torchvision": torchvision.models.list_models}
    return sorted(listing[library]())


def _family(architecture: str) -> tuple[str, Any]:
    """Return the name of the module that defines a network, and the function that builds it."""
    import timm
    import torchvision

    library, _, name = architecture.partition(":")
    find_builder = {
        "timm": timm.model_entrypoint,
        "torchvision": torchvision.models.get_model_builder,
    }
    builder = find_builder[library](name)
    return builder.__module__, builder


def _task(family: str) -> str | None:
    if not family.startswith("torchvision."):
        return "classification"
    parts = family.split(".")
    return next((task for part, task in TASKS.items() if part in parts), "classification")


def _reason(architecture: str, error: ParityError) -> str:
    return shorten(str(error).removeprefix(f"architecture {architecture}: "), 160)


def lines(zoo: Zoo) -> Iterator[str]:
    """Yield a line for each network that is left out, with the reason."""
    for architecture, reason in zoo.left_out.items():
        yield f"left out: {architecture}: {reason}"
