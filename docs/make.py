"""Write the pages of the documentation that are made from the code.

``python docs/make.py thresholds`` writes docs/thresholds.md, and so on. ``make docs`` writes all.
"""

import contextlib
import inspect
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import docstring_parser
import pandas as pd
import typer

import npu_parity
from npu_parity import cli, evidence

DOCS = Path(__file__).parent
MADE = "Made by `make docs` from the code. Do not edit it."
Output = Annotated[Path, typer.Option(help="the Markdown file")]
app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

THRESHOLDS = f"""# What the verdict decides by

{MADE}

## Thresholds
"""
BOUNDS = """## Bounds of operators

A bound is the largest allowed difference between an element and its exact value y, which is
computed in float64. x is the first operand. U is the unit roundoff of float32. u is the unit
roundoff of the format to which the device rounds operands. n is the number of terms of a sum. The
other names are thresholds above. Most bounds also allow `TINY` for underflow. Results of data
movement, selection and comparison must be equal. The
[sources](../npu_parity/verdict/bounds/__init__.py) explain each bound.
"""
API = f"""# The Python interface

{MADE}

Import everything from `npu_parity`. The tests run every example below after

```python
import copy

import numpy as np
import torch
from torch import nn

from npu_parity import *
```
"""


@app.command()
def thresholds(output: Output = DOCS / "thresholds.md") -> None:
    """List every threshold of the verdict and the bound of every operator, with the reasons."""
    from npu_parity.report import tables
    from npu_parity.verdict import metrics, questions, statistic, stored, thresholds
    from npu_parity.verdict.bounds import arithmetic, rules

    listed = (
        {
            "Question": str(value.question),
            "Threshold": f"`{name}`",
            "Value": f"{value:.4g}",
            "Meaning": value.decides,
            "Reason": value.reason,
        }
        for name, value in thresholds.of(arithmetic, metrics, questions, statistic, stored).items()
    )
    bounds = (
        {"Operators": ", ".join(f"`{name}`" for name in names), "Bound": text}
        for text, names in rules.described().items()
    )
    parts = [tables.markdown(pd.DataFrame(rows)) for rows in (listed, bounds)]
    evidence.write_text(output, "\n".join([THRESHOLDS, parts[0], "", BOUNDS, parts[1], ""]))


@app.command()
def rulegraph(output: Output = DOCS / "rulegraph.md") -> None:
    """Draw the rules, from what Snakemake prints.

    snakemake --cores 1 --rulegraph mermaid-js all | python docs/make.py rulegraph
    """
    graph = sys.stdin.read()
    names = dict(re.findall(r"^\s*(id\d+)\[(\w+)\]", graph, re.MULTILINE))
    edges = {(names[a], names[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", graph)}
    lines = sorted(f"    {a} --> {b}" for a, b in edges if b != "all")
    evidence.write_text(output, "\n".join(["```mermaid", "flowchart LR", *lines, "```", ""]))


@app.command()
def api(output: Output = DOCS / "api.md") -> None:
    """Describe the public interface, from its docstrings."""
    parts = [API]
    for name in npu_parity._HOMES:
        found = getattr(npu_parity, name)
        parts.append(f"## {name}\n")
        if not callable(found):
            parts += [f"- `{key!r}`: `{value!r}`" for key, value in found.items()] + [""]
            continue
        parts += described(found, name)
        if inspect.isclass(found) and not issubclass(found, Exception):
            for method, function in vars(found).items():
                function = getattr(function, "__func__", function)
                if not method.startswith("_") and inspect.isfunction(function):
                    parts += [f"### {name}.{method}\n", *described(function, f"{name}.{method}")]
    evidence.write_text(output, "\n".join(parts).rstrip() + "\n")


def described(found: Any, name: str) -> list[str]:
    """Return the signature and the docstring of a function or class as Markdown."""
    text, marker, example = (inspect.getdoc(found) or "").partition(">>>")
    doc = docstring_parser.parse(text, docstring_parser.Style.GOOGLE)
    parts = [(doc.description or "").strip(), ""]
    with contextlib.suppress(ValueError):  # an exception has no signature
        parts = [f"`{name}({', '.join(inspect.signature(found).parameters)})`", "", *parts]
    for meta in doc.meta:
        about = " ".join((meta.description or "").split())
        match meta:
            case docstring_parser.DocstringParam():
                parts.append(f"- `{meta.arg_name}`: {about}")
            case docstring_parser.DocstringReturns():
                parts.append(f"- Returns: {about}")
            case docstring_parser.DocstringRaises():
                parts.append(f"- Raises `{meta.type_name}`: {about}")
    if example:
        parts += ["", "```pycon", (marker + example).strip(), "```"]
    return [*parts, ""]


if __name__ == "__main__":
    cli.run(app)
