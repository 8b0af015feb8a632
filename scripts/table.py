"""Write a system's tables: results/tables/SYSTEM.md."""

from pathlib import Path
from typing import Annotated

import typer

from npu_parity import cli, evidence
from npu_parity.report import results, tables


def main(
    runs: Annotated[list[str], typer.Argument(help="the reference first, e.g. cpu/measured")],
    folder: Annotated[Path, typer.Option(help="results/SYSTEM")],
    output: Annotated[Path, typer.Option(help="the Markdown file")],
    system: Annotated[dict, typer.Option(parser=cli.mapping, help="its configuration")],
) -> None:
    """Write the tables that the configuration of the system lists."""
    described = results.describe(folder, runs, system)
    evidence.write_text(output, tables.report(described, system["tables"]))


if __name__ == "__main__":
    cli.run(main)
