"""Draw the error through a system's network: divergence.svg."""

from pathlib import Path
from typing import Annotated

import typer

from npu_parity import cli
from npu_parity.report import figures, results


def main(
    runs: Annotated[list[str], typer.Argument(help="the reference first, e.g. cpu/measured")],
    folder: Annotated[Path, typer.Option(help="results/SYSTEM")],
    output: Annotated[Path, typer.Option(help="the figure, SVG")],
) -> None:
    """Draw all runs of the system into one figure."""
    system = results.System(folder, runs)
    figures.save(figures.divergence(system), output)


if __name__ == "__main__":
    cli.run(main)
