"""Print one line for each run, and fail if a measured run fails."""

from pathlib import Path
from typing import Annotated

import typer

from npu_parity import cli, evidence
from npu_parity.errors import ParityError


def main(
    metrics: Annotated[list[Path], typer.Argument(help="metrics.json of runs")],
) -> None:
    """Print the verdict of every run; exit 1 if a verdict is FAIL."""
    runs = {path: evidence.read_json(path) for path in metrics}
    lines = {path: f"{path.parent}: {found['verdict_line']}" for path, found in runs.items()}
    failed = [lines[path] for path, found in runs.items() if found["verdict"] == "FAIL"]
    print("\n".join(lines.values()))
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise ParityError(f"{failed[0]}{more}")


if __name__ == "__main__":
    cli.run(main)
