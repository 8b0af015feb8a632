"""The parts of `speed.py`: what one step costs as a multiple of a plain one, by turns.

Other load on the machine affects both sides of a ratio.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import detection
import emulation
import numpy as np
import torch
from sides import ROOT, RUNS, read
from torch.utils.benchmark import Timer

from npu_parity import config, evidence
from npu_parity.backends.device import Device
from npu_parity.backends.latency import time_forward
from npu_parity.backends.machine import cpus
from npu_parity.numerics.formats import Numerics
from npu_parity.sources import checkpoints
from npu_parity.verdict.judge import judge, read_case

PAIRS = 15  # of passes with and without emulation
TURNS = 15  # of reading and comparing; to get memory takes very different times
WARMUP = 3  # passes that do not count
LATENCIES = 40  # turns of our timings and torch's
READINGS = 9  # of the files of a run
LARGE = (50_000, 1_000)  # outputs of a validation set
NETWORKS = ("resnet18", "efficientnet_b0")  # for the tests of products
HF32 = Numerics(conv="hf32", matmul="hf32")


def emulated(place: Path) -> dict[str, list[float]]:
    """Return the ratios of an emulated pass to a plain one with one thread, by system."""
    torch.set_num_threads(1)
    asked = config.load(place / "config.yaml")
    numerics = Device.from_dict(asked["devices"]["npu"]).numerics
    return {s: emulation.ratios(about, numerics, PAIRS) for s, about in asked["models"].items()}


def products() -> dict[str, dict[str, float]]:
    """Return the cost of each part of question 2 as a multiple of a plain pass, by network."""
    torch.set_num_threads(1)
    return {name: detection.costs(name, HF32) for name in NETWORKS}


def metrics(place: Path) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of reading a run's files and of all metrics and the verdict, by run."""
    found: dict[str, dict[str, list[float]]] = {}
    for system, about in config.load(place / "config.yaml")["models"].items():
        for device, run in RUNS.items():
            if device == "cpu":
                continue
            folder, (_, kind) = place / "results" / system, run.split("/")
            case = read_case(folder, "cpu", device, about["task"], about["heads"], kind)
            times: dict[str, list[float]] = {"reading": [], "judging": []}
            for _ in range(READINGS):
                start = time.perf_counter()
                case = read_case(folder, "cpu", device, about["task"], about["heads"], kind)
                middle = time.perf_counter()
                judge(case).to_dict()
                times["reading"].append(middle - start)
                times["judging"].append(time.perf_counter() - middle)
            found[f"{system} {device}"] = times
    return found


def large() -> dict[str, dict[str, list[float]]]:
    """Return the seconds of reading two large files and of comparing them, by task and place.

    ``disk``: their content is not in the system's memory, as when a run has just begun. ``memory``:
    it is there already. Comparing reads the files as well. ``mib`` is the memory that it takes.
    """
    generator = np.random.default_rng(0)
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # /tmp may be in memory
        reference = generator.standard_normal(LARGE, dtype=np.float32)
        device = reference + np.float32(1e-3) * generator.standard_normal(LARGE, dtype=np.float32)
        paths = [Path(folder, f"{name}.npy") for name in ("reference", "device")]
        np.save(paths[0], reference)
        np.save(paths[1], device)
        del reference, device
        for task in ("features", "classification"):
            for place in ("disk", "memory"):
                turns = [
                    [alone(what, paths, place == "disk") for what in ("reading", task)]
                    for _ in range(TURNS)
                ]
                found[f"{task} {place}"] = {
                    "reading": [reading["seconds"] for reading, _ in turns],
                    "comparing": [comparing["seconds"] for _, comparing in turns],
                    "mib": [comparing["mib"] for _, comparing in turns],
                }
    return found


def alone(what: str, files: Sequence[Path], forget: bool) -> dict[str, float]:
    """Return what `large.py` prints, with or without its files in the system's memory."""
    for file in files:
        with file.open("rb") as opened:
            if forget:
                os.fsync(opened)
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while opened.read(2**20):
                    pass
    command = [sys.executable, ROOT / "benchmarks/large.py", what, *files]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def latencies(place: Path, samples: int = 5) -> dict[str, dict[str, list[list[float]]]]:
    """Return our samples and those of ``torch.utils.benchmark`` in ms, by system and turn.

    A turn takes a few samples of each side, so a machine that gets slower slows down both. Every
    second turn begins with the other side.
    """
    torch.set_num_threads(cpus())
    found: dict[str, dict[str, list[list[float]]]] = {}
    for system in read(place)["models"]:
        folder = place / "results" / system
        model = checkpoints.load(folder)
        one = evidence.read_inputs(folder / "inputs.npy")[:1]
        found[system] = {"ours": [], "torch": []}
        sides = [("ours", ours), ("torch", timer)]
        for _ in range(LATENCIES):
            for side, measure in sides:
                found[system][side].append(measure(model, one, samples))
            sides.reverse()
    return found


def ours(model: torch.nn.Module, one: np.ndarray[Any, Any], samples: int) -> list[float]:
    """Return samples of latency.json in ms."""
    found = time_forward(model, one, Device("cpu"), [1], WARMUP, samples, 1)
    return list(found["1"]["samples"])


def timer(model: torch.nn.Module, one: np.ndarray[Any, Any], samples: int) -> list[float]:
    """Return samples of ``torch.utils.benchmark`` in ms for the same passes."""
    names = {"model": model, "x": torch.from_numpy(one)}
    measured = Timer("model(x)", globals=names, num_threads=torch.get_num_threads())
    with torch.no_grad():
        measured.timeit(WARMUP)
        return [1000 * measured.timeit(1).mean for _ in range(samples)]
