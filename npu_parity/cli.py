"""Command lines: a typed function becomes one, and a user's mistake becomes one line."""

import json
import sys
from collections.abc import Callable

import typer

from npu_parity.errors import ParityError


def run(main: Callable[..., None] | typer.Typer) -> None:
    """Run `main` with the command line's arguments; exit 1 with one line on a ParityError."""
    try:
        main() if isinstance(main, typer.Typer) else typer.run(main)
    except ParityError as error:
        print(f"error: {error}", file=sys.stderr)
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
