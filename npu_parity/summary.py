"""The summary over all systems and devices: rows in full precision, and as tables.

Every row is made from the JSON files of `results.System`; figures are rounded in the tables only.
"""

import math
from typing import Any

import pandas as pd

from npu_parity import criteria
from npu_parity.results import System
from npu_parity.tables import NONE, judged, markdown, metric, number, spread

VERDICT = ("verdict", "evidence", "failed_question", "verdict_line")


def rows(systems: list[System]) -> list[dict[str, Any]]:
    """Return every row of the summary in full precision, with the files that it comes from."""
    return [row for system in systems for row in _system_rows(system)]


def table(rows: list[dict[str, Any]], left_out: dict[str, str]) -> str:
    """Return the summary as Markdown: a table and what its words mean."""
    frame = pd.DataFrame(_summary_cells(row) for row in rows)
    repeated = frame["System"].duplicated()
    frame.loc[repeated, ["System", "Parameters", "Weights", "Of"]] = ""
    notes = [
        "*Predicted*: the device's numerics emulated on the reference, nothing executed there. "
        "*Measured*: executed on this machine. *Published*: as a report printed it for a real "
        "Ascend NPU, with its own weights and inputs. Relative: relative L2 error. Operators: the "
        "largest error of any operator as a share of its bound. Criterion: the report's own pass "
        "rule. Verdict: this project's, and what the evidence is worth. Latency: mean ± standard "
        "deviation of a batch of one, in ms."
    ]
    notes += [f"{device} is left out: {reason}." for device, reason in left_out.items()]
    return "\n\n".join([markdown(frame), *failures(rows), *notes]) + "\n"


def failures(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line for each run that fails: which question, which operator or input first."""
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
        row |= _compared(system, found or {})
        row |= {key: (found or {}).get(key) for key in VERDICT}
        row["operators"] = _operators(system.operators.get(run))
        row["criterion"] = found["criteria"].get(system.criterion) if found else None
        row["latency"] = (
            {k: v for k, v in timed["batch_sizes"]["1"].items() if k != "samples"}
            if timed and "1" in timed["batch_sizes"]
            else None
        )
        files = ["run.json"] + ["metrics.json"] * bool(found)
        files += ["operators.csv", "latency.json"] * bool(timed)
        row["files"] = [str(system.folder / run / file) for file in files]
        rows.append(row)
    if system.published:
        rows.insert(1, about | _published_row(system))
    return rows


def _published_row(system: System) -> dict[str, Any]:
    printed = system.published["metrics"]
    row = {"device": "npu", "run": "published", "reference": False}
    row |= dict.fromkeys(VERDICT) | {"operators": None}
    row |= _compared(system, printed)
    row["criterion"] = criteria.CRITERIA[system.criterion].judge(printed)
    printed_times = system.published.get("latency", {}).get("npu", {})
    row["latency"] = {k: v for k, v in printed_times.items() if k != "throughput"} or None
    return row | {"files": ["data/published.yaml"]}


def _compared(system: System, found: dict[str, Any]) -> dict[str, Any]:
    keys = ("max_abs_error", "mean_abs_error", "relative_l2_error", "one_minus_cosine")
    figures = {key: found.get(system.prefix + key) for key in keys}
    if figures["one_minus_cosine"] is None and found.get(f"{system.prefix}cosine_similarity"):
        figures["one_minus_cosine"] = 1 - found[f"{system.prefix}cosine_similarity"]
    return figures | {key: found.get(key) for key in ("top1_match", "top5_overlap")}


def _operators(checked: pd.DataFrame | None) -> dict[str, Any] | None:
    """Return how many operators were checked and failed, and the largest error of a bound.

    The error is None where it is not finite: a NaN, or a value that had to be equal.
    """
    if checked is None:
        return None
    largest = float(checked["max_error_of_bound"].max())
    return {
        "checked": int(checked["result"].notna().sum()),
        "failed": int((checked["result"] == "FAIL").sum()),
        "max_error_of_bound": largest if math.isfinite(largest) else None,
    }


def _summary_cells(row: dict[str, Any]) -> dict[str, str]:
    timed = row["latency"] or {}
    criterion = row["criterion"]
    return {
        "System": row["system"],
        "Parameters": f"{row['parameters']:,}",
        "Weights": _source(row["weights"]),
        "Of": row["compared"],
        "Device": row["device"],
        "Run": "reference" if row["reference"] else row["run"],
        "Max abs": number(row["max_abs_error"]),
        "Mean abs": number(row["mean_abs_error"]),
        "Relative": number(row["relative_l2_error"]),
        "1 − cos": number(row["one_minus_cosine"], 2),
        "Top-1": metric("top1_match", row["top1_match"]),
        "Top-5": metric("top5_overlap", row["top5_overlap"]),
        "Operators": _beyond(row["operators"]),
        "Criterion": judged(criterion) if criterion else NONE,
        "Verdict": _verdict(row),
        "Latency": spread(timed),
    }


def _verdict(row: dict[str, Any]) -> str:
    if row["verdict"] is None:
        return NONE
    asked = f", question {row['failed_question']}" if row["failed_question"] else ""
    return f"{row['verdict']}{asked} ({row['evidence']})"


def _beyond(operators: dict[str, Any] | None) -> str:
    """Return the largest error of any operator as a share of its bound, and how many failed."""
    if operators is None:
        return NONE
    largest = operators["max_error_of_bound"]
    failed = f", {operators['failed']} fail" if operators["failed"] else ""
    return ("not finite" if largest is None and failed else number(largest)) + failed


def _source(source: str) -> str:
    """Return where weights are from without the pin, and without the path within a package."""
    name = source.partition("#")[0]
    return name.partition("/")[0] if name.startswith("package:") else name


def brief(rows: list[dict[str, Any]]) -> str:
    """Return the summary as plain text that fits a terminal."""
    frame = pd.DataFrame(_summary_cells(row) for row in rows)
    frame.loc[frame["System"].duplicated(), "System"] = ""
    columns = [
        "System",
        "Device",
        "Run",
        "Max abs",
        "1 − cos",
        "Top-1",
        "Criterion",
        "Verdict",
        "Latency",
    ]
    return frame[columns].to_markdown(index=False, tablefmt="simple", disable_numparse=True)
