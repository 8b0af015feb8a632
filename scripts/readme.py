"""Write the tables of this run into README.md, between its markers."""

from pathlib import Path
from typing import Annotated

import typer

from npu_parity import cli, evidence
from npu_parity.report import readme


def main(
    file: Annotated[Path, typer.Argument(help="the Markdown file", exists=True)] = Path(
        "README.md"
    ),
    check: Annotated[bool, typer.Option(help="change nothing; fail where tables differ")] = False,
) -> None:
    """Splice each file that a marker of FILE names, relative to FILE, into it."""
    text = file.read_text(encoding="utf-8")
    found = {name: file.parent / name for name in readme.markers(text)}
    contents = {n: p.read_text(encoding="utf-8") for n, p in found.items() if p.is_file()}
    spliced = readme.splice(text, contents)
    if spliced == text:
        return
    if check:
        raise cli.ParityError(f"{file} differs from its tables: run scripts/readme.py")
    evidence.write_text(file, spliced)


if __name__ == "__main__":
    cli.run(main)
