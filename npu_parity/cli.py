"""Turn a typed function into a command line, and a user's mistake into one line."""

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
    """Run `main` with the arguments of the command line. A user's mistake prints one line, exit 1.

    The same applies if torch cannot be imported because torch_npu does not find CANN.
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
            "TORCH_DEVICE_BACKEND_AUTOLOAD=0 to continue without the NPU",
            file=sys.stderr,
        )
        sys.exit(1)


def mapping(text: str) -> dict[str, Any]:
    """Parse an option with a JSON object, such as ``--arguments '{"num_classes": 0}'``."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise typer.BadParameter(f"expected a JSON object, found {text!r}")
    return value


def device(text: str) -> _Device:
    """Parse a device: ``cpu``, or ``'{"backend": "npu", "numerics": {"conv": "hf32"}}'``."""
    settings: dict[str, Any] = mapping(text) if text.startswith("{") else {"backend": text}
    found = _Device(settings.get("backend", ""), Numerics.from_dict(settings.get("numerics", {})))
    found.implementation  # noqa: B018  (an unknown backend is an error here)
    return found


def _code() -> str:
    return digest(sys.argv[0])


# Common options of the programs that the rules run.
Weights = Annotated[Path, typer.Option(help="folder with weights.safetensors and its sidecar")]
Inputs = Annotated[Path, typer.Option(help="inputs.npy, in the same folder as its sidecar")]
Device = Annotated[_Device, typer.Option(parser=device, help="a backend, or JSON with numerics")]
Ported = Annotated[str, typer.Option(help="the port's own architecture, if it has one")]
Threads = Annotated[int, typer.Option(help="CPU threads; at most one for each CPU")]
Code = Annotated[
    str, typer.Option(default_factory=_code, help="hash of this program's code, for the sidecar")
]
