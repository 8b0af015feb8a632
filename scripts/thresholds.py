"""Write every threshold of the verdict, with its reason, as a Markdown table."""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from npu_parity import cli, evidence

OPENING = """# Every threshold of the verdict

Made by `make docs` from the modules that decide by them; not to be edited. `bounds.py` derives the
bound of each operator from those of question 2.
"""


def main(output: Annotated[Path, typer.Argument(help="the Markdown file")]) -> None:
    """Take the numbers and the reasons from the modules that decide by them."""
    from npu_parity import bounds, metrics, tables, thresholds, verdict  # torch, see `cli.run`

    rows = (
        {
            "Question": str(value.question),
            "Threshold": f"`{name}`",
            "Value": f"{value:.4g}",
            "Decides": value.decides,
            "Why": value.reason,
        }
        for name, value in thresholds.of(bounds, metrics, verdict).items()
    )
    evidence.write_text(output, f"{OPENING}\n{tables.markdown(pd.DataFrame(rows))}\n")


if __name__ == "__main__":
    cli.run(main)
