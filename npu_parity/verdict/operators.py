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
IDENTICAL = "the result is the reference's"
COLUMNS = (  # of operators.csv
    *("index", "module", "operator", "shapes", "max_error_of_bound", "mean_error_of_bound"),
    *("max_error_of_predicted", "rms_z", "max_z", "result", "note"),
)


@dataclass(frozen=True)
class OperatorResult:
    """The error of one operator on the device, compared with its bound.

    Attributes:
        shapes: shapes of the tensor operands, e.g. ``1x3x224x224 64x3x7x7``.
        largest_error, mean_error: over all elements, as a share of each element's bound; NaN if
            nothing was compared, or if the note is `IDENTICAL`. If only a sharper test failed, the
            largest error is a share of the limit of that test. So an operator passes at 1 or below.
        passed: None if nothing was compared, because no bound is known or there are no values.
        worst: index of the worst element in its tensor; empty if all elements are equal.
        note: why the operator did not pass, that two runs differ, or that the result is exactly
            the reference's (`IDENTICAL`).
        predicted_error: largest error of a product against the product of rounded operands, as a
            share of the bound of the float32 sum.
        rms_z, largest_z: error of a product in standard deviations of random rounding; the root
            mean square and the largest. All three are NaN if the test was not made.
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
    predicted_error: float = math.nan
    rms_z: float = math.nan
    largest_z: float = math.nan

    def row(self) -> dict[str, Any]:
        """Return the row of ``operators.csv``, by column."""
        result = {True: "PASS", False: "FAIL", None: ""}[self.passed]
        named = (self.index, self.module, self.operator, self.shapes)
        errors = (self.largest_error, self.mean_error, self.predicted_error)
        values = (*named, *errors, self.rms_z, self.largest_z, result, self.note)
        return dict(zip(COLUMNS, values, strict=True))

    @classmethod
    def read(cls, path: Path) -> "list[OperatorResult]":
        """Read ``operators.csv``."""
        text = evidence.read_bytes(path).decode("utf-8")
        return [cls.from_row(row) for row in csv.DictReader(io.StringIO(text, newline=""))]

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "OperatorResult":
        """Read a row of ``operators.csv``. The row does not contain the worst element."""

        def number(column: str) -> float:
            return float(row.get(column) or math.nan)

        return cls(
            index=int(row["index"]),
            module=row["module"],
            operator=row["operator"],
            shapes=row["shapes"],
            largest_error=number("max_error_of_bound"),
            mean_error=number("mean_error_of_bound"),
            passed={"PASS": True, "FAIL": False, "": None}[row["result"]],
            worst=(),
            note=row["note"],
            predicted_error=number("max_error_of_predicted"),
            rms_z=number("rms_z"),
            largest_z=number("max_z"),
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
