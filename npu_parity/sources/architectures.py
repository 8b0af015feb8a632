"""From a name in the configuration to a network: timm, torchvision, or a file of one's own."""

import difflib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npu_parity import evidence
from npu_parity.errors import ParityError

if TYPE_CHECKING:  # planning a run asks for file names only, and importing torch takes seconds
    from torch import nn


def build(architecture: str, arguments: dict[str, Any] | None = None) -> "nn.Module":
    """Return the network in evaluation mode, float32, with its own initialisation.

    Args:
        architecture: ``timm:NAME``, ``torchvision:NAME`` or ``path/to/file.py:FUNCTION``; a
            path is looked for in the working directory, then in this project.
        arguments: keyword arguments of the builder, e.g. ``{"num_classes": 0}``.

    Raises:
        ParityError: unknown library, model, file, function or argument.

    Seed the generator first (``torch.manual_seed``) where the initialisation matters.

    """
    from torch import nn

    library, _, name = architecture.rpartition(":")
    builder = LIBRARIES[library](name) if library in LIBRARIES else _own(library, name)
    try:
        model = builder(**(arguments or {}))
    except Exception as error:  # libraries raise many kinds for an argument they cannot use
        raise ParityError(
            f"architecture {architecture}: arguments {arguments}: {_reason(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise ParityError(f"architecture {architecture}: returned {kind}, expected nn.Module")
    return model.float().eval()


def parameters(model: "nn.Module") -> int:
    """Return the number of parameters (buffers such as batch-norm statistics not counted)."""
    return sum(parameter.numel() for parameter in model.parameters())


def own_file(architecture: str) -> Path | None:
    """Return the file of an architecture of one's own; None for a library's model."""
    library = architecture.rpartition(":")[0]
    if library in LIBRARIES:
        return None
    return evidence.find(library) or Path(library)


def require_timm(name: str) -> None:
    """Raise ParityError, with the closest names, unless timm has a model `name`."""
    import timm

    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models(), "timm.list_models()")


def _timm(name: str):
    import timm

    require_timm(name)
    return lambda **arguments: timm.create_model(name, pretrained=False, **arguments)


def _torchvision(name: str):
    import torchvision

    if name not in torchvision.models.list_models():
        known = torchvision.models.list_models()
        raise _unknown("torchvision", name, known, "torchvision.models.list_models()")
    return lambda **arguments: torchvision.models.get_model(name, weights=None, **arguments)


# The one list of libraries that architectures come from.
LIBRARIES: dict[str, Callable[[str], Callable[..., Any]]] = {
    "timm": _timm,
    "torchvision": _torchvision,
}


def _own(file: str, function: str):
    path = own_file(f"{file}:{function}")
    if path is None or not path.is_file() or path.suffix != ".py":
        raise ParityError(
            f"architecture {file}:{function}: there is no Python file {file!r}; expected "
            "timm:NAME, torchvision:NAME or path/to/file.py:FUNCTION"
        )
    spec = importlib.util.spec_from_file_location(f"architecture_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ParityError(f"architecture {file}: cannot be imported ({_reason(error)})") from error
    if not callable(getattr(module, function, None)):
        raise ParityError(f"architecture {file}: has no function {function!r}")
    return getattr(module, function)


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _unknown(library: str, name: str, known: list[str], listing: str) -> ParityError:
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {', '.join(close)}?" if close else f"see {listing}"
    return ParityError(f"architecture {library}:{name}: {library} has no model {name!r}; {hint}")
