"""Print the summary of a finished run, and the paths of all other results."""

from pathlib import Path
from typing import Annotated

import typer

from npu_parity import cli, evidence
from npu_parity.report.summary import brief, failures


def main(summary: Annotated[Path, typer.Argument(help="results/summary.json")]) -> None:
    """Print the summary as plain text."""
    found = evidence.read_json(summary)
    print(f"\n{brief(found['rows'])}\n")
    for line in failures(found["rows"]):
        print(line)
    for device, reason in found["left_out"].items():
        print(f"{device} is left out: {reason}.")
    print(
        f"The page: {summary.parent}/report.html. Tables: {summary.parent}/tables/. All figures: "
        f"{summary}. Arrays and their hashes: {summary.parent}/SYSTEM/DEVICE/RUN/."
    )


if __name__ == "__main__":
    cli.run(main)
