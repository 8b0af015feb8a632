"""Tables that only a card has: what the tables of published reports show, for this system.

Every table is a data frame of English strings, as in `tables`. A published figure comes from
another machine, other inputs and sometimes other weights. So published answers have own tables.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from npu_parity.evidence import manifest
from npu_parity.report import graded, tables
from npu_parity.report.results import PUBLISHED, System, title
from npu_parity.report.tables import NONE, metric, number
from npu_parity.verdict import criteria
from npu_parity.verdict.answers import QUESTIONS

DIGITS = 6  # of scores and of graders' fields
PERCENTILES = ("mean", "p50", "p95", "p99")


def environment(system: System) -> pd.DataFrame:
    """Return the machine and the versions of every run, as found, and what the report names."""
    columns = {}
    for run, found in system.run.items():
        place = found["executed_on"]
        columns[title(run)] = {
            "executed on": f"{place['backend']}: {place['name']}",
            "CANN": place.get("cann"),
            **found["versions"],
            "threads": found["threads"],
        }
    if system.published:
        versions = {k.replace("_", "-"): v for k, v in system.published["versions"].items()}
        columns[PUBLISHED] = {"executed on": system.published["hardware"], **versions}
        columns[PUBLISHED]["CANN"] = versions.get("cann")
        columns[PUBLISHED].pop("cann", None)
    rows = dict.fromkeys(row for column in columns.values() for row in column)
    frame = pd.DataFrame(
        {"Item": row, **{c: number(found.get(row)) for c, found in columns.items()}} for row in rows
    )
    return frame[(frame.drop(columns="Item") != NONE).any(axis=1)]


def stated(figures: list[dict[str, str]]) -> pd.DataFrame:
    """Return the figures that others state, with who states them."""
    return pd.DataFrame(
        {"Figure": s["figure"], "Value": s["value"], "Stated by": s["by"]} for s in figures
    )


def preparation(system: System) -> pd.DataFrame:
    """Return each step of the preprocessing, its value and where the value comes from."""
    origins = system.inputs.get("preprocessing_from", {})
    return pd.DataFrame(
        {
            "Step": key,
            "Value": " ".join(map(str, value)) if isinstance(value, list) else number(value),
            "From": origins.get(key, NONE),
        }
        for key, value in system.inputs["preprocessing"].items()
    )


def answers(system: System) -> pd.DataFrame:
    """Return the five best classes of every input with their scores, and how the scores differ."""
    found = {title(run): m["per_input"] for run, m in system.comparable.items()}
    first: list[dict[str, Any]] = next(iter(found.values()), [{}])
    rows = []
    for i, name in enumerate(system.inputs["names"] if "reference_top5" in first[0] else ()):
        for rank, (index, score) in enumerate(first[i]["reference_top5"] or ()):
            row = {"Input": name, "Rank": str(rank + 1)}
            row[title(system.runs[0])] = f"{system.label(index)}: {number(score, DIGITS)}"
            for run, inputs in found.items():
                other, value = (inputs[i]["device_top5"] or [(None, None)] * 5)[rank]
                row[run] = (
                    NONE if other is None else f"{system.label(other)}: {number(value, DIGITS)}"
                )
                row[f"{run} difference"] = number(abs(value - score)) if other == index else NONE
            rows.append(row)
    return pd.DataFrame(rows)


def published_answers(system: System) -> pd.DataFrame:
    """Return the five best classes that the report printed, or the best class of each input."""
    if "top5" in system.published:
        best, score = system.published["top5"], system.published.get("top1_score", {})
        frame = pd.DataFrame({"Rank": [str(i + 1) for i in range(len(best["cpu"]))]})
        for device in ("cpu", "npu"):
            classes, scores = zip(*best[device], strict=True)
            finest = [score.get(device, scores[0]), *scores[1:]]  # top-1 has more digits elsewhere
            frame[f"{device} published"] = [str(c) for c in classes]
            frame[f"{device} published score"] = [number(s, 10) for s in finest]
        return frame
    top1 = system.published.get("top1", {"cpu": [], "npu": []})
    inputs = system.published.get("metrics", {}).get("per_input", [])
    return pd.DataFrame(
        {
            "Input": str(i),
            "cpu published top-1": str(cpu),
            "npu published top-1": str(npu),
            "npu published match": "yes" if one["top1_match"] else "no",
            "npu published cosine": number(one["prob_cosine_similarity"], 10),
        }
        for i, (cpu, npu, one) in enumerate(zip(top1["cpu"], top1["npu"], inputs, strict=True))
    )


def rules(system: System) -> pd.DataFrame:
    """Return every condition of the published pass rules, for every run and for the report."""
    frame = tables.rules(system)
    if frame.empty or not system.published or system.criterion is None:
        return frame
    own = criteria.CRITERIA[system.criterion].judge(system.published["metrics"])["conditions"]
    cells = iter([tables.judged(condition) for condition in own])
    is_own = frame["Criterion of"] == system.criterion
    frame.insert(2, PUBLISHED, [next(cells) if mine else NONE for mine in is_own])
    return frame


def fields(system: System) -> pd.DataFrame:
    """Return the fields that graders read, for the report and for every run."""
    columns: dict[str, dict[str, Any]] = {}
    if system.published:
        columns[PUBLISHED] = _printed(system.published, system.prefix)
    for run in system.comparable:
        found = graded.fields(system, run)
        columns[title(run)] = {k: v for k, v in found.items() if k not in ("device", "run")}
    rows = dict.fromkeys(row for column in columns.values() for row in column)
    return pd.DataFrame(
        {"Field": row, **{c: _field(row, found.get(row)) for c, found in columns.items()}}
        for row in rows
    )


def questions(system: System) -> pd.DataFrame:
    """Return the verdict of every run and its answer to each question, without the findings."""
    rows = []
    words = {None: "not asked", True: "yes", False: "no"}
    for run, found in system.metrics.items():
        given = {a["question"]: words[a["passed"]] for a in found["questions"]}
        explained = found.get("explained")
        rows.append(
            {
                "Run": title(run),
                "Verdict": found["verdict"],
                "Evidence": found["evidence"],
                **{f"{n}. {text}?": given.get(n, "not asked") for n, text in QUESTIONS.items()},
                "Explained": NONE if explained is None else f"{100 * explained:.1f} %",
                "Numerics found": number(found.get("numerics_found")),
            }
        )
    return pd.DataFrame(rows)


def reasons(system: System) -> dict[str, list[tuple[int, str]]]:
    """Return every finding of each run, with the number of its question."""
    return {
        run: [(a["question"], finding) for a in found["questions"] for finding in a["findings"]]
        for run, found in system.metrics.items()
    }


def latency(system: System) -> pd.DataFrame:
    """Return the times of batch size 1 of `tables.latency`. Other batch sizes are in `batches`."""
    frame = tables.latency(system).rename(columns={"": "Time"})
    if frame.empty:  # nothing was timed
        return frame
    frame = frame[~frame["Time"].str.fullmatch(r"images/s at batch (?!1$)\d+")]
    printed, found = system.published.get("latency", {}), system.latency
    single = printed.get("single", {})
    more: dict[str, dict[str, Any]] = {
        "one pass, ms": {f"{d} published": single.get(d) for d in ("cpu", "npu")},
        "warm-up passes": {title(r): f["warmup"] for r, f in found.items()},
        "timed passes": {
            title(r): f["batch_sizes"].get("1", {}).get("asked") for r, f in found.items()
        },
    }
    for row, key in (("warm-up passes", "warmup"), ("timed passes", "repeats")):
        more[row] |= {f"{d} published": printed.get(key) for d in ("cpu", "npu")}
    added = [
        {"Time": row, **{c: number(cells.get(c)) for c in frame.columns if c != "Time"}}
        for row, cells in more.items()
        if set(cells.values()) != {None}
    ]
    return pd.concat([frame, pd.DataFrame(added, columns=frame.columns)], ignore_index=True)


def batches(system: System) -> pd.DataFrame:
    """Return the mean time of a batch and the images per second, by batch size."""
    columns: dict[str, dict[str, dict[str, Any]]] = {
        title(run): found["batch_sizes"] for run, found in system.latency.items()
    }
    printed = system.published.get("latency", {})
    for device in ("cpu", "npu"):
        one, more = printed.get(device, {}), printed.get(f"{device}_batches", {})
        throughput = one.get("throughput", {}) | more.get("throughput", {})
        if throughput:
            columns[f"{device} published"] = {
                str(n): {"throughput": t, "mean": more.get("mean", {}).get(n)}
                for n, t in throughput.items()
            }
    sizes = sorted({int(n) for column in columns.values() for n in column})
    return pd.DataFrame(
        {
            "Batch": str(n),
            **{
                f"{column} {kind}": number(found.get(str(n), {}).get(key), 4)
                + tables.mark(found.get(str(n), {}))
                for column, found in columns.items()
                for kind, key in (("ms", "mean"), ("images/s", "throughput"))
            },
        }
        for n in sizes
    )


def speedups(system: System) -> pd.DataFrame:
    """Return how many times faster each device is than the reference, and the printed figures."""
    reference = system.latency.get(system.runs[0], {}).get("batch_sizes", {}).get("1", {})
    columns: dict[str, dict[str, str]] = {}
    for run, found in system.latency.items():
        one = found["batch_sizes"].get("1", {})
        if run != system.runs[0] and one and reference:
            busy = tables.mark(one) or tables.mark(reference)
            ratios = {k: reference[k] / one[k] for k in PERCENTILES}
            ratios["throughput"] = one["throughput"] / reference["throughput"]
            columns[title(run)] = {k: f"{v:.3g} ×{busy}" for k, v in ratios.items()}
    printed = system.published.get("speedups", {})
    if system.published.get("speedup"):
        printed = printed or {"mean": system.published["speedup"]}
    if printed:
        columns[PUBLISHED] = {k: f"{number(v, 4)} ×" for k, v in printed.items()}
    rows = dict.fromkeys(row for column in columns.values() for row in column)
    return pd.DataFrame(
        {"Speed-up of": row, **{c: cells.get(row, NONE) for c, cells in columns.items()}}
        for row in rows
    )


def files(system: System) -> pd.DataFrame:
    """Return the files of the results that this card rests on, with their SHA-256."""
    wanted = ("weights.safetensors", "weights.json", "inputs.npy", "inputs.json", "divergence.svg")
    found = [(system.folder, name) for name in wanted]
    found += [
        (system.folder / run, name)
        for run in system.runs
        for name in _evidence(system.folder / run)
    ]
    entries = {folder: manifest.read(folder) for folder, _ in found}
    return pd.DataFrame(
        {
            "File": f"`{(folder / name).relative_to(system.folder).as_posix()}`",
            "SHA-256": f"`{entries[folder][name]['sha256']}`",
        }
        for folder, name in found
        if name in entries[folder]
    )


def _evidence(folder: Path) -> list[str]:
    return sorted(manifest.read(folder))


def _field(name: str, value: Any) -> str:
    if name == "cosine_similarity" and value is not None:
        return metric(name, value)
    return number(value, DIGITS)


def _printed(published: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Return the graders' fields that a report printed, under the same names."""
    found, times = published["metrics"], published.get("latency", {})
    single, mean = times.get("single", {}), times.get("npu", {}).get("mean")
    return {
        "pretrained_used": published.get("weights", {}).get("pretrained_used"),
        "local_weight_used": published.get("weights", {}).get("local_weight_used"),
        "max_abs_diff": found.get(f"{prefix}max_abs_error"),
        "mean_abs_diff": found.get(f"{prefix}mean_abs_error"),
        "cosine_similarity": found.get(f"{prefix}cosine_similarity"),
        "top1_match": None if found.get("top1_match") is None else found["top1_match"] == 1,
        "top5_match": None
        if found.get("top5_same_order") is None
        else found["top5_same_order"] == 1,
        "latency_ms": single.get("npu", mean) if "cpu" not in single else mean,
    }
