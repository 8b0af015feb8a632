"""Does a run of hundreds of systems cost as much for each system as a run of ten?

``python benchmarks/scale.py 10 30`` runs the workflow on 10 and then on 30 systems, each in a new
folder: the smallest networks of timm with seeded weights, by turns and with different seeds, so a
system costs the same on average in every run. `zoo.whole` writes the configuration. One measured
device is added: this CPU once more.

Writes a row for each run to benchmarks/scale.csv, and the table of docs/speed.md. Rows of other
numbers of systems stay. ``--cores`` is that of Snakemake.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from npu_parity import evidence, zoo
from npu_parity.audit.verify import MADE_AGAIN
from npu_parity.backends.machine import cpus

ROOT = Path(__file__).resolve().parents[1]
RESULTS, TABLE = ROOT / "benchmarks" / "scale.csv", ROOT / "docs" / "speed-scale.md"
NETWORKS = 10
TARGET = "results/summary.json"
MEASURED = {"cpu_again": {"backend": "cpu"}}
SHARE = 0.1  # of the time of a run, which planning may take
GROWTH = 1.15  # of the time for each system, from the FEW systems to the MANY
FEW, MANY = 30, 300


@dataclass(frozen=True)
class Process:
    """What a process with all its children took: seconds, and MiB of the largest of them."""

    wall: float
    cpu: float
    memory: float


def smallest() -> dict[str, dict[str, Any]]:
    """Return the systems of the smallest networks.

    This process does not import torch: a new process counts the memory of the one that starts it.
    """
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "config.yaml"
        command = [sys.executable, "-m", "npu_parity", "zoo", "timm:test_*"]
        subprocess.run([*command, "--number", str(NETWORKS), "--to", str(file)], check=True)
        found: dict[str, dict[str, Any]] = yaml.safe_load(file.read_text())["models"]
        return found


def config(systems: int, networks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the configuration of a run."""
    chosen = itertools.islice(itertools.cycle(networks.items()), systems)
    models = {
        f"{name}_{seed}": settings | {"weights": [f"seed:{seed}"]}
        for seed, (name, settings) in enumerate(chosen)
    }
    found = zoo.whole(models)
    return found | {"devices": found["devices"] | MEASURED}


def snakemake(folder: Path, cores: int, *options: str) -> Process:
    """Run the workflow in a folder; exit with what it printed if it fails."""
    profile = ROOT / "profiles" / "default"
    command = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--workflow-profile", str(profile), "--cores", str(cores), TARGET, *options]
    log = folder / "output.txt"
    start = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"error: {' '.join(command)}\n{log.read_text()[-3000:]}")
    return Process(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def size(folder: Path, names: tuple[str, ...] = ("*",)) -> float:
    """Return the MiB of files with these names. A file may vanish."""
    total = 0
    for name in names:
        for path in folder.rglob(name):
            try:
                total += path.stat().st_size * path.is_file()
            except FileNotFoundError:
                continue
    return total / 2**20


class Largest(threading.Thread):
    """Watches how many MiB of weights and inputs are there at once."""

    def __init__(self, folder: Path):
        super().__init__(daemon=True)
        self.folder, self.mib, self.ended = folder, 0.0, threading.Event()

    def run(self) -> None:
        """Look twice a second, or so often that it takes at most 2 % of a CPU."""
        pause = 0.5
        while not self.ended.wait(pause):
            start = time.perf_counter()
            self.mib = max(self.mib, size(self.folder, MADE_AGAIN))
            pause = max(0.5, 50 * (time.perf_counter() - start))


def measure(systems: int, networks: dict[str, dict[str, Any]], cores: int) -> dict[str, Any]:
    """Return the row of a run."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        text = yaml.safe_dump(config(systems, networks), sort_keys=False)
        (folder / "config.yaml").write_text(text)
        planned = snakemake(folder, cores, "--dry-run")
        watch = Largest(folder / "results")
        watch.start()
        run = snakemake(folder, cores)
        watch.ended.set()
        again = snakemake(folder, cores)
        kept = size(folder / "results")
    costs = {
        f"{kind}_{key}": round(value, 2)
        for kind, process in (("planning", planned), ("run", run), ("nothing", again))
        for key, value in asdict(process).items()
    }
    about = {"torch": evidence.versions()["torch"], "cpus": cpus(), "cores": cores}
    large = {"results_mib": round(kept, 2), "large_mib": round(watch.mib, 2)}
    return {"systems": systems, **costs, **large, "load": round(load, 1), **about}


def table(rows: pd.DataFrame) -> str:
    """Return the rows as Markdown, and what they say about growth."""
    shown = pd.DataFrame(
        {
            "Systems": rows.systems.astype(str),
            "Run, s": rows.run_wall.map("{:.0f}".format),
            "For each system, s": (rows.run_wall / rows.systems).map("{:.2f}".format),
            "CPU for each system, s": (rows.run_cpu / rows.systems).map("{:.2f}".format),
            "Planning, s": rows.planning_wall.map("{:.1f}".format),
            "Share of planning": (rows.planning_wall / rows.run_wall).map("{:.1%}".format),
            "Memory of planning, MiB": rows.planning_memory.map("{:.0f}".format),
            "Largest process, MiB": rows.run_memory.map("{:.0f}".format),
            "Results of each system, MiB": (rows.results_mib / rows.systems).map("{:.2f}".format),
            "Most weights and inputs at once, MiB": rows.large_mib.map("{:.0f}".format),
            "Load before": rows.load.map("{:.1f}".format),
        }
    )
    worst = (rows.planning_wall / rows.run_wall).max()
    parts = [
        shown.to_markdown(index=False, disable_numparse=True),
        f"{rows.cores.iloc[0]} of {rows.cpus.iloc[0]} CPUs. Planning took at most {worst:.1%} of a "
        f"run; the aim is {SHARE:.0%}. {_growth(rows)}",
    ]
    return "\n\n".join(parts) + "\n"


def _growth(rows: pd.DataFrame) -> str:
    each = (rows.run_wall / rows.systems).set_axis(rows.systems)
    aim = f"the aim for {MANY} systems is at most {GROWTH} times the time for {FEW}"
    if {FEW, MANY} <= set(each.index):
        return f"A system of {MANY} took {each[MANY] / each[FEW]:.2f} times as long; {aim}."
    return f"Not run yet: {MANY} systems; {aim}."


def main() -> None:
    """Measure, and write both files after each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("systems", nargs="*", type=int, help="numbers of systems, such as 10 30")
    parser.add_argument("--cores", type=int, default=cpus())
    arguments = parser.parse_args()
    rows = pd.read_csv(RESULTS).to_dict("records") if RESULTS.exists() else []
    networks = smallest() if arguments.systems else {}
    for systems in arguments.systems:
        others = [row for row in rows if row["systems"] != systems]
        row = measure(systems, networks, arguments.cores)
        rows = sorted([*others, row], key=lambda row: row["systems"])
        evidence.write_text(RESULTS, pd.DataFrame(rows).to_csv(index=False))
    evidence.write_text(TABLE, table(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()
