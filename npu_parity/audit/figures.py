"""The figures in a published report, read from tables, lists, code and JSON, Chinese or English.

A printed number stands for an interval: one unit of its last digit to each side, because reports
round or cut. Times are in ms, and percentages are fractions.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺−", "0123456789-+-")
NUMBER = re.compile(
    r"(?P<digits>[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.(?P<decimals>\d+))?)(?:[eE](?P<e>[-+]?\d+))?"
    r"(?:\s*[×x*]\s*10(?:\^\{?(?P<power>[-+−]?\d+)\}?|(?P<raised>[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)))?"
    r"\s*(?P<unit>%|ms|µs|us|s\b|s(?=±))?"
)
UNITS = {"%": Decimal("0.01"), "s": Decimal(1000), "us": Decimal("0.001"), "µs": Decimal("0.001")}
TIMES = frozenset({"ms", "s", "us", "µs"})

ERROR = r"[ _](?:err|diff)\w*"
# The names of figures; the first that fits counts. `latency` and `throughput` belong to a side.
LABELS: dict[str, re.Pattern[str]] = {
    name: re.compile(pattern, re.IGNORECASE)
    for name, pattern in {
        "prob_max_relative_error": rf"概率最大相对误差|最大概率相对误差|"
        rf"prob\w*[ _]max[ _]rel\w*{ERROR}",
        "prob_max_abs_error": rf"概率最大绝对误差|最大概率绝对误差|"
        rf"prob\w*[ _]max[ _]abs\w*{ERROR}",
        "prob_mean_abs_error": rf"概率平均绝对误差|平均概率绝对误差|"
        rf"prob\w*[ _]mean[ _]abs\w*{ERROR}",
        "relative_l2_error": rf"相对\s*L2\s*(?:范数)?误差|rel\w*[ _]l2{ERROR}",
        "l2_error": rf"L2\s*(?:范数)?(?:差异|误差|距离)|l2{ERROR}|l2[ _]distance",
        "norm": r"参考输出\s*L2\s*范数|reference[ _](?:l2[ _])?norm",
        "max_abs_error": rf"最大绝对误差|最大偏差|max(?:imum)?[ _]abs\w*{ERROR}",
        "mean_abs_error": rf"平均绝对误差|平均偏差|\bMAE\b|mean[ _]abs\w*{ERROR}",
        "mean_cosine": r"平均余弦相似度|mean[ _]cosine(?:[ _]sim\w*)?",
        "cosine": r"余弦相似度|余弦|cosine(?:[ _]sim\w*)?",
        "error_rate": r"误差率|error[ _]rate",
        "speedup": r"加速比|speed-?up|(?<=的)\s*(?=[\d.]+\s*倍)",
        "throughput": r"吞吐量|throughput",
        "batch": r"batch[ _]?size|批大小|批量大小",
        "latency": r"推理耗时|延迟|latency(?:_ms)?|耗时",
        "top1_score": r"Top-?1\s*(?:概率|分数|置信度|prob\w*|score)",
    }.items()
}
SIDE = re.compile(r"\b(CPU|NPU|GPU)(?![A-Za-z])", re.IGNORECASE)
# What may stand between a name and its number. A threshold (<, >) may not.
BETWEEN = r"(?:[\s:：=|*`\"'为是约为）)]|[(（][^)）]*[)）]|is\b|of\b)*"
# A row of a table that lost its bars: side, time, deviation.
TIMED = re.compile(
    r"^\s*(CPU|NPU|GPU)\s*(?:[(（][^)）]*[)）])?\s*([\d.]+\s*m?s)\s*±\s*([\d.]+\s*m?s)"
)


@dataclass(frozen=True)
class Figure:
    """A printed figure: what it is, where it stands, and the interval that its digits mean.

    Attributes:
        name: a key of `LABELS`, or ``deviation`` of a latency.
        text: as printed.
        low, high: the interval, in ms for times, a fraction for a percentage.
        line: number of the line, from 1.
        side: ``cpu``, ``npu`` or nothing.
        scope: the row of its table if the column has the name, such as a head or an image.
        row: what figures of the same row of a table share; 0 outside tables.
        table: the same for figures of one table.
    """

    name: str
    text: str
    low: float
    high: float
    line: int
    side: str = ""
    scope: str = ""
    row: int = 0
    table: int = 0


@dataclass
class Report:
    """A report: its text, its tables (rows of cells; the first row is the header), its figures."""

    text: str
    tables: list[list[tuple[int, list[str]]]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    def named(self, *names: str, scope: str | None = None) -> list[Figure]:
        """Return the figures with these names, perhaps of one scope."""
        return [f for f in self.figures if f.name in names and scope in (None, f.scope)]


def interval(text: str) -> tuple[float, float] | None:
    """Return the smallest and largest number that a printed number may mean.

    >>> interval("2.04 × 10⁻⁴"), interval("0.5 %")
    ((0.000203, 0.000205), (0.004, 0.006))
    >>> interval("none")
    """
    found = NUMBER.search(text)
    if found is None:
        return None
    raised = (found["raised"] or found["power"] or "0").translate(SUPERSCRIPTS)
    exponent = int(found["e"] or 0) + int(raised)
    if abs(exponent) > 300 or len(found["digits"]) > 100:
        return None
    digits = Decimal(found["digits"].replace(",", ""))
    unit = Decimal(1).scaleb(-len(found["decimals"] or ""))
    scale = UNITS.get(found["unit"] or "", Decimal(1))
    low, high = (float((digits + way * unit).scaleb(exponent) * scale) for way in (-1, 1))
    return low, high


def read(text: str) -> Report:
    """Return the figures of a report in Markdown, plain text, JSON or YAML."""
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)  # of JSON
    report = Report(text)
    rows: list[tuple[int, list[str]]] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        cells = _cells(line)
        if not cells:
            _enter(report, rows)
            rows = []
            report.figures += _in_line(line, number)
        elif not _ruler(cells):
            rows.append((number, cells))
        elif rows:  # the row above is a header, perhaps directly below another table
            _enter(report, rows[:-1])
            rows = rows[-1:]
    return report


def _enter(report: Report, rows: list[tuple[int, list[str]]]) -> None:
    if rows:
        report.tables.append(rows)
        report.figures += _in_table(rows, len(report.tables))


def name_of(text: str) -> str | None:
    """Return the name of the figure that a label means; None if it is no known label."""
    return next((name for name, pattern in LABELS.items() if pattern.search(text)), None)


def side_of(text: str) -> str:
    """Return ``cpu`` or ``npu`` if the text names one of the two; GPU counts as the reference."""
    sides = {found.lower().replace("gpu", "cpu") for found in SIDE.findall(text)}
    return sides.pop() if len(sides) == 1 else ""


def _cells(line: str) -> list[str]:
    line = line.strip()
    if line.count("|") < 2:
        return []
    if line.endswith("|"):
        line = line[line.index("|") + 1 : -1]
    return [cell.strip() for cell in line.split("|")]


def _ruler(cells: list[str]) -> bool:
    return all(re.fullmatch(r":?-+:?", cell) for cell in cells)


def _in_table(rows: list[tuple[int, list[str]]], table: int) -> Iterator[Figure]:
    """Yield figures whose name is the label of their column, or of their row."""
    header = rows[0][1] if rows else []
    for number, cells in rows[1:]:
        label, of_row = cells[0], name_of(cells[0])
        for index, cell in enumerate(cells):
            head = header[index] if index < len(header) else ""
            of_column = name_of(head)
            name = of_column or (of_row if index else None)
            if name is None or (bounds := _value(name, cell, f"{label} {head}")) is None:
                continue
            inside = of_column and index and not of_row and not side_of(label)
            side, scope = side_of(head) or side_of(label), label if inside else ""
            yield Figure(name, cell, *bounds, number, side, scope, number, table)


def _in_line(line: str, number: int) -> Iterator[Figure]:
    if timed := TIMED.match(line):
        for name, text in (("latency", timed[2]), ("deviation", timed[3])):
            if bounds := interval(text):
                yield Figure(name, text, *bounds, number, side_of(timed[1]))
        return
    taken: list[range] = []
    for name, pattern in LABELS.items():
        for label in pattern.finditer(line):
            after = re.compile(BETWEEN).match(line, label.end())
            found = NUMBER.match(line, after.end()) if after else None
            if found is None or any(label.start() in one for one in taken):
                continue
            taken.append(range(label.start(), found.end()))
            if bounds := _value(name, found[0], line[label.start() : found.start()]):
                before = line[max(0, label.start() - 12) : found.start()]
                yield Figure(name, found[0].strip(), *bounds, number, side_of(before))


def _value(name: str, text: str, label: str) -> tuple[float, float] | None:
    """Return the interval if the text is a number; a time may have its unit in the label."""
    found = NUMBER.match(text.strip().lstrip("*`~"))
    if found is None:
        return None
    bounds = interval(found[0])
    if name == "latency" and found["unit"] not in TIMES and bounds:
        unit = re.search(r"[(（_]\s*(ms|s|us|µs)\b", label)
        scale = float(UNITS.get(unit[1], 1)) if unit else None
        return (bounds[0] * scale, bounds[1] * scale) if scale else None
    return bounds
