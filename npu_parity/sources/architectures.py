"""From a name in the configuration to a network: timm, torchvision, or the user's own file."""

import difflib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npu_parity import evidence
from npu_parity.backends import network
from npu_parity.errors import ParityError, shorten

if TYPE_CHECKING:  # planning a run needs only file names, and importing torch takes seconds
    from torch import nn


def build(architecture: str, arguments: dict[str, Any] | None = None) -> "nn.Module":
    """Return the network in evaluation mode, float32, with its own initialisation.

    Args:
        architecture: ``timm:NAME``, ``torchvision:NAME`` or ``path/to/file.py:FUNCTION``. A path is
            relative to the working directory, or else to this project.
        arguments: keyword arguments of the builder, e.g. ``{"num_classes": 0}``.

    Raises:
        ParityError: unknown library, model, file, function or argument; or the user's file fails.

    Call ``torch.manual_seed`` first if the initialisation matters. If the user's file calls it, the
    caller sees that (`seeds.draw`); other global state is restored.

    """
    from torch import nn

    library, _, name = architecture.rpartition(":")
    what = shorten(f"architecture {architecture}", 200)
    with network.guarded(what, seed=False):
        builder = LIBRARIES[library](name) if library in LIBRARIES else _own(library, name)
        with network.explained(f"{what}: arguments {arguments}"):
            model = builder(**(arguments or {}))
        if not isinstance(model, nn.Module):
            kind = type(model).__name__
            raise ParityError(f"{what}: returned {kind}, expected nn.Module")
        network.expect_ready(model, what)
        return model.float().eval()


def parameters(model: "nn.Module") -> int:
    """Return the number of parameters, without buffers such as batch-norm statistics."""
    return sum(parameter.numel() for parameter in model.parameters())


def own_file(architecture: str) -> Path | None:
    """Return the file of the user's own architecture; None for a library's model."""
    library = architecture.rpartition(":")[0]
    if library in LIBRARIES:
        return None
    return evidence.find(library) or Path(library)


def require_timm(name: str) -> None:
    """Raise ParityError with the closest names if timm has no model `name`."""
    import timm

    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models(), "timm.list_models()")


def require_torchvision(name: str) -> None:
    """Raise ParityError with the closest names if torchvision has no model `name`."""
    import torchvision

    known = torchvision.models.list_models()
    if name not in known:
        raise _unknown("torchvision", name, known, "torchvision.models.list_models()")


def _timm(name: str) -> Callable[..., Any]:
    import timm

    require_timm(name)
    return lambda **arguments: timm.create_model(name, pretrained=False, **arguments)


def _torchvision(name: str) -> Callable[..., Any]:
    import torchvision

    require_torchvision(name)
    return lambda **arguments: torchvision.models.get_model(name, weights=None, **arguments)


# The only list of libraries of architectures.
LIBRARIES: dict[str, Callable[[str], Callable[..., Any]]] = {
    "timm": _timm,
    "torchvision": _torchvision,
}


def _own(file: str, function: str) -> Callable[..., Any]:
    path = own_file(f"{file}:{function}")
    python = path is not None and path.suffix == ".py"
    if problem := evidence.problem(path or file) if python else "there is no Python file":
        raise ParityError(
            f"{shorten(f'architecture {file}:{function}', 150)}: {problem}; expected "
            "timm:NAME, torchvision:NAME or path/to/file.py:FUNCTION"
        )
    assert path is not None
    spec = importlib.util.spec_from_file_location(f"architecture_{path.stem}", path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses need it
    with network.explained(f"architecture {file}: cannot be imported"):
        spec.loader.exec_module(module)
    builder: Callable[..., Any] | None = getattr(module, function, None)
    if not callable(builder):
        raise ParityError(f"architecture {file}: has no function {function!r}")
    return builder


def _unknown(library: str, name: str, known: list[str], listing: str) -> ParityError:
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {', '.join(close)}?" if close else f"see {listing}"
    return ParityError(f"architecture {library}:{name}: {library} has no model {name!r}; {hint}")
