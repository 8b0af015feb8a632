"""Tables of a system's report as Markdown. Numbers are rounded only here.

Every table is a data frame of strings from the files of `results.System`. `SECTIONS` maps the names
in ``config.yaml`` to the tables.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from npu_parity.report.results import PUBLISHED, System, short, title
from npu_parity.verdict import criteria
from npu_parity.verdict.answers import QUESTIONS
from npu_parity.verdict.metrics import FIGURES, SHARES

NONE = "—"

TOLD = 3  # findings of an answer
AROUND = 3  # operators before and after the first that goes wrong


def number(value: Any, digits: int = 3) -> str:
    """Return a figure for a table with a few significant digits, or a dash if there is none."""
    if value is None or value == "":
        return NONE
    if isinstance(value, bool | int | str):
        return str(value)
    text = f"{value:.{digits}g}"
    return f"{value:,.0f}" if "e+" in text else text


def metric(key: str, value: Any) -> str:
    """Return a metric for a table: shares as percent, cosines with ten decimals."""
    if value is None:
        return NONE
    if key in SHARES:
        return f"{100 * value:.4g} %"
    return f"{value:.10f}" if "cosine_similarity" in key else number(value)


def judged(criterion: dict[str, Any]) -> str:
    """Return the result of a criterion or condition: pass or FAIL, with the value."""
    value = metric(criterion["metric"], criterion["value"])
    return f"{'pass' if criterion['pass'] else 'FAIL'} ({value})"


def spread(timed: dict[str, Any]) -> str:
    """Return the mean of a time with its standard deviation, if there is one, and its mark."""
    deviation = f" ± {number(timed['std'], 2)}" if timed.get("std") is not None else ""
    return number(timed.get("mean")) + deviation + mark(timed)


def mark(timed: dict[str, Any]) -> str:
    """Return the mark of a time that was measured on a busy machine. Older files do not say it."""
    return ", busy: not comparable" if timed.get("busy") else ""


def markdown(frame: pd.DataFrame) -> str:
    """Return the frame as a Markdown table. Its cells are strings and stay unchanged."""
    escaped = frame.map(lambda cell: str(cell).replace("|", "\\|"))
    return escaped.to_markdown(index=False, disable_numparse=True)


def errors(system: System) -> pd.DataFrame:
    """Return one row for each metric, one column for each run, and the published figures."""
    columns = {title(run): found for run, found in system.metrics.items()}
    if system.published:
        columns = {PUBLISHED: system.published["metrics"], **columns}
    rows = []
    for prefix, suffix in (("", ""), ("prob_", " (probabilities)")):
        for key, name in FIGURES.items():
            if prefix and "{}" not in key:
                continue
            full = key.format(prefix)
            cells = {c: metric(full, found.get(full)) for c, found in columns.items()}
            if set(cells.values()) - {NONE}:
                rows.append({"Metric": name + (suffix if "{}" in key else ""), **cells})
    return pd.DataFrame(rows)


def top5(system: System) -> pd.DataFrame:
    """Return the five best classes of every input with scores, for reference and runs."""
    found = {title(run): m["per_input"] for run, m in system.comparable.items()}
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
    """Return one row for each input: both answers, whether they agree, cosine similarity.

    The answer is the top-1 class, or the digits of a multi-digit network.
    """
    key = f"{system.prefix}cosine_similarity"
    answer = "answer" if system.task == "digits" else "top-1"
    rows = []
    for i, name in enumerate(system.inputs["names"]):
        row = {"Input": name}
        for run, m in system.comparable.items():
            one = m["per_input"][i]
            row[f"{title(system.runs[0])} {answer}"] = _answer(system, one, "reference")
            row[f"{title(run)} {answer}"] = _answer(system, one, "device")
            row[f"{title(run)} match"] = "yes" if one["top1_match"] else "no"
            row[f"{title(run)} cosine"] = metric(key, one[key])
        rows.append(row)
    return pd.DataFrame(rows if system.comparable else [])


def heads(system: System) -> pd.DataFrame:
    """Return one row for each head: mean and largest deviation, also of the published run."""
    columns = {title(run): m.get("heads", {}) for run, m in system.comparable.items()}
    names: dict[str, Any] = next(iter(columns.values()), {})
    if system.published:
        columns = {PUBLISHED: system.published["metrics"].get("heads", {}), **columns}
    return pd.DataFrame(
        {
            "Head": name,
            **{
                f"{column} {kind}": number(found.get(name, {}).get(key))
                for column, found in columns.items()
                for kind, key in (("mean", "mean_abs_error"), ("max", "max_abs_error"))
            },
        }
        for name in names
    )


def latency(system: System) -> pd.DataFrame:
    """Return the times of batch size 1, the throughput by batch size, and published times.

    The published times are from another machine.
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


# What the reader of a checkpoint chose, by its key in weights.json. Rows of what it did not choose
# are left out.
CHOICES = {
    "cache": "from the cache of the hub's client",
    "state": "state of the checkpoint",
    "other_states": "its other states",
    "prefix": "prefix taken off the names",
    "wrappers": "wrappers taken off the names",
    "aliases": "tensors under another name",
    "left_out": "tensors left out",
    "shards": "shards",
}


def provenance(system: System) -> pd.DataFrame:
    """Return the source of the weights, and the failed sources with their reasons."""
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
        **{label: str(w[key]) for key, label in CHOICES.items() if w.get(key)},
        **{f"tried: {t['source']}": t["failed"] for t in w["tried"]},
    }
    return pd.DataFrame({"": k, "Weights": number(v)} for k, v in facts.items())


def runs(system: System) -> pd.DataFrame:
    """Return one row for each run: machine, numerics, versions, threads and batch size."""
    rows = []
    for run, found in system.run.items():
        place = found["executed_on"]
        versions = {"torch": found["versions"]["torch"], "CANN": place.get("cann")}
        promised = [(k, v) for k, v in found["numerics"].items() if k != "rounding"]
        rounded = [f"{kind} {form}" for kind, form in promised if form not in (None, "fp32")]
        narrow = filter(None, [precision(found)])
        rows.append(
            {
                "Run": title(run),
                "Executed on": f"{place['backend']}: {place['name']}",
                "Numerics": ", ".join([*narrow, *rounded]) or "float32",
                "With": ", ".join(f"{name} {v}" for name, v in versions.items() if v),
                "Threads": str(found["threads"]),
                "Batch": str(found["batch"]),
            }
        )
    return pd.DataFrame(rows)


def precision(run: dict[str, Any]) -> str | None:
    """Return the precision of a run; None if it is float32."""
    found = run.get("precision")
    return None if found == "fp32" else found


def rules(system: System) -> pd.DataFrame:
    """Return every condition of the five published criteria, for every run."""
    columns = {title(run): m["criteria"] for run, m in system.comparable.items()}
    rows = []
    for name, criterion in criteria.CRITERIA.items() if columns else ():
        for i, condition in enumerate(criterion.conditions):
            wanted = f"{condition.metric} {condition.relation} {condition.threshold:g}"
            cells = {c: judged(found[name]["conditions"][i]) for c, found in columns.items()}
            rows.append({"Criterion of": name, "Condition": wanted, **cells})
    return pd.DataFrame(rows)


def verdicts(system: System) -> pd.DataFrame:
    """Return one row for each question, with the findings of every run."""
    names: dict[str | int, str] = {
        "verdict": "verdict",
        **{n: f"{n}. {text}?" for n, text in QUESTIONS.items()},
    }
    names |= {"explained": "difference explained by the predicted rounding"}
    names |= {"numerics_found": "numerics found"}
    rows = {key: {"Question": name} for key, name in names.items()}
    for run, found in system.metrics.items():
        answers = {a["question"]: a for a in found["questions"]}
        explained = found.get("explained")
        cells: dict[str | int, str] = {
            "verdict": f"**{found['verdict']}**, {found['evidence']} evidence",
            **{n: _answered(answers.get(n)) for n in QUESTIONS},
            "explained": NONE if explained is None else f"{100 * explained:.1f} %",
            "numerics_found": number(found.get("numerics_found")),
        }
        for key, cell in cells.items():
            rows[key][title(run)] = cell
    shown = [row for row in rows.values() if set(row.values()) - {row["Question"], NONE}]
    return pd.DataFrame(shown)


def operators(system: System) -> pd.DataFrame:
    """Return the number of each kind of operator, and its largest share of the bound."""
    rows: dict[str, dict[str, str]] = {}
    for run, found in system.operators.items():
        for name, group in found.groupby("operator"):
            row = rows.setdefault(
                str(name), {"Operator": short(str(name)), "Count": str(len(group))}
            )
            largest = group["max_error_of_bound"].max()
            row[title(run)] = NONE if pd.isna(largest) else number(largest)
    return pd.DataFrame(rows.values()).fillna(NONE)


def divergence(system: System) -> pd.DataFrame:
    """Return the operators around the one where a failed run goes wrong first, in bold."""
    rows = []
    for run, first in system.first_beyond.items():
        steps = system.divergence[run]
        at = steps.index(first)
        for step in steps[max(0, at - AROUND) : at + AROUND + 1]:
            mark = "**" if step is first else ""
            rows.append(
                {
                    "Run": title(run),
                    "Index": str(step.index),
                    "Operator": f"{mark}{short(step.operator)}{mark}",
                    "Module": step.module or NONE,
                    "float32 itself": number(step.float32),
                    "Predicted": number(step.predicted),
                    "Measured": number(step.measured),
                    "Alone / bound": number(step.alone),
                }
            )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Section:
    """A part of the report: a table, its source file in each run, and an optional figure."""

    heading: str
    table: Callable[[System], pd.DataFrame]
    file: str
    picture: str | None = None


SECTIONS: dict[str, Section] = {
    "top5": Section("Top 5", top5, "metrics.json"),
    "errors": Section("Difference from the reference", errors, "metrics.json"),
    "images": Section("Input by input", images, "metrics.json"),
    "heads": Section("Deviation by head", heads, "metrics.json"),
    "latency": Section("Latency", latency, "latency.json"),
    "provenance": Section("Weights", provenance, "weights.json"),
    "criteria": Section("Published criteria", rules, "metrics.json"),
    "runs": Section("Runs", runs, "run.json"),
    "verdict": Section("Verdict", verdicts, "metrics.json"),
    "operators": Section("Operators against their bounds", operators, "operators.csv"),
    "divergence": Section(
        "Error through the network", divergence, "divergence.csv", "divergence.svg"
    ),
}


def report(system: System, sections: list[str]) -> str:
    """Return a system's tables as one Markdown text, each with its source files."""
    parts = [f"# {system.name}", about(system), *_judged(system)]
    for section in (SECTIONS[name] for name in sections):
        frame = section.table(system)
        shown = [markdown(frame)] * (not frame.empty)
        if section.picture and system.metrics:
            link = f"../{system.name}/{section.picture}"
            shown.insert(0, f"![{section.heading}: {system.name}]({link})")
        if shown:
            parts += [f"## {section.heading}", *shown, _from(system, section.file)]
    return "\n\n".join(parts) + "\n"


def _timings(sizes: dict[str, dict[str, Any]]) -> dict[str, str]:
    one = sizes.get("1", {})
    cells = {"mean ± standard deviation, ms": spread(one)}
    cells |= {f"{p}, ms": number(one.get(p)) + mark(one) for p in ("p50", "p95", "p99")}
    for size, timed in sizes.items():
        cells[f"images/s at batch {size}"] = number(timed.get("throughput"), 4) + mark(timed)
    cells |= {f"busy at batch {n}": t["why"] for n, t in sizes.items() if t.get("busy")}
    return cells


def _answered(answer: dict[str, Any] | None) -> str:
    if answer is None:
        return "not asked: nothing was measured"
    told = "; ".join(answer["findings"][:TOLD])
    more = len(answer["findings"]) - TOLD
    told += f" (and {more} more)" if more > 0 else ""
    word = {None: "not asked", True: "yes", False: "no"}[answer["passed"]]
    return word + (f": {told}" if told else "")


def _class(system: System, scored: list[Any]) -> str:
    return f"{system.label(scored[0])}: {scored[1]:.4g}"


def _answer(system: System, one: dict[str, Any], side: str) -> str:
    if system.task == "digits":
        return NONE if one[f"{side}_answer"] is None else one[f"{side}_answer"] or "(none)"
    best = one.get(f"{side}_top5")
    return system.label(best[0][0]) if best else NONE


def about(system: System) -> str:
    """Return a sentence on the architecture, the weights and the inputs of a system."""
    w = system.weights
    kind = "pretrained" if w["pretrained"] else "seeded, not trained"
    state = f", state `{w['state']}`" if w.get("state") else ""
    weights = f"weights {kind}: `{w['source']}`{state}"
    return (
        f"`{w['architecture']}`, {w['parameters']:,} parameters; {weights}. "
        f"Inputs: {len(system.inputs['names'])}{_prepared(system)}. "
        f"Reference: {title(system.runs[0])}."
    )


def _prepared(system: System) -> str:
    """Return the preprocessing with the origin of each key. Older files do not say it."""
    settings, origins = system.inputs["preprocessing"], system.inputs.get("preprocessing_from", {})
    keys: dict[str, list[str]] = {}
    for key, origin in origins.items():
        value = settings[key]
        text = " ".join(map(str, value)) if isinstance(value, list) else value
        keys.setdefault(origin, []).append(f"{key} {text}")
    given = (f"{', '.join(sorted(found))} ({origin})" for origin, found in keys.items())
    return "; ".join(["", *given])


def _judged(system: System) -> list[str]:
    """Return the verdict of every run."""
    lines = (f"- {title(run)}: {m['verdict_line']}" for run, m in system.metrics.items())
    return ["\n".join(lines)] if system.metrics else []


def sources(system: System, file: str) -> list[str]:
    """Return the files that a table with this source file in each run is made from."""
    if file == "weights.json":
        return [str(system.folder / file)]
    runs: dict[str, dict[str, Any]] = {"run.json": system.run, "latency.json": system.latency}
    runs |= {"operators.csv": system.operators}
    return [str(system.folder / run / file) for run in runs.get(file, system.metrics)]


def _from(system: System, file: str) -> str:
    return "From " + ", ".join(f"`{path}`" for path in sources(system, file)) + "."
