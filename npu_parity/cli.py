"""Command lines: a typed function becomes one, and a user's mistake becomes one line."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from npu_parity.backends.device import Device as _Device
from npu_parity.errors import ParityError, first_line
from npu_parity.evidence.code import digest
from npu_parity.numerics.formats import Numerics


def run(main: Callable[..., None] | typer.Typer) -> None:
    """Run `main` with the command line's arguments; a user's mistake is one line and exit 1.

    So is a torch that cannot be imported because torch_npu, which it loads, does not find CANN.
    """
    try:
        main() if isinstance(main, typer.Typer) else typer.run(main)
    except ParityError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except RuntimeError as error:
        if "backend extension: torch_npu" not in str(error):
            raise
        reason = first_line(error.__cause__) if error.__cause__ else "no reason given"
        print(
            f"error: torch cannot load torch_npu ({reason}); source CANN's set_env.sh, or set "
            "TORCH_DEVICE_BACKEND_AUTOLOAD=0 to go on without the NPU",
            file=sys.stderr,
        )
        sys.exit(1)


def mapping(text: str) -> dict[str, Any]:
    """Parse an option that is a JSON object, such as ``--arguments '{"num_classes": 0}'``."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise typer.BadParameter(f"expected a JSON object, found {text!r}")
    return value


def device(text: str) -> _Device:
    """Parse a device: ``cpu``, or ``'{"backend": "npu", "numerics": {"conv": "hf32"}}'``."""
    settings = mapping(text) if text.startswith("{") else {"backend": text}
    found = _Device(settings.get("backend", ""), Numerics.from_dict(settings.get("numerics", {})))
    found.implementation  # noqa: B018  (an unknown backend is an error here)
    return found


def _code() -> str:
    return digest(sys.argv[0])


# What the programs of the rules have in common.
Weights = Annotated[Path, typer.Option(help="folder with weights.safetensors and its sidecar")]
Inputs = Annotated[Path, typer.Option(help="inputs.npy, with its sidecar beside it")]
Device = Annotated[_Device, typer.Option(parser=device, help="a backend, or JSON with numerics")]
Ported = Annotated[str, typer.Option(help="the port's own architecture, if it has one")]
Threads = Annotated[int, typer.Option(help="of the CPU; at most one for each CPU")]
Code = Annotated[
    str, typer.Option(default_factory=_code, help="hash of this program's code, for the sidecar")
]
