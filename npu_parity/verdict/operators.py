"""What question 2 found of each operator; a row of ``operators.csv``."""

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NO_BOUND = "no bound is known"
COLUMNS = (  # of operators.csv
    *("index", "module", "operator", "shapes", "max_error_of_bound", "mean_error_of_bound"),
    *("result", "note"),
)


@dataclass(frozen=True)
class OperatorResult:
    """How one operator's result on the device compares with its bound.

    Attributes:
        shapes: of the tensor operands, e.g. ``1x3x224x224 64x3x7x7``.
        largest_error, mean_error: over all elements, as a share of each element's bound; NaN
            where nothing was compared.
        passed: None where nothing was compared: no bound is known, or there are no values.
        worst: index of the worst element in its tensor; empty where all elements are equal.
        note: why it did not pass.
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
        """Return what ``operators.csv`` says of it, by column."""
        result = {True: "PASS", False: "FAIL", None: ""}[self.passed]
        named = (self.index, self.module, self.operator, self.shapes)
        values = (*named, self.largest_error, self.mean_error, result, self.note)
        return dict(zip(COLUMNS, values, strict=True))

    @classmethod
    def read(cls, path: Path) -> "list[OperatorResult]":
        """Read ``operators.csv``."""
        with open(path, newline="", encoding="utf-8") as file:
            return [cls.from_row(row) for row in csv.DictReader(file)]

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "OperatorResult":
        """Read a row of ``operators.csv`` back; it does not say which element is the worst."""
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


def without_bound(results: Iterable[OperatorResult]) -> list[str]:
    """Return the operators that were not checked because no bound is known for them, each once."""
    return sorted({r.operator for r in results if r.passed is None and r.note.startswith(NO_BOUND)})
