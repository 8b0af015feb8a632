"""Compare two folders of results: what moved, which verdicts changed, what differs around them."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from npu_parity.audit.derived import FIGURES
from npu_parity.errors import ParityError
from npu_parity.evidence.tolerance import ROUNDINGS, U, tolerance

# What was given to a run: files and their keys. All else is a result.
CONDITIONS = {
    "run.json": ("executed_on", "switches", "numerics", "precision", "seed", "threads", "batch"),
    "weights.json": (
        "architecture",
        "arguments",
        "source",
        "revision",
        "file_sha256",
        "seed",
        "sha256",
    ),
    "inputs.json": ("names", "preprocessing", "images", "sha256"),
    "latency.json": ("executed_on", "threads", "cpus", "warmup"),
}
EVERYWHERE = ("versions", "code")
# Texts of metrics.json that say what was decided, and those that say what was compared.
VERDICT = ("verdict", "evidence", "failed_question", "failed_first", "numerics_found")
# Keys whose values are hashes: they move with what they are hashes of.
HASHES = ("sha256", "weights_sha256")


@dataclass
class Difference:
    """What differs between two folders of results, one line each.

    Attributes:
        missing: runs and systems that only one of them has.
        conditions: versions, devices, threads, seeds and weights.
        verdicts: verdicts and strengths of evidence.
        numbers: numbers that moved beyond their tolerance.
        timings: latencies and throughputs.
    """

    missing: list[str] = field(default_factory=list)
    conditions: list[str] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)
    timings: list[str] = field(default_factory=list)

    @property
    def only_timings(self) -> bool:
        """Whether no number, no verdict and no set of runs differs."""
        return not (self.missing or self.verdicts or self.numbers)

    def lines(self) -> Iterator[str]:
        """Yield the report: a heading for each kind that differs, and a last line."""
        for heading, lines in (
            ("Only on one side", self.missing),
            ("Conditions", self.conditions),
            ("Verdicts", self.verdicts),
            ("Numbers beyond their tolerance", self.numbers),
            ("Timings", self.timings),
        ):
            if lines:
                yield f"{heading}:"
                yield from (f"  {line}" for line in lines)
        if not self.only_timings:
            yield "Not only timings moved."
        elif self.timings:
            yield "Only timings moved."
        else:
            yield "Nothing moved."


def diff(old: Path, new: Path) -> Difference:
    """Compare two folders of results.

    Raises:
        ParityError: a folder has no results.
    """
    sides = [_files(folder) for folder in (old, new)]
    found = Difference()
    for name in sorted({*sides[0]} ^ {*sides[1]}):
        found.missing.append(f"{name}: only in {old if name in sides[0] else new}")
    common = sorted({*sides[0]} & {*sides[1]})
    pairs = {name: [json.loads(side[name].read_text("utf-8")) for side in sides] for name in common}
    found.conditions = _conditions(pairs)
    for name, (before, after) in pairs.items():
        file = name.rpartition("/")[2]
        if file == "latency.json":
            found.timings += [f"{name}: {line}" for line in _timings(before, after)]
        elif file == "metrics.json":
            found.verdicts += _verdicts(name, before, after)
            found.numbers += _numbers(name, before, after)
        elif file == "run.json":
            run = name.removesuffix("/run.json")
            if before["sha256"]["outputs"] != after["sha256"]["outputs"]:
                found.numbers.append(f"{run}/outputs.npy: other bytes")
            found.numbers += _operators(run, *(folder / run for folder in (old, new)))
    return found


def moved(before: Any, after: Any, path: str = "", allowed: float = ROUNDINGS * U) -> Iterator[str]:
    """Yield a line for each value that moved beyond its tolerance: place, both values, change."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in {**before, **after}:
            prefix = "prob_" if str(key).startswith("prob_") else ""
            error = before.get(f"{prefix}relative_l2_error")
            within = tolerance(error) if isinstance(error, float) else allowed
            yield from moved(before.get(key), after.get(key), f"{path}.{key}".lstrip("."), within)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for i, (a, b) in enumerate(zip(before, after, strict=True)):
            yield from moved(a, b, f"{path}[{i}]", allowed)
    elif _number(before) and _number(after):
        if abs(before - after) > allowed * max(abs(before), abs(after)):
            yield f"{path} {_change(before, after)}"
    elif before != after:
        yield f"{path} {_text(before)} → {_text(after)}"


def _change(before: float, after: float) -> str:
    share = f" ({100 * (after / before - 1):+.3g} %)" if before else ""
    return f"{before:.10g} → {after:.10g}{share}"


def _text(value: Any) -> str:
    """Return a value for a line; of a SHA-256 the beginning."""
    return f"{value[:12]}…" if len(str(value)) == 64 else repr(value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _files(folder: Path) -> dict[str, Path]:
    """Return the JSON files of all runs and systems by their names below the folder."""
    kept = {*CONDITIONS, *(f"{name}.json" for name in FIGURES)}
    found = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*.json"))
        if path.name in kept
    }
    if not found:
        raise ParityError(f"{folder}: found no results here, expected a folder such as results")
    return found


def _figures(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is a figure of two arrays in ``metrics.json``."""
    left_out = {*VERDICT, *HASHES, *EVERYWHERE, "verdict_line", "questions", "criteria"}
    return {
        key: value
        for key, value in metrics.items()
        if key not in left_out | {*CONDITIONS["run.json"]}
    }


def _numbers(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Yield the figures over all inputs that moved; those of inputs and heads are counted."""
    lines = list(moved(_figures(before), _figures(after)))
    overall = [line for line in lines if not line.startswith(("per_input", "heads"))]
    yield from (f"{name}: {line}" for line in overall)
    if len(lines) > len(overall):
        yield f"{name}: {len(lines) - len(overall)} more of single inputs and heads"


def _operators(run: str, *folders: Path) -> Iterator[str]:
    """Yield how the largest error of an operator moved, as a share of its bound."""
    files = [folder / "operators.csv" for folder in folders]
    if not all(file.is_file() for file in files):
        return
    largest = [pd.read_csv(file)["max_error_of_bound"].max() for file in files]
    if largest[0] != largest[1] and not all(map(math.isnan, largest)):
        yield f"{run}/operators.csv: largest error / bound {_change(*largest)}"


def _verdicts(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    run = name.removesuffix("/metrics.json")
    for key in VERDICT:
        if before.get(key) != after.get(key):
            yield f"{run}: {key} {before.get(key)} → {after.get(key)}"
    for criterion, found in before["criteria"].items():
        again = after["criteria"].get(criterion, found)
        if found["pass"] != again["pass"]:
            words = ["pass" if one["pass"] else "FAIL" for one in (found, again)]
            yield f"{run}: criterion of {criterion} {words[0]} → {words[1]}"


def _timings(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for size, one in before["batch_sizes"].items():
        other = after["batch_sizes"].get(size)
        if other is None or one["samples"] == other["samples"]:
            continue
        spread = math.hypot(one["std"] or 0.0, other["std"] or 0.0)
        word = "beyond" if abs(one["mean"] - other["mean"]) > spread else "within"
        busy = ", busy: not comparable" if one.get("busy") or other.get("busy") else ""
        change = _change(one["mean"], other["mean"])
        yield f"batch {size}: mean {change} ms, {word} the spread of the samples{busy}"


def _conditions(pairs: Mapping[str, Any]) -> list[str]:
    """Return the conditions that differ, each with the files that state it."""
    places: dict[str, list[str]] = {}
    for name, (before, after) in pairs.items():
        for key in (*CONDITIONS.get(name.rpartition("/")[2], ()), *EVERYWHERE):
            for line in moved(before.get(key), after.get(key), key):
                places.setdefault(re.sub(r" \(\S+ %\)$", "", line), []).append(name)
    return [
        f"{line} ({names[0]}" + (f" and {len(names) - 1} more)" if len(names) > 1 else ")")
        for line, names in places.items()
    ]
