"""Write every threshold of the verdict and every bound, with reasons, as Markdown."""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from npu_parity import cli, evidence

OPENING = """# What the verdict decides by

Made by `make docs` from the modules that decide; not to be edited.

## Thresholds
"""
BOUNDS = """## Bounds of operators

How far an element may lie from its exact value, in float64. U is the unit roundoff of float32, u
that of the format to which the device rounds operands, n the number of terms of a sum;
[`bounds/`](../npu_parity/bounds) says the rest. Data movement, selection and comparison must
be equal.
"""


def main(output: Annotated[Path, typer.Argument(help="the Markdown file")]) -> None:
    """Take the numbers and the reasons from the modules that decide by them."""
    from npu_parity.report import tables
    from npu_parity.verdict import metrics, questions, thresholds
    from npu_parity.verdict.bounds import arithmetic, rules

    rows = (
        {
            "Question": str(value.question),
            "Threshold": f"`{name}`",
            "Value": f"{value:.4g}",
            "Decides": value.decides,
            "Why": value.reason,
        }
        for name, value in thresholds.of(arithmetic, metrics, questions).items()
    )
    held = (
        {"Operators": ", ".join(f"`{name}`" for name in names), "Bound": text}
        for text, names in rules.described().items()
    )
    listed = [tables.markdown(pd.DataFrame(part)) for part in (rows, held)]
    evidence.write_text(output, "\n".join([OPENING, listed[0], "", BOUNDS, listed[1], ""]))


if __name__ == "__main__":
    cli.run(main)
