"""How much longer does a run take on a busy machine? ``python benchmarks/busy.py``.

Runs the default configuration in two new folders: on the machine as it is, and then beside one busy
process for each CPU. Prints both durations, their ratio, and how many latencies were marked busy.
The machine must be at rest.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep so many CPUs busy."""
    command = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(command) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def run(folder: Path) -> tuple[float, dict[str, bool]]:
    """Run everything in a new folder; return the duration in seconds, and the busy latencies."""
    shutil.copy(ROOT / "config.yaml", folder)
    shutil.copytree(ROOT / "models", folder / "models")
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
        *("--directory", str(folder), "--workflow-profile", str(ROOT / "profiles" / "default")),
        *("--cores", str(len(os.sched_getaffinity(0))), "all"),
    ]
    start = time.perf_counter()
    with open(folder / "output.log", "w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    seconds = time.perf_counter() - start
    marked = {}
    for file in sorted(folder.glob("results/*/*/measured/latency.json")):
        for size, found in json.loads(file.read_text())["batch_sizes"].items():
            marked[f"{file.relative_to(folder / 'results').parent} {size}"] = found["busy"]
    return seconds, marked


def main() -> None:
    """Print the durations, their ratio, and how many latencies were marked."""
    durations = []
    for name, processes in (("at rest", 0), ("busy", len(os.sched_getaffinity(0)))):
        with tempfile.TemporaryDirectory() as folder, busy(processes):
            seconds, marked = run(Path(folder))
        durations.append(seconds)
        count = f"{sum(marked.values())} of {len(marked)} latencies marked busy"
        print(f"{name}: {seconds:.0f} s, {count}", flush=True)
    print(f"ratio: {durations[1] / durations[0]:.2f}")


if __name__ == "__main__":
    main()
