"""The sides of `speed.py`: the plain scripts of `peer/`, and the workflow, each in its own folder.

Both get the same configuration: the chosen systems, the same devices, and no source of weights that
needs a network.
"""

import base64
import json
import os
import resource
import subprocess
import sys
import tarfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import load_file

from npu_parity import config as configuration
from npu_parity.evidence import manifest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))

from project import PARTS, copy_parts  # noqa: E402

PEER = ROOT / "benchmarks" / "peer"
# The devices of config.yaml that every machine has, and whether the peer measures their latency.
DEVICES = {"cpu": True, "npu": False, "onnxruntime": True}
RUNS = {"cpu": "cpu/measured", "npu": "npu/predicted", "onnxruntime": "onnxruntime/measured"}
NETWORK = ("modelscope:", "huggingface:")  # sources that need one
CLOSE = 1e-4  # relative L2 error between the outputs of the peer and of the workflow
# The same, as a share of what rounded operands change. The last bits of batch norms differ, so some
# operands are rounded the other way: a third was seen.
FLIPPED = 0.5

# What the peer does as well: the rules of the restricted run. All other results are there already.
RULES = ("weights", "inputs", "export", "outputs", "metrics", "latency", "table", "summary")
KEPT = {"program.json", "operators.csv", "numerics.json", "divergence.csv", "divergence.svg"}
# What is more than that in the programs of these rules, by file: float64, and repeated runs.
REPEATED = "npu_parity/backends/outputs.py"
LESS = (
    ("rules/common.smk", "|exact|", "|"),
    (REPEATED, "_difference(first, forward(model, inputs, target, batch))", "0.0"),
    (REPEATED, "for size in sizes:", "for size in ():"),
)
# The stage of a rule or of a script of the peer; any other name is its own stage.
STAGES = {
    "infer": "outputs",
    "export": "outputs",
    "compare": "metrics",
    "tables": "tables and pages",
    **dict.fromkeys(("table", "summary", "card", "page", "figure"), "tables and pages"),
}
ITSELF = "the rest"  # of a run: start, planning, end, waiting

Side = dict[str, Any]  # seconds, cpu_seconds, timed, stages: seconds of each


def prepare(place: Path, systems: Sequence[str] = (), commit: str = "") -> Path:
    """Make a copy of the project without results, of the working tree or of a commit.

    Args:
        place: the new folder.
        systems: names of config.yaml; empty: all.
        commit: anything that git understands.
    """
    if commit:
        packed = place.with_suffix(".tar")
        command = ["git", "archive", "--output", packed, commit, *PARTS, "config.yaml"]
        if subprocess.run(command, cwd=ROOT).returncode:
            sys.exit(f"error: git cannot give {commit!r}")
        with tarfile.open(packed) as archive:
            archive.extractall(place, filter="data")
    else:
        copy_parts(place, [*PARTS, "config.yaml"])
    config = configuration.load(place / "config.yaml")  # with all defaults
    restrict(config, systems)
    write(place, config)
    compiled = [sys.executable, "-m", "compileall", "-q", "npu_parity"]
    subprocess.run(compiled, cwd=place, check=True)  # as after an installation
    return place


def restrict(config: dict[str, Any], systems: Sequence[str]) -> None:
    """Leave the chosen systems, the devices of `DEVICES`, and sources without a network."""
    models = config["models"]
    if unknown := set(systems) - set(models):
        sys.exit(f"error: config.yaml has no system {min(unknown)}, expected {', '.join(models)}")
    config["models"] = {name: models[name] for name in systems or models}
    config["devices"] = {name: config["devices"][name] for name in DEVICES}
    for settings in config["models"].values():
        sources = settings["weights"]
        settings["weights"] = [text for text in sources if not text.startswith(NETWORK)]


def read(place: Path) -> dict[str, Any]:
    """Return config.yaml of a copy."""
    found: dict[str, Any] = yaml.safe_load((place / "config.yaml").read_text(encoding="utf-8"))
    return found


def write(place: Path, config: dict[str, Any]) -> None:
    """Write config.yaml of a copy."""
    text = yaml.safe_dump(config, sort_keys=False)
    (place / "config.yaml").write_text(text, encoding="utf-8")


def run(command: Sequence[str | Path], place: Path) -> tuple[Side, str]:
    """Run a command in a folder, and return its seconds, its CPU seconds and what it printed."""
    env = os.environ | {"PYTHONPATH": str(place)}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, cwd=place, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, command))} failed:\n{done.stdout[-3000:]}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu_seconds": used}, done.stdout


def peer(place: Path) -> Side:
    """Run the plain scripts one after the other, as in a loop of a shell, for every system."""
    systems = list(read(place)["models"])
    others = [device for device in DEVICES if device != "cpu"]
    commands: list[tuple[str, ...]] = []
    for system in systems:
        commands.append(("weights", system))
        commands += [("infer", system, device) for device in DEVICES]
        commands.append(("compare", system, *others))
        commands += [("latency", system, device) for device, timed in DEVICES.items() if timed]
    commands.append(("tables", *systems))
    total: Side = {"seconds": 0.0, "cpu_seconds": 0.0, "stages": defaultdict(float)}
    for script, *arguments in commands:
        one, _ = run([sys.executable, PEER / f"{script}.py", *arguments], place)
        for key in one:
            total[key] += one[key]
        total["stages"][STAGES.get(script, script)] += one["seconds"]
    total["timed"] = timed_passes(place, "peer/*/*/latency.json")
    total["stages"]["latency"] -= total["timed"]
    return total


def workflow(place: Path, *arguments: str) -> Side:
    """Run Snakemake as ``make`` does."""
    start = time.time()
    found, _ = snakemake(place, *arguments)
    jobs = ended(place, start)
    found["timed"] = timed_passes(place, "results/*/*/measured/latency.json", start)
    found["jobs"] = len(jobs)
    found["stages"] = defaultdict(float)
    for stage, began, end in jobs:
        found["stages"][stage] += end - began
    found["stages"]["latency"] -= found["timed"]
    found["stages"][ITSELF] = found["seconds"] - covered([job[1:] for job in jobs])
    return found


def snakemake(place: Path, *arguments: str) -> tuple[Side, str]:
    """Run Snakemake with the options of the Makefile."""
    options = ("--cores", "4", "--workflow-profile", "profiles/default")
    return run([sys.executable, "-m", "snakemake", *options, *arguments], place)


def restricted(full: Path, place: Path, systems: Sequence[str] = ()) -> Path:
    """Make a copy that has all results of a full run but those that the peer makes as well.

    It runs a network once over the inputs, as the peer does, and not again to see what differs.
    """
    prepare(place, systems)
    for folder in manifest.folders(full / "results"):
        found = {f.name for f in folder.iterdir() if f.is_file()} - {manifest.NAME}
        if names := found if folder.name == "exact" else found & KEPT:
            manifest.copy(folder, names, place / folder.relative_to(full))
    for name, old, new in LESS:
        text = (place / name).read_text(encoding="utf-8")
        assert old in text, f"{name} has changed: found no {old!r}"
        (place / name).write_text(text.replace(old, new), encoding="utf-8")
    return place


def targets(place: Path) -> tuple[str, ...]:
    """Return the arguments of Snakemake for the work of the peer, in a folder of `restricted`."""
    systems = list(read(place)["models"])
    files = ["results/tables/summary.md"]
    for system in systems:
        folder = f"results/{system}"
        files += [f"results/tables/{system}.md", f"{folder}/weights.safetensors"]
        for device, run in RUNS.items():
            files.append(f"{folder}/{run}/outputs.npy")
            files += [f"{folder}/{run}/metrics.json"] * (device != "cpu")
            files += [f"{folder}/{run}/latency.json"] * DEVICES[device]
    return (*files, "--allowed-rules", *RULES)


def timed_passes(place: Path, pattern: str, since: float = 0.0) -> float:
    """Return the seconds of all timed passes of latencies in files that are newer than a time.

    A busy machine makes the workflow time a batch size again. The samples of one attempt are kept,
    and stand for each of the others.
    """
    files = [file for file in place.glob(pattern) if file.stat().st_mtime >= since]
    found = [json.loads(file.read_text())["batch_sizes"].values() for file in files]
    sizes = [size for of_file in found for size in of_file]
    return sum(sum(size["samples"]) * size.get("attempts", 1) for size in sizes) / 1000


def ended(place: Path, since: float) -> list[tuple[str, float, float]]:
    """Return the stage, the start and the end of every job since a time, from Snakemake's memory.

    Snakemake remembers each output, and a job may have several.
    """
    found: dict[tuple[str, ...], tuple[str, float, float]] = {}
    for file in place.glob(".snakemake/metadata/**/*"):
        if not file.is_file():
            continue
        about = json.loads(file.read_text())
        start, end = about["starttime"], about["endtime"]
        if start is None or end is None or start < since:
            continue
        output = base64.b64decode(file.name).decode()
        stage = "float64" if "/exact/" in output else STAGES.get(about["rule"], about["rule"])
        key = (about["rule"], *about["log"])
        _, first, last = found.get(key, (stage, start, end))
        found[key] = stage, min(first, start), max(last, end)
    return list(found.values())


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """Return the seconds in which at least one job ran.

    >>> covered([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0)])
    4.0
    """
    total, last = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, last))
        last = max(last, end)
    return total


def compare(scripts: Path, full: Path) -> dict[str, dict[str, float | bool]]:
    """Return how far the outputs of the peer differ from those of the workflow, by run.

    ``weights`` says whether the tensors have the same bits, ``outputs`` the same of the outputs,
    and ``relative_l2_error`` is the difference. It ends the program if both sides do not compute
    the same.
    """
    found: dict[str, dict[str, float | bool]] = {}
    for folder in sorted(path for path in scripts.glob("peer/*") if path.name != "tables"):
        ours = load_file(full / "results" / folder.name / "weights.safetensors")
        theirs = load_file(folder / "weights.safetensors")
        same = ours.keys() == theirs.keys() and all(
            np.array_equal(ours[name], theirs[name]) for name in ours
        )
        for device, run in RUNS.items():
            mine = np.load(full / "results" / folder.name / run / "outputs.npy")
            other = np.load(folder / device / "outputs.npy")
            if device == "cpu":
                exact = mine
            error, rounding = (
                float(np.linalg.norm(array - mine) / np.linalg.norm(mine))
                for array in (other, exact)
            )
            if mine.shape != other.shape or not error <= max(CLOSE, FLIPPED * rounding):
                sys.exit(
                    f"error: {folder.name} on {device}: the peer computes something else: "
                    f"{error:.2g} of the norm, where rounding changes {rounding:.2g}"
                )
            about = {"weights": same, "outputs": np.array_equal(mine, other)}
            found[f"{folder.name} {device}"] = about | {"relative_l2_error": error}
    return found
