"""The summary over all systems and devices: rows in full precision, and as tables.

Every row comes from the JSON files of `results.System`. Only the tables round figures.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from npu_parity.report.results import PUBLISHED_FILE, System
from npu_parity.report.tables import NONE, judged, markdown, metric, number, precision, spread
from npu_parity.verdict import criteria

VERDICT = ("verdict", "evidence", "failed_question", "verdict_line")


def rows(systems: list[System]) -> list[dict[str, Any]]:
    """Return every row of the summary in full precision, with its source files."""
    return [row for system in systems for row in _system_rows(system)]


@dataclass(frozen=True)
class Column:
    """A column of the summary.

    Attributes:
        heading: the heading of the column.
        cell: returns the text of a cell from a row of `rows`.
        note: explains the heading, if necessary.
        of_system: whether the cell belongs to the system and appears only in its first row.
    """

    heading: str
    cell: Callable[[dict[str, Any]], str]
    note: str = ""
    of_system: bool = False


# The only description of each column, for `table` and the notes.
COLUMNS = (
    Column("System", lambda row: str(row["system"]), of_system=True),
    Column("Parameters", lambda row: f"{row['parameters']:,}", of_system=True),
    Column("Weights", lambda row: _source(row["weights"]), of_system=True),
    Column(
        "Of",
        lambda row: str(row["compared"]),
        "the compared outputs.",
        of_system=True,
    ),
    Column("Device", lambda row: _device(row)),
    Column(
        "Run",
        lambda row: "reference" if row["reference"] else row["run"],
        "*predicted* runs emulate the device's numerics on the reference; nothing ran on the "
        "device. *measured* runs were executed on this machine. *published* figures are from a "
        "report on a real Ascend NPU, with the report's own weights and inputs.",
    ),
    Column("Max abs", lambda row: number(row["max_abs_error"])),
    Column("Mean abs", lambda row: number(row["mean_abs_error"])),
    Column("Relative", lambda row: number(row["relative_l2_error"]), "relative L2 error."),
    Column("1 − cos", lambda row: number(row["one_minus_cosine"], 2)),
    Column("Top-1", lambda row: metric("top1_match", row["top1_match"])),
    Column("Top-5", lambda row: metric("top5_overlap", row["top5_overlap"])),
    Column(
        "Operators",
        lambda row: _beyond(row["operators"]),
        "the largest error of an operator, divided by its bound.",
    ),
    Column(
        "Criterion",
        lambda row: judged(row["criterion"]) if row["criterion"] else NONE,
        "the report's own pass rule.",
    ),
    Column(
        "Verdict",
        lambda row: _verdict(row),
        "the answer of this project, and the strength of the evidence.",
    ),
    Column(
        "Latency",
        lambda row: spread(row["latency"] or {}),
        "mean ± standard deviation in ms, one image at a time.",
    ),
)


# Stands below the notes on the headings if a time has this mark.
BUSY = (
    "busy: not comparable: the machine was not quiet during the measurement, so the time says "
    "little about the device. `latency.json` and the system's own table state the reason."
)


def frame(rows: list[dict[str, Any]], columns: Sequence[Column]) -> pd.DataFrame:
    """Return the cells of some columns. Cells of a system appear only in its first row."""
    cells = pd.DataFrame({c.heading: c.cell(row) for c in columns} for row in rows)
    repeated = pd.Series([row["system"] for row in rows]).duplicated()
    cells.loc[repeated, [c.heading for c in columns if c.of_system]] = ""
    return cells


def table(rows: list[dict[str, Any]], left_out: dict[str, str], more: str = "") -> str:
    """Return the summary as Markdown: a table, the failed runs, and notes on the headings.

    Args:
        more: a further table at the end.
    """
    rows = worst_first(rows)
    notes = ["\n".join(f"- {c.heading}: {c.note}" for c in COLUMNS if c.note)]
    notes += filter(None, [busy(rows)])
    notes += [f"{device} is left out: {reason}." for device, reason in left_out.items()]
    notes += [more] * bool(more)
    return "\n\n".join([markdown(frame(rows, COLUMNS)), *failures(rows), *notes]) + "\n"


# An overview of more systems than this shows the worst ones only.
SHOWN = 12


def worst_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows as they are; those of more than `SHOWN` systems with the worst systems first.

    A system is worse if one of its runs fails, then if the relative L2 error of a run is larger. An
    error that is not finite is the largest.
    """
    ranks: dict[str, tuple[bool, float]] = {}
    for row in rows:
        rank = (False, 0.0)
        if row["verdict"]:
            error = row["relative_l2_error"]
            rank = row["verdict"] == "FAIL", math.inf if error is None else float(error)
        ranks[row["system"]] = max(ranks.get(row["system"], rank), rank)
    if len(ranks) <= SHOWN:
        return rows
    return sorted(rows, key=lambda row: ranks[row["system"]], reverse=True)


def shown(rows: list[dict[str, Any]]) -> list[str]:
    """Return the names of the systems that an overview shows."""
    return list(dict.fromkeys(row["system"] for row in worst_first(rows)))[:SHOWN]


def rest(rows: list[dict[str, Any]]) -> str:
    """Return a sentence on the systems that an overview does not show; empty if it shows all."""
    systems, names = {row["system"] for row in rows}, shown(rows)
    failed = {row["system"] for row in rows if row["verdict"] == "FAIL"} - set(names)
    if len(systems) == len(names):
        return ""
    return (
        f"The worst {len(names)} of {len(systems)} systems: failed runs first, then the largest "
        f"relative L2 error. Of the others, {len(failed)} fail. All are in "
        "`results/tables/summary.md`."
    )


# The differences in the README's table. It shows the first one that the report also has.
DIFFERENCES = {"max_abs_error": "max abs", "one_minus_cosine": "1 − cos"}


def difference(published: dict[str, Any] | None) -> str:
    """Return the key of the difference that an overview shows of a system."""
    return next(key for key in DIFFERENCES if not published or published[key] is not None)


def overview(rows: list[dict[str, Any]]) -> str:
    """Return the README's table as Markdown: one line for each system, five columns.

    Of a device that was measured, a prediction has a verdict here only if it fails. Of many
    systems, it shows the worst ones, and a sentence on the rest.
    """
    return "\n\n".join(filter(None, [markdown(_by_system(rows)), rest(rows)])) + "\n"


def brief(rows: list[dict[str, Any]]) -> str:
    """Return the same as plain text for a terminal, and whether a machine was busy."""
    text: str = _by_system(rows).to_markdown(index=False, tablefmt="simple", disable_numparse=True)
    return "\n\n".join(filter(None, [text, rest(rows), busy(rows)]))


def busy(rows: list[dict[str, Any]]) -> str:
    """Return the note on latencies of a busy machine; empty if no row has one."""
    return BUSY if any((row["latency"] or {}).get("busy") for row in rows) else ""


def _by_system(rows: list[dict[str, Any]]) -> pd.DataFrame:
    lines = []
    for name in shown(rows):
        of_system = [row for row in rows if row["system"] == name]
        published = [row for row in of_system if row["run"] == "published"]
        compared = [row for row in of_system if row["verdict"]]
        predicted = [row for row in compared if row["run"] == "predicted"]
        measured = {row["device"] for row in compared if row["run"] == "measured"}
        told = [
            row
            for row in compared
            if row["run"] != "predicted"
            or row["device"] not in measured
            or row["verdict"] == "FAIL"
        ]
        key = difference(published[0] if published else None)
        lines.append(
            {
                "System": name,
                "Weights": "trained" if of_system[0]["pretrained"] else "random",
                "Predicted difference": _differences(predicted, key),
                "Published difference": _differences(published, key),
                "Verdict": "; ".join(f"{row['device']}: {_verdict(row)}" for row in told),
            }
        )
    return pd.DataFrame(lines)


def _differences(rows: list[dict[str, Any]], key: str) -> str:
    """Return one figure of each row, with the device's name if there are several rows."""
    several = len(rows) > 1
    cells = [f"{row['device']}: " * several + number(row[key]) for row in rows]
    return f"{DIFFERENCES[key]} {', '.join(cells)}" if cells else NONE


def failures(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line for each failed run, with the question and the first operator or input."""
    return [
        f"{row['system']}, {row['device']} {row['run']}: {row['verdict_line']}"
        for row in rows
        if row["verdict"] == "FAIL"
    ]


def _system_rows(system: System) -> list[dict[str, Any]]:
    about = {
        "system": system.name,
        "parameters": system.weights["parameters"],
        "weights": system.weights["source"],
        "pretrained": system.weights["pretrained"],
        "compared": system.kind,
    }
    rows = []
    for run in system.runs:
        device, _, kind = run.partition("/")
        found, timed = system.metrics.get(run), system.latency.get(run)
        row = about | {"device": device, "run": kind, "reference": found is None}
        if narrow := precision(system.run[run]):
            row["precision"] = narrow
        row |= _compared(system, found or {})
        row |= {key: (found or {}).get(key) for key in VERDICT}
        row["operators"] = _operators(system.operators.get(run))
        row["criterion"] = found["criteria"].get(system.criterion) if found else None
        row["latency"] = (
            {k: v for k, v in timed["batch_sizes"]["1"].items() if k not in ("samples", "stages")}
            if timed and "1" in timed["batch_sizes"]
            else None
        )
        files = ["run.json"] + ["metrics.json"] * bool(found)
        files += ["operators.csv"] * (run in system.operators) + ["latency.json"] * bool(timed)
        row["files"] = [str(system.folder / run / file) for file in files]
        rows.append(row)
    if system.published:
        rows.insert(1, about | _published_row(system))
    return rows


def _published_row(system: System) -> dict[str, Any]:
    assert system.criterion is not None, "who published figures has a rule of its own"
    printed = system.published["metrics"]
    row: dict[str, Any] = {"device": "npu", "run": "published", "reference": False}
    row |= dict.fromkeys(VERDICT) | {"operators": None}
    row |= _compared(system, printed)
    row["criterion"] = criteria.CRITERIA[system.criterion].judge(printed)
    printed_times = system.published.get("latency", {}).get("npu", {})
    row["latency"] = {k: v for k, v in printed_times.items() if k != "throughput"} or None
    return row | {"files": [PUBLISHED_FILE]}


def _compared(system: System, found: dict[str, Any]) -> dict[str, Any]:
    keys = ("max_abs_error", "mean_abs_error", "relative_l2_error", "one_minus_cosine")
    figures = {key: found.get(system.prefix + key) for key in keys}
    if figures["one_minus_cosine"] is None and found.get(f"{system.prefix}cosine_similarity"):
        figures["one_minus_cosine"] = 1 - found[f"{system.prefix}cosine_similarity"]
    return figures | {key: found.get(key) for key in ("top1_match", "top5_overlap")}


def _operators(checked: pd.DataFrame | None) -> dict[str, Any] | None:
    """Return the numbers of checked and failed operators, and the largest share of a bound.

    The share is None if it is not finite, because of NaN or of a value that must be equal.
    """
    if checked is None:
        return None
    largest = checked["max_error_of_bound"].max()
    return {
        "checked": int(checked["result"].notna().sum()),
        "failed": int((checked["result"] == "FAIL").sum()),
        "max_error_of_bound": largest if math.isfinite(largest) else None,
    }


def _device(row: dict[str, Any]) -> str:
    """Return the name of the device, and the precision of networks there if it is not float32."""
    return f"{row['device']} ({row['precision']})" if "precision" in row else str(row["device"])


def _verdict(row: dict[str, Any]) -> str:
    if row["verdict"] is None:
        return NONE
    asked = f", question {row['failed_question']}" if row["failed_question"] else ""
    return f"{row['verdict']}{asked} ({row['evidence']})"


def _beyond(operators: dict[str, Any] | None) -> str:
    """Return the largest share of a bound among all operators, and the number that failed."""
    if operators is None:
        return NONE
    largest = operators["max_error_of_bound"]
    failed = f", {operators['failed']} fail" if operators["failed"] else ""
    return ("not finite" if largest is None and failed else number(largest)) + failed


def _source(source: str) -> str:
    """Return the source of the weights without the pin and without the path in a package."""
    name = source.partition("#")[0]
    return name.partition("/")[0] if name.startswith("package:") else name
