"""Write Snakemake's graph of rules as a Mermaid picture that is the same every time.

snakemake --cores 1 --rulegraph mermaid-js all | python scripts/rulegraph.py docs/rulegraph.md
"""

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from npu_parity import cli, evidence


def main(output: Annotated[Path, typer.Argument(help="the Markdown file")]) -> None:
    """Name the nodes by their rules, order the edges, leave out the target that has them all."""
    graph = sys.stdin.read()
    names = dict(re.findall(r"^\s*(id\d+)\[(\w+)\]", graph, re.MULTILINE))
    edges = {(names[a], names[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", graph)}
    lines = sorted(f"    {a} --> {b}" for a, b in edges if b != "all")
    evidence.write_text(output, "\n".join(["```mermaid", "flowchart LR", *lines, "```", ""]))


if __name__ == "__main__":
    cli.run(main)
