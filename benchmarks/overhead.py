"""What does a job cost beyond its work, and a run with nothing to do?

``python benchmarks/overhead.py`` runs one small system, and notes what each program has imported at
its end. Then a program that imports the same, and does nothing, is timed through a shell: as a
plain process and as a warm one, by turns. The run with nothing to do is the one of this folder, so
all results must be there (``make``). ``--jobs`` leaves it out.

Writes benchmarks/overhead.json with all samples, and the table of docs/speed.md. The machine must
be at rest.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from project import SMALL, Project  # noqa: E402

from npu_parity import warm  # noqa: E402
from npu_parity.backends.machine import cpus  # noqa: E402

SAMPLES = 9
# Python runs this before each program of the small run.
NOTED = """
import atexit, json, os, sys


def note():
    program = os.path.basename((sys.orig_argv[1:2] or [""])[0])
    if program.endswith(".py"):
        with open(os.path.join(os.environ["NOTED"], program), "w") as file:
            modules = [name for name in sys.modules if name != "__main__"]
            json.dump(modules, file)


atexit.register(note)
"""
# A program of a job without its work. Some modules are no files: libraries make them themselves.
IDLE = """
import contextlib, importlib, warnings
warnings.simplefilter("ignore")
for name in {modules}:
    with contextlib.suppress(Exception):
        importlib.import_module(name)
"""


def imported(place: Path) -> dict[str, list[str]]:
    """Return the modules that each program has imported at its end, in a run of one system."""
    project = Project.make(place, SMALL)
    noted = place / "noted"
    noted.mkdir()
    (place / "sitecustomize.py").write_text(NOTED)
    path = os.pathsep.join([str(place), str(project.repository)])
    project.env = {"PYTHONPATH": path, "NOTED": str(noted)}
    rules = project.repository / "rules/run.smk"
    rules.write_text(re.sub(r"FEWEST = \d+", "FEWEST = 1000", rules.read_text()))
    project.succeed("all")
    return {file.stem: json.loads(file.read_text()) for file in sorted(noted.glob("*.py"))}


def seconds(command: str, env: Mapping[str, str]) -> float:
    """Return how long a command of bash takes."""
    start = time.perf_counter()
    subprocess.run(["bash", "-c", command], env=env, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


def jobs(modules: Mapping[str, list[str]], place: Path) -> dict[str, dict[str, list[float]]]:
    """Return the samples of each program in seconds, plain and warm."""
    folder = os.path.dirname(sys.executable)
    os.environ["PATH"] = os.pathsep.join([folder, os.environ["PATH"]])
    os.environ["PYTHONPATH"] = str(ROOT)
    plain = os.environ | dict.fromkeys(warm.THREADS, "1")
    warm.start()
    kinds = {"plain": plain, "warm": plain | {"PATH": os.environ["PATH"]}}
    found: dict[str, dict[str, list[float]]] = {}
    for name, wanted in modules.items():
        program = place / f"idle_{name}.py"
        program.write_text(IDLE.format(modules=wanted))
        for env in kinds.values():
            seconds(f"python '{program}'", env)  # the first one reads the files, or waits
        found[name] = {kind: [] for kind in kinds}
        for _ in range(SAMPLES):
            for kind, env in kinds.items():
                found[name][kind].append(seconds(f"python '{program}'", env))
    return found


def runs() -> dict[str, list[float]]:
    """Return the samples of a run with nothing to do and of ``snakemake --version``, in seconds."""
    commands = {"nothing": "snakemake --cores 4 all", "version": "snakemake --version"}
    planned = subprocess.run(
        ["bash", "-c", "snakemake --cores 4 --dry-run all"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    if "Nothing to be done" not in planned.stdout + planned.stderr:
        sys.exit("error: results/ is not complete or outdated: run `make` first")
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(SAMPLES):
        for name, command in commands.items():
            found[name].append(seconds(command, os.environ))
    return found


def table(measured: Mapping[str, Any]) -> str:
    """Return the medians as Markdown."""
    rows = [
        (f"{name}.py", *(f"{statistics.median(samples[k]):.2f}" for k in ("plain", "warm")))
        for name, samples in measured["jobs"].items()
    ]
    middle = [
        statistics.median(statistics.median(samples[kind]) for samples in measured["jobs"].values())
        for kind in ("plain", "warm")
    ]
    rows.append(("median of the programs", *(f"{value:.2f}" for value in middle)))
    text = tabulate(rows, ("Program", "Plain, s", "Warm, s"), "github", disable_numparse=True)
    parts = [text]
    if measured["runs"]:
        nothing, version = (statistics.median(measured["runs"][k]) for k in ("nothing", "version"))
        parts.append(
            f"A run with nothing to do takes {nothing:.1f} s, {nothing / version:.1f} times as "
            f"long as `snakemake --version` ({version:.1f} s)."
        )
    load = measured["load_of_others"]
    samples = {len(one[kind]) for one in measured["jobs"].values() for kind in one}
    parts.append(
        f"Medians; samples of each: {max(samples)}. Before the measurement, {load:.1f} processes "
        f"wanted one of {cpus()} CPUs."
    )
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measure, and write both files."""
    with tempfile.TemporaryDirectory() as folder:
        place, load = Path(folder), os.getloadavg()[0]
        modules = imported(place / "small")
        only_jobs = "--jobs" in sys.argv[1:]
        measured = {
            "load_of_others": load,
            "jobs": jobs(modules, place),
            "runs": {} if only_jobs else runs(),
        }
    (ROOT / "benchmarks/overhead.json").write_text(json.dumps(measured, indent=1) + "\n")
    (ROOT / "docs/speed-overhead.md").write_text(table(measured))


if __name__ == "__main__":
    main()
