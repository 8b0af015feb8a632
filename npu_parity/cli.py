"""Turn a typed function into a command line, and a user's mistake into one line."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from npu_parity.backends import environment
from npu_parity.backends.device import Device as _Device
from npu_parity.errors import ParityError
from npu_parity.evidence import manifest
from npu_parity.evidence.code import digest

# Options that every program takes: the hash of its code, and those of the user's files it reads.
CODE, READS = "--code=", "--reads="
# Options that change no result.
NO_RESULT = (CODE, "--threads=", "--output=")


def run(main: Callable[..., None] | typer.Typer) -> None:
    """Run `main` with the arguments of the command line. A user's mistake prints one line, exit 1.

    The same applies if torch cannot be imported because of torch_npu; see `environment.guarded`.
    """
    arguments = sys.argv[1:]
    code = next((a.removeprefix(CODE) for a in arguments if a.startswith(CODE)), "")
    options = [a for a in arguments if not a.startswith(NO_RESULT)]
    sys.argv[1:] = [a for a in arguments if not a.startswith((CODE, READS))]
    script = Path(sys.argv[0])
    if not code and script.suffix == ".py":  # started by hand
        code = digest(script)
    try:
        with environment.guarded(), manifest.job(script.stem, code, options):
            main() if isinstance(main, typer.Typer) else typer.run(main)
    except ParityError as error:
        print(f"error: {error}", file=sys.stderr)
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
    found = _Device.from_dict({"backend": "", **settings})
    found.implementation  # noqa: B018  (an unknown backend is an error here)
    return found


# Common options of the programs that the rules run.
Weights = Annotated[Path, typer.Option(help="folder with weights.safetensors and its sidecar")]
Inputs = Annotated[Path, typer.Option(help="inputs.npy, in the same folder as its sidecar")]
Device = Annotated[_Device, typer.Option(parser=device, help="a backend, or JSON with more")]
Ported = Annotated[str, typer.Option(help="the port's own architecture, if it has one")]
Exported = Annotated[Path | None, typer.Option(help="the exported network, with its sidecar")]
Threads = Annotated[int, typer.Option(help="CPU threads; at most one for each CPU")]
