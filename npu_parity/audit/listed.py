"""The figures of a published report as somebody copied them into a YAML file.

``figures.schema.yaml`` has the keys. Every value counts as it is written, with all its digits.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from npu_parity.audit import claims
from npu_parity.audit.claims import Claims
from npu_parity.audit.consistency import Facts
from npu_parity.audit.figures import LABELS, Figure, Report, interval
from npu_parity.evidence import document
from npu_parity.evidence.document import Document, Place, dotted
from npu_parity.evidence.schema import explain

SUFFIXES = (".yaml", ".yml")
SIDE = re.compile(r"(cpu|npu)_")


def read(path: Path) -> tuple[Report, Claims]:
    """Return the figures and the claims in a YAML file.

    Raises:
        ParityError: the file cannot be read, is not YAML, or violates the schema.
    """
    found = document.read(path, as_written=True)
    error = jsonschema.exceptions.best_match(
        jsonschema.Draft202012Validator(schema()).iter_errors(found.data)
    )
    if error:
        raise explain(error, found)
    values = dict(_values(found.data))
    text = "\n".join(f"{dotted(place)}: {value}" for place, value in values.items() if value)
    report = Report(text, figures=list(_figures(found)))
    data, tables = found.data, found.data.get("tables", [])
    rows = [row for table in tables for row in table.values()]
    classes = [
        [row[key] for row in table.values() if row.get(key)]
        for table in tables
        for key in ("cpu_top1", "npu_top1")
    ]
    count = {key: int(data[key]) if key in data else None for key in ("outputs", "inputs")}
    said = Claims(
        facts=Facts(**count),
        features=data.get("task") == "features",
        ranked=any(key.startswith("top") for row in [data["figures"], *rows] for key in row),
        random=f"weights: {data['weights']}" if data.get("weights") == "random" else "",
        classes=classes,
        scores=[(figure.low, figure.high) for figure in report.named("top1_score")],
        unfilled=list(_unfilled(found, values)),
    )
    return report, said


@cache
def schema() -> dict[str, Any]:
    """Return the schema of the file (``figures.schema.yaml``)."""
    text = Path(__file__).with_name("figures.schema.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def _values(data: Any, place: Place = ()) -> Iterator[tuple[Place, str]]:
    """Yield every text with its place."""
    if isinstance(data, str):
        yield place, data
        return
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        yield from _values(value, (*place, key))


def _figures(found: Document) -> Iterator[Figure]:
    """Yield all figures. Those of a row share its number, and those of a table its number."""
    yield from _in_row(found, ("figures",), found.data["figures"])
    row = 0
    for table, rows in enumerate(found.data.get("tables", [])):
        for scope, figures in rows.items():
            row += 1
            place = ("tables", table, scope)
            yield from _in_row(found, place, figures, scope, row, table + 1)


def _in_row(
    found: Document,
    place: Place,
    figures: dict[str, str],
    scope: str = "",
    row: int = 0,
    table: int = 0,
) -> Iterator[Figure]:
    for key, text in figures.items():
        line = found.lines[(*place, key)] or 0
        side = match[1] if (match := SIDE.match(key)) else ""
        name = key.removeprefix(f"{side}_")
        value, _, deviation = text.partition("±")
        for label, part in ((name, value), ("deviation", deviation)):
            if name in LABELS and (bounds := interval(part)):
                inside = "" if side else scope
                yield Figure(label, part.strip(), *bounds, line, side, inside, row, table)


def _unfilled(found: Document, values: dict[Place, str]) -> Iterator[str]:
    for place, value in values.items():
        line = f"line {found.lines[place]}"
        if re.fullmatch(claims.VARIABLE, value):
            yield f"{line}: {value} is a variable without its value"
        elif not value:
            yield f"{line}: {place[-1]} is blank"
