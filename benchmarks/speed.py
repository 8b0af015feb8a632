"""How fast is a run, beside the plain scripts that people write for the same work?

``make speed``, or ``python benchmarks/speed.py [--systems svhn_digit …]``. The machine must be at
rest. Each side runs in a folder of its own and starts without results, one after the other:

- ``peer``: the scripts of benchmarks/peer, one process for each step, as the reports work;
- ``full``: the default run;
- ``restricted``: the same run, but only what the peer makes as well. All other results are there;
- ``before``: the default run of an earlier version (``--against COMMIT``).

Then come a run with nothing to do, a run after one change, and single steps beside plain ones.
Installation and downloads do not count. The timed passes of all latencies are subtracted from all
sides. Writes benchmarks/speed.json with all samples, and the table of docs/speed.md with ratios.
"""

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from sides import (
    ITSELF,
    ROOT,
    compare,
    peer,
    prepare,
    read,
    restricted,
    run,
    snakemake,
    targets,
    workflow,
    write,
)
from tabulate import tabulate

from npu_parity import cli, evidence
from npu_parity.backends.machine import cpu_name, cpus

SAMPLES = 3  # of a run with nothing to do
QUIET = 0.5  # processes of others that want a CPU
STAGES = (
    *("weights", "inputs", "outputs", "metrics", "latency", "tables and pages"),
    *("float64", "operators", "numerics", "divergence", ITSELF),
)


def whole_runs(place: Path, systems: list[str], against: str) -> dict[str, Any]:
    """Return all sides of one round. The folder ``full`` of `place` is left for what follows."""
    found: dict[str, Any] = {"peer": peer(prepare(place / "peer", systems))}
    full = prepare(place / "full", systems)
    found["full"] = workflow(full, "all")
    only = restricted(full, place / "restricted", systems)
    found["restricted"] = workflow(only, *targets(only))
    if against:
        found["before"] = workflow(prepare(place / "before", systems, against), "all")
    return found | {"same": compare(place / "peer", full)}


def reruns(full: Path) -> dict[str, Any]:
    """Return a run with nothing to do, beside Snakemake's start, and one after a change."""
    version = [sys.executable, "-m", "snakemake", "--version"]
    found: dict[str, Any] = {"nothing": [], "version": []}
    for _ in range(SAMPLES):
        nothing, printed = snakemake(full, "all")
        if "Nothing to be done" not in printed:
            sys.exit(f"error: a complete run was not complete:\n{printed[-3000:]}")
        found["nothing"].append(nothing["seconds"])
        found["version"].append(run(version, full)[0]["seconds"])
    config = read(full)
    system = list(config["models"].values())[-1]
    system["inputs"].append("random:1")
    write(full, config)
    return found | {"change": workflow(full, "all")}


def single_steps(full: Path, only: Collection[str] = ()) -> dict[str, Any]:
    """Return the samples of steps beside plain ones, of all or `only` some; see `parts`."""
    import parts

    steps = {
        "emulated": partial(parts.emulated, full),
        "products": parts.products,
        "metrics": partial(parts.metrics, full),
        "large": parts.large,
        "latencies": partial(parts.latencies, full),
    }
    if unknown := set(only) - steps.keys():
        sys.exit(f"error: --again: found {', '.join(unknown)}, expected {', '.join(steps)}")
    with contextlib.chdir(full):  # paths in config.yaml are relative
        return {name: samples() for name, samples in steps.items() if name in (only or steps)}


def net(side: Mapping[str, Any]) -> float:
    """Return the seconds of a side without its timed passes."""
    return float(side["seconds"] - side["timed"])


def ratio(rounds: list[dict[str, Any]], side: str, to: str) -> float:
    """Return the median over rounds of the ratio of two sides."""
    return statistics.median(net(one[side]) / net(one[to]) for one in rounds)


def span(values: Mapping[str, float], digits: int = 2) -> str:
    """Return the median and the range of ratios.

    >>> span({"a": 1.0, "b": 1.5, "c": 3.0})
    '1.50 (1.00 to 3.00)'
    """
    found = sorted(values.values())
    middle, low, high = (f"{v:.{digits}f}" for v in (statistics.median(found), found[0], found[-1]))
    return f"{middle} ({low} to {high})"


def table(measured: Mapping[str, Any]) -> str:
    """Return the ratios as Markdown. They are the only figures that other machines share."""
    rounds, reruns, steps = (measured[key] for key in ("rounds", "reruns", "steps"))
    sides = [side for side in ("restricted", "full", "before") if side in rounds[0]]
    names = {
        "restricted": "the default run, only the work of the scripts",
        "full": "the default run",
        "before": f"the default run of {measured['conditions']['against']}",
    }
    rows = [(names[s], "the plain scripts", f"{ratio(rounds, s, 'peer'):.2f}") for s in sides]
    nothing, version = (statistics.median(reruns[key]) for key in ("nothing", "version"))
    rows.append(("a run with nothing to do", "`snakemake --version`", f"{nothing / version:.1f}"))
    changed = net(reruns["change"]) / net(rounds[-1]["full"])
    share = f"{reruns['change']['jobs']} of {rounds[-1]['full']['jobs']} jobs"
    rows.append((f"a run after one input was added, {share}", "the default run", f"{changed:.2f}"))
    if steps:
        rows += step_rows(steps)
    parts = [
        tabulate(rows, ("Time of", "Beside", "Ratio"), "github", disable_numparse=True),
        stage_table(rounds, ["peer", *sides]),
        about(measured),
    ]
    return "\n\n".join(parts) + "\n"


def step_rows(steps: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the rows of single steps: the median and the range over systems."""
    products = {
        name: of["rounded operands"] + of["predicted operands and statistic"]
        for name, of in steps["products"].items()
    }
    judged = medians(steps["metrics"], "judging", "reading")
    timed = {
        name: statistics.median(
            statistics.median(ours) / statistics.median(theirs)
            for ours, theirs in zip(of["ours"], of["torch"], strict=True)
        )
        for name, of in steps["latencies"].items()
    }
    compared = medians(steps["large"], "comparing", "reading")
    emulated = {name: statistics.median(found) for name, found in steps["emulated"].items()}
    return [
        ("an emulated pass (HF32)", "a plain pass", span(emulated)),
        ("the tests with predicted operands and of z", "a plain pass", span(products, 1)),
        ("all metrics and the verdict of a run", "reading its files", span(judged)),
        *(
            (
                f"metrics of 50,000 × 1,000 {kind}",
                f"reading both from the {place}",
                f"{compared[f'{task} {place}']:.1f}",
            )
            for kind, task in (("features", "features"), ("logits", "classification"))
            for place in ("disk", "memory")
        ),
        ("p50 of latency.json", "`torch.utils.benchmark`", span(timed, 3)),
    ]


def medians(found: Mapping[str, Mapping[str, list[float]]], a: str, b: str) -> dict[str, float]:
    """Return the ratio of the medians of two lists, by name.

    >>> medians({"x": {"comparing": [2.0, 3.0], "reading": [5.0]}}, "comparing", "reading")
    {'x': 0.5}
    """
    middle = statistics.median
    return {name: middle(times[a]) / middle(times[b]) for name, times in found.items()}


def stage_table(rounds: list[dict[str, Any]], sides: list[str]) -> str:
    """Return the time of each stage as a share of the scripts' time, as Markdown."""
    rows = []
    for stage in STAGES:
        shares = [
            statistics.median(one[s]["stages"].get(stage, 0.0) / net(one["peer"]) for one in rounds)
            for s in sides
        ]
        if any(shares):
            rows.append((stage, *(f"{100 * share:.1f} %" if share else "" for share in shares)))
    titles = {"peer": "scripts", "restricted": "only their work", "full": "default run"}
    header = ("Stage", *(titles.get(side, side) for side in sides))
    return tabulate(rows, header, "github", disable_numparse=True)


def about(measured: Mapping[str, Any]) -> str:
    """Return what was measured, and how busy the machine was."""
    found = measured["conditions"]
    same = [of for one in measured["rounds"] for of in one["same"].values()]
    equal = sum(of["weights"] and of["outputs"] for of in same)
    far = max(of["relative_l2_error"] for of in same)
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in ("torch", "timm"))
    busy = found["load_of_others"] > QUIET
    most = max(
        (v for one in measured["steps"].get("large", {}).values() for v in one["mib"]), default=0
    )
    memory = f" Comparing two large arrays took at most {most:.0f} MiB." if most else ""
    again = "".join(
        f" {name} was measured again later; before, {load:.1f} processes wanted a CPU."
        for name, load in found.get("again", {}).items()
    )
    warning = "**The machine was busy, so do not rely on these ratios.** " if busy else ""
    return (
        f"{warning}Systems: {', '.join(found['systems'])}. Rounds: {len(measured['rounds'])}. "
        f"{found['cpus']} CPUs ({found['cpu']}), {versions}. Before the measurement, "
        f"{found['load_of_others']:.1f} processes wanted one of them. {equal} of {len(same)} "
        f"arrays of outputs have the same bits on both sides, from the same weights; the largest "
        f"relative L2 error between both sides is {far:.1g}.{memory}{again}"
    )


def main(
    systems: Annotated[list[str] | None, typer.Option(help="of config.yaml; default: all")] = None,
    rounds: Annotated[int, typer.Option(help="of whole runs", min=1)] = 1,
    against: Annotated[str, typer.Option(help="also run this commit")] = "",
    steps: Annotated[bool, typer.Option(help="also measure single steps")] = True,
    again: Annotated[
        list[str] | None, typer.Option(help="only this single step, with the results that are here")
    ] = None,
    to: Annotated[Path, typer.Option(help="the folder of both files")] = ROOT,
) -> None:
    """Measure, and write both files."""
    load = os.getloadavg()[0]
    if again:
        measured = json.loads((to / "benchmarks/speed.json").read_text(encoding="utf-8"))
        measured["steps"] |= single_steps(ROOT, again)
        measured["conditions"].setdefault("again", {}).update(dict.fromkeys(again, load))
        save(measured, to)
        return
    warm = "import snakemake.cli, torch, torchvision, timm, onnxruntime, onnxscript, pandas"
    subprocess.run([sys.executable, "-c", warm], check=True)  # reads the files once
    found: list[dict[str, Any]] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="speed-") as folder:
            place = Path(folder)
            found.append(whole_runs(place, systems or [], against))
            print({side: net(of) for side, of in found[-1].items() if "timed" in of}, flush=True)
            if len(found) == rounds:
                named = list(read(place / "full")["models"])
                single = single_steps(place / "full") if steps else {}
                rerun = reruns(place / "full")
    measured = {
        "conditions": {
            "systems": named,
            "against": against,
            "load_of_others": load,
            "cpu": cpu_name(),
            "cpus": cpus(),
            "system": platform.platform(),
            "versions": evidence.versions(),
        },
        "rounds": found,
        "reruns": rerun,
        "steps": single,
    }
    save(measured, to)


def save(measured: Mapping[str, Any], to: Path) -> None:
    """Write both files into a folder."""
    for folder in ("benchmarks", "docs"):
        (to / folder).mkdir(parents=True, exist_ok=True)
    evidence.write_text(to / "benchmarks/speed.json", json.dumps(measured, indent=1) + "\n")
    evidence.write_text(to / "docs/speed-runs.md", table(measured))


if __name__ == "__main__":
    cli.run(main)
