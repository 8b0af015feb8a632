"""Write the page of all systems and devices: report.html."""

from pathlib import Path
from typing import Annotated

import typer

from npu_parity import cli, evidence
from npu_parity.report import page, results


def main(
    runs: Annotated[list[str], typer.Argument(help="the reference first, e.g. cpu/measured")],
    folder: Annotated[Path, typer.Option(help="the folder results")],
    systems: Annotated[dict, typer.Option(parser=cli.mapping, help="name: configuration")],
    output: Annotated[Path, typer.Option(help="the page, HTML")],
    left_out: Annotated[dict, typer.Option(parser=cli.mapping, help="device: reason")] = "{}",
) -> None:
    """Write every table and picture into one file that needs no network."""
    described = [
        results.describe(folder / name, runs, settings, results.Traced)
        for name, settings in systems.items()
    ]
    evidence.write_text(output, page.page(described, left_out, page.pictures(described)))


if __name__ == "__main__":
    cli.run(main)
