"""Tables of a system's report and of the summary: Markdown, rounded only here.

Every table is a data frame of strings made from the JSON files of `results.System`; `SECTIONS`
maps the names that ``config.yaml`` uses to them.
"""

from collections.abc import Callable
from typing import Any

import pandas as pd

from npu_parity import criteria
from npu_parity.results import PUBLISHED, System, title
from npu_parity.verdict import QUESTIONS

NONE = "—"

METRICS = {  # in the order of the tables; {} where the figure exists for probabilities too
    "{}max_abs_error": "max abs error",
    "{}mean_abs_error": "mean abs error",
    "{}l2_error": "L2 error",
    "{}relative_l2_error": "relative L2 error",
    "{}relative_l2_error_max": "relative L2 error, worst input",
    "{}mean_relative_error": "mean relative error",
    "{}max_relative_error": "largest relative error",
    "{}cosine_similarity": "cosine similarity",
    "{}cosine_similarity_min": "cosine similarity, worst input",
    "{}one_minus_cosine": "1 − cosine",
    "top1_match": "top-1 match",
    "top5_overlap": "top-5 overlap",
    "top5_same_order": "top-5 in the same order",
    "digits_match": "same answer",
    "margin_min": "smallest top-1 margin of the reference",
    "distinct_top1": "distinct top-1 classes",
}
SHARES = frozenset({"top1_match", "top5_overlap", "top5_same_order", "digits_match"})


def number(value: Any, digits: int = 3) -> str:
    """Return a figure for a table: a few significant digits, a dash where there is none."""
    if value is None or value == "":
        return NONE
    if isinstance(value, bool | int | str):
        return str(value)
    text = f"{value:.{digits}g}"
    return f"{value:,.0f}" if "e+" in text else text


def metric(key: str, value: Any) -> str:
    """Return a metric for a table: shares as percent, cosines to the last nine that tells."""
    if value is None:
        return NONE
    if key in SHARES:
        return f"{100 * value:.4g} %"
    return f"{value:.10f}" if "cosine_similarity" in key else number(value)


def markdown(frame: pd.DataFrame) -> str:
    """Return the frame as a Markdown table; numbers are strings and stay as they are."""
    escaped = frame.map(lambda cell: str(cell).replace("|", "\\|"))
    return escaped.to_markdown(index=False, disable_numparse=True)


def errors(system: System) -> pd.DataFrame:
    """One row a metric, one column a run, the published figures beside them."""
    columns = {title(run): found for run, found in system.metrics.items()}
    if system.published:
        columns = {PUBLISHED: system.published["metrics"], **columns}
    rows = []
    for prefix, suffix in (("", ""), ("prob_", " (probabilities)")):
        for key, name in METRICS.items():
            if prefix and "{}" not in key:
                continue
            full = key.format(prefix)
            cells = {c: metric(full, found.get(full)) for c, found in columns.items()}
            if set(cells.values()) - {NONE}:
                rows.append({"Metric": name + (suffix if "{}" in key else ""), **cells})
    return pd.DataFrame(rows)


def top5(system: System) -> pd.DataFrame:
    """The five best classes of every input, as reference and runs rank them, with scores."""
    found = {title(run): m["per_input"] for run, m in system.metrics.items()}
    if not found:
        return pd.DataFrame()
    reference = next(iter(found.values()))
    if "reference_top5" not in reference[0]:  # several heads have no ranking over all
        return pd.DataFrame()
    rows = []
    for i, name in enumerate(system.inputs["names"]):
        for rank in range(len(reference[i]["reference_top5"] or ())):
            row = {"Input": name, "Rank": rank + 1}
            row[title(system.runs[0])] = _class(system, reference[i]["reference_top5"][rank])
            for run, inputs in found.items():
                best = inputs[i]["device_top5"]
                row[run] = _class(system, best[rank]) if best else NONE
            rows.append(row)
    return pd.DataFrame(rows)


def images(system: System) -> pd.DataFrame:
    """One row an input: the answer of either side, whether they agree, cosine similarity.

    The answer is the first class, or the digits of a multi-digit network.
    """
    key = f"{system.prefix}cosine_similarity"
    answer = "answer" if system.task == "digits" else "top-1"
    rows = []
    for i, name in enumerate(system.inputs["names"]):
        row = {"Input": name}
        for run, m in system.metrics.items():
            one = m["per_input"][i]
            row[f"{title(system.runs[0])} {answer}"] = _answer(system, one, "reference")
            row[f"{title(run)} {answer}"] = _answer(system, one, "device")
            row[f"{title(run)} match"] = "yes" if one["top1_match"] else "no"
            row[f"{title(run)} cosine"] = metric(key, one[key])
        rows.append(row)
    return pd.DataFrame(rows if system.metrics else [])


def heads(system: System) -> pd.DataFrame:
    """One row a head: mean and largest absolute deviation, the published beside."""
    columns = {title(run): m.get("heads", {}) for run, m in system.metrics.items()}
    names = next(iter(columns.values()), {})
    if system.published:
        columns = {PUBLISHED: system.published["metrics"].get("heads", {}), **columns}
    return pd.DataFrame(
        {
            "Head": name,
            **{
                f"{column} {short}": number(found.get(name, {}).get(key))
                for column, found in columns.items()
                for short, key in (("mean", "mean_abs_error"), ("max", "max_abs_error"))
            },
        }
        for name in names
    )


def latency(system: System) -> pd.DataFrame:
    """Times of a batch of one, throughput by batch size; published times beside, if any.

    The published come from another machine: they are no measure of this one.
    """
    columns: dict[str, dict[str, str]] = {}
    for run, found in system.latency.items():
        columns[title(run)] = _timings(found["batch_sizes"])
    published = system.published.get("latency", {})
    for device in ("cpu", "npu"):
        if device in published:
            one, batches = published[device], published.get(f"{device}_batches", {})
            throughput = batches.get("throughput", {}) | one.get("throughput", {})
            sizes = {"1": one} | {str(n): {"throughput": t} for n, t in throughput.items() if n > 1}
            sizes["1"] = one | {"throughput": throughput.get(1)}
            columns[f"{device} published"] = _timings(sizes)
    rows = dict.fromkeys(row for column in columns.values() for row in column)
    return pd.DataFrame(
        {"": row, **{c: cells.get(row, NONE) for c, cells in columns.items()}} for row in rows
    )


def provenance(system: System) -> pd.DataFrame:
    """Where the weights came from, what was tried before and why it failed."""
    w = system.weights
    seeded = w["seeded_tensors"]
    facts = {
        "source": w["source"],
        "repository": w["repo"],
        "revision": w["revision"],
        "file": w["file"],
        "SHA-256 of the file": w["file_sha256"],
        "SHA-256 of weights.safetensors": w["sha256"],
        "pretrained": "yes" if w["pretrained"] else "no",
        "seed": w["seed"],
        "seeded tensors": f"{len(seeded)} of {w['tensors']}",
        "parameters": f"{w['parameters']:,}",
        **{f"tried: {t['source']}": t["failed"] for t in w["tried"]},
    }
    return pd.DataFrame({"": k, "Weights": number(v)} for k, v in facts.items())


def rules(system: System) -> pd.DataFrame:
    """The five published criteria, condition by condition, on every run."""
    columns = {title(run): m["criteria"] for run, m in system.metrics.items()}
    rows = []
    for name, criterion in criteria.CRITERIA.items() if columns else ():
        for i, condition in enumerate(criterion.conditions):
            wanted = f"{condition.metric} {condition.relation} {condition.threshold:g}"
            cells = {c: _judged(found[name]["conditions"][i]) for c, found in columns.items()}
            rows.append({"Criterion of": name, "Condition": wanted, **cells})
    return pd.DataFrame(rows)


def verdicts(system: System) -> pd.DataFrame:
    """The four questions, one row each, with the findings of every run."""
    rows = [{"Question": f"{n}. {text}?"} for n, text in QUESTIONS.items()]
    rows.insert(0, {"Question": "verdict"})
    for run, found in system.metrics.items():
        judged = found["verdict"]
        answers = {a["question"]: a for a in judged["questions"]}
        rows[0][title(run)] = f"**{judged['verdict']}**, {judged['evidence']} evidence"
        for row, number in zip(rows[1:], QUESTIONS, strict=True):
            row[title(run)] = _answered(answers.get(number))
    return pd.DataFrame(rows) if system.metrics else pd.DataFrame()


def operators(system: System) -> pd.DataFrame:
    """Each kind of operator: how many, and the largest error as a share of its bound."""
    rows: dict[str, dict[str, str]] = {}
    for run, found in system.operators.items():
        for name, group in found.groupby("operator"):
            short = name.removeprefix("aten.").partition(".")[0]
            row = rows.setdefault(name, {"Operator": short, "Count": str(len(group))})
            largest = group["max_error_of_bound"].max()
            row[title(run)] = NONE if pd.isna(largest) else number(largest)
    return pd.DataFrame(rows.values()).fillna(NONE)


SECTIONS: dict[str, tuple[str, Callable[[System], pd.DataFrame], str]] = {
    "top5": ("Top 5", top5, "metrics.json"),
    "errors": ("Difference from the reference", errors, "metrics.json"),
    "images": ("Input by input", images, "metrics.json"),
    "heads": ("Deviation by head", heads, "metrics.json"),
    "latency": ("Latency", latency, "latency.json"),
    "provenance": ("Weights", provenance, "weights.json"),
    "criteria": ("Published criteria", rules, "metrics.json"),
    "verdict": ("Verdict", verdicts, "metrics.json"),
    "operators": ("Operators against their bounds", operators, "operators.csv"),
}


def report(system: System, sections: list[str]) -> str:
    """Return a system's tables as one Markdown text, each with the files it is made from."""
    parts = [f"# {system.name}", _about(system)]
    for name in sections:
        heading, build, file = SECTIONS[name]
        frame = build(system)
        if not frame.empty:
            parts += [f"## {heading}", markdown(frame), _sources(system, file)]
    return "\n\n".join(parts) + "\n"


def summary_rows(systems: list[System]) -> list[dict[str, Any]]:
    """Return every row of the summary in full precision, with the files that it comes from."""
    return [row for system in systems for row in _system_rows(system)]


def summary(rows: list[dict[str, Any]], left_out: dict[str, str]) -> str:
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
    return "\n\n".join([markdown(frame), *notes]) + "\n"


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
        row["verdict"] = found["verdict"] if found else None
        checked = system.operators.get(run)
        row["operators"] = None if checked is None else float(checked["max_error_of_bound"].max())
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
    row |= {"verdict": None, "operators": None}
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
        "Operators": number(row["operators"]),
        "Criterion": _judged(criterion) if criterion else NONE,
        "Verdict": _verdict(row["verdict"]),
        "Latency": _mean(timed),
    }


def _timings(sizes: dict[str, dict[str, Any]]) -> dict[str, str]:
    one = sizes.get("1", {})
    cells = {"mean ± standard deviation, ms": _mean(one)}
    cells |= {f"{p}, ms": number(one.get(p)) for p in ("p50", "p95", "p99")}
    for size, timed in sizes.items():
        cells[f"images/s at batch {size}"] = number(timed.get("throughput"), 4)
    return cells


def _mean(timed: dict[str, Any]) -> str:
    spread = f" ± {number(timed['std'], 2)}" if timed.get("std") is not None else ""
    return number(timed.get("mean")) + spread


def _verdict(judged: dict[str, Any] | None) -> str:
    if judged is None:
        return NONE
    asked = f", question {judged['failed_question']}" if judged["failed_question"] else ""
    return f"{judged['verdict']}{asked} ({judged['evidence']})"


def _answered(answer: dict[str, Any] | None) -> str:
    if answer is None:
        return "not asked: nothing was measured"
    return ": ".join(["yes" if answer["passed"] else "no", *answer["findings"][:3]])


def _judged(judged: dict[str, Any]) -> str:
    return f"{'pass' if judged['pass'] else 'FAIL'} ({metric(judged['metric'], judged['value'])})"


def _class(system: System, scored: list) -> str:
    return f"{system.label(scored[0])}: {scored[1]:.4g}"


def _answer(system: System, one: dict[str, Any], side: str) -> str:
    if system.task == "digits":
        return NONE if one[f"{side}_answer"] is None else one[f"{side}_answer"] or "(none)"
    best = one.get(f"{side}_top5")
    return system.label(best[0][0]) if best else NONE


def _source(source: str) -> str:
    """Return where weights are from without the pin, and without the path within a package."""
    name = source.partition("#")[0]
    return name.partition("/")[0] if name.startswith("package:") else name


def _about(system: System) -> str:
    w = system.weights
    kind = "pretrained" if w["pretrained"] else "seeded, not trained"
    return (
        f"`{w['architecture']}`, {w['parameters']:,} parameters; weights {kind}: `{w['source']}`. "
        f"Inputs: {len(system.inputs['names'])}. Reference: {title(system.runs[0])}."
    )


def _sources(system: System, file: str) -> str:
    if file == "weights.json":
        files = [system.folder / file]
    else:
        runs = system.metrics if file == "metrics.json" else system.latency
        files = [system.folder / run / file for run in runs]
    return "From " + ", ".join(f"`{path}`" for path in files) + "."


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
