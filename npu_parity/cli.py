"""Command lines: a typed function becomes one, and a user's mistake becomes one line."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from npu_parity.errors import ParityError, first_line


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
        reason = first_line(error.__cause__)
        print(
            f"error: torch cannot load torch_npu ({reason}); source CANN's set_env.sh, or set "
            "TORCH_DEVICE_BACKEND_AUTOLOAD=0 to go on without the NPU",
            file=sys.stderr,
        )
        sys.exit(1)


def mapping(text: str) -> dict:
    """Parse an option that is a JSON object, such as ``--arguments '{"num_classes": 0}'``."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise typer.BadParameter(f"expected a JSON object, found {text!r}")
    return value


# What the programs that run a network have in common.
Weights = Annotated[Path, typer.Option(help="with weights.safetensors and its sidecar")]
Inputs = Annotated[Path, typer.Option(help="inputs.npy, its sidecar beside it")]
Backend = Annotated[str, typer.Option(help="cpu, npu, cuda, xpu or mps")]
Numerics = Annotated[dict, typer.Option(parser=mapping, help="format by kind of operator")]
Ported = Annotated[str, typer.Option(help="the port's own architecture, if it has one")]
Threads = Annotated[int, typer.Option(help="of the CPU; at most the CPUs there are")]
