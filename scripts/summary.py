"""Write the summary over all systems and devices: summary.json and two tables."""

from pathlib import Path
from typing import Annotated

import typer

from npu_parity import cli, evidence
from npu_parity.report import results, summary, switches


def main(
    runs: Annotated[list[str], typer.Argument(help="the reference first, e.g. cpu/measured")],
    folder: Annotated[Path, typer.Option(help="the folder results")],
    systems: Annotated[dict, typer.Option(parser=cli.mapping, help="name: configuration")],
    left_out: Annotated[dict, typer.Option(parser=cli.mapping, help="device: reason")] = "{}",
) -> None:
    """Write every figure in full precision as JSON, and rounded as a Markdown table."""
    described = [results.describe(folder / name, runs, s) for name, s in systems.items()]
    rows, costs = summary.rows(described), switches.table(described)
    evidence.write_sidecar(folder / "summary.json", {"left_out": left_out, "rows": rows})
    evidence.write_text(folder / "tables" / "overview.md", summary.overview(rows))
    evidence.write_text(folder / "tables" / "summary.md", summary.table(rows, left_out, costs))


if __name__ == "__main__":
    cli.run(main)
