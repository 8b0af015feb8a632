"""Ask each hub once whether it answers: hubs.json."""

from pathlib import Path
from typing import Annotated

import typer

from npu_parity import cli, evidence, hubs


def main(
    output: Annotated[Path, typer.Option(help="hubs.json")],
    names: Annotated[list[str], typer.Argument(help="modelscope, huggingface")],
) -> None:
    """Write why each of NAMES that cannot be reached cannot."""
    reasons = {name: hubs.reachable(name) for name in names}
    unreachable = {name: reason for name, reason in reasons.items() if reason}
    evidence.write_json(output, {"asked": names, "unreachable": unreachable})


if __name__ == "__main__":
    cli.run(main)
