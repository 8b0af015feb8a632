"""Write a system's card in each language: card.md and card.zh.md."""

from pathlib import Path
from typing import Annotated

import typer

from npu_parity import cli, evidence
from npu_parity.report import about, cards, results


def main(
    runs: Annotated[list[str], typer.Argument(help="the reference first, e.g. cpu/measured")],
    folder: Annotated[Path, typer.Option(help="results/SYSTEM")],
    system: Annotated[dict, typer.Option(parser=cli.mapping, help="its configuration")],
) -> None:
    """Write the cards into the folder of the system."""
    described = results.describe(folder, runs, system)
    texts = about.of(system)
    written = {name: cards.body(described, texts, lang) for lang, name in cards.FILES.items()}
    for name, text in written.items():
        evidence.write_text(folder / name, text)


if __name__ == "__main__":
    cli.run(main)
