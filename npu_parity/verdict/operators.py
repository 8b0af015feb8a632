"""The result of question 2 for each operator: a row of ``operators.csv``."""

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from npu_parity import evidence

NO_BOUND = "no bound is known"
COLUMNS = (  # of operators.csv
    *("index", "module", "operator", "shapes", "max_error_of_bound", "mean_error_of_bound"),
    *("result", "note"),
)


@dataclass(frozen=True)
class OperatorResult:
    """The error of one operator on the device, compared with its bound.

    Attributes:
        shapes: shapes of the tensor operands, e.g. ``1x3x224x224 64x3x7x7``.
        largest_error, mean_error: over all elements, as a share of each element's bound; NaN if
            nothing was compared.
        passed: None if nothing was compared, because no bound is known or there are no values.
        worst: index of the worst element in its tensor; empty if all elements are equal.
        note: why the operator did not pass.
    """

    index: int
    module: str
    operator: str
    shapes: str
    largest_error: float
    mean_error: float
    passed: bool | None
    worst: tuple[int, ...]
    note: str

    def row(self) -> dict[str, Any]:
        """Return the row of ``operators.csv``, by column."""
        result = {True: "PASS", False: "FAIL", None: ""}[self.passed]
        named = (self.index, self.module, self.operator, self.shapes)
        values = (*named, self.largest_error, self.mean_error, result, self.note)
        return dict(zip(COLUMNS, values, strict=True))

    @classmethod
    def read(cls, path: Path) -> "list[OperatorResult]":
        """Read ``operators.csv``."""
        text = evidence.read_bytes(path).decode("utf-8")
        return [cls.from_row(row) for row in csv.DictReader(io.StringIO(text, newline=""))]

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "OperatorResult":
        """Read a row of ``operators.csv``. The row does not contain the worst element."""
        return cls(
            index=int(row["index"]),
            module=row["module"],
            operator=row["operator"],
            shapes=row["shapes"],
            largest_error=float(row["max_error_of_bound"] or math.nan),
            mean_error=float(row["mean_error_of_bound"] or math.nan),
            passed={"PASS": True, "FAIL": False, "": None}[row["result"]],
            worst=(),
            note=row["note"],
        )


def without_bound(results: Iterable[OperatorResult]) -> dict[str, float]:
    """Return the operators that have no known bound, by name, with their share of the work.

    The share is that of the elements of all operands that the operators read.
    """
    elements: Counter[str] = Counter()
    total = 0
    for r in results:
        size = _elements(r.shapes)
        total += size
        if r.passed is None and r.note.startswith(NO_BOUND):
            elements[r.operator] += size
    return {name: elements[name] / max(total, 1) for name in sorted(elements)}


def _elements(shapes: str) -> int:
    """Return the number of elements of all operands.

    >>> _elements("2x3 4 scalar")
    11
    """
    operands = (shape.replace("scalar", "1") for shape in shapes.split())
    return sum(math.prod(map(int, operand.split("x"))) for operand in operands)
