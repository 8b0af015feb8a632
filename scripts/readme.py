"""Write the tables of this run into README.md and other pages, between their markers."""

from pathlib import Path
from typing import Annotated

import typer

from npu_parity import cli, evidence
from npu_parity.report import readme


def main(
    files: Annotated[list[Path], typer.Argument(help="Markdown files", exists=True)],
    check: Annotated[bool, typer.Option(help="change nothing; fail where tables differ")] = False,
) -> None:
    """Insert the file of each marker, relative to its page, into the pages FILES."""
    for file in files:
        text = file.read_text(encoding="utf-8")
        found = {name: file.parent / name for name in readme.markers(text)}
        contents = {n: p.read_text(encoding="utf-8") for n, p in found.items() if p.is_file()}
        spliced = readme.splice(text, contents)
        if spliced != text and check:
            raise cli.ParityError(f"{file} differs from its tables: run `make docs`")
        if spliced != text:
            evidence.write_text(file, spliced)


if __name__ == "__main__":
    cli.run(main)
