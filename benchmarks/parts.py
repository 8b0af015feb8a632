"""The parts of `speed.py`: what one step costs as a multiple of a plain one, by turns.

Other load on the machine affects both sides of a ratio.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import detection
import emulation
import numpy as np
import torch
from sides import RUNS, read
from torch.utils.benchmark import Timer

from npu_parity import config, evidence
from npu_parity.backends.device import Device
from npu_parity.backends.latency import time_forward
from npu_parity.backends.machine import cpus
from npu_parity.numerics.formats import Numerics
from npu_parity.sources import checkpoints
from npu_parity.verdict.judge import judge, read_case
from npu_parity.verdict.metrics import compare

PAIRS = 15  # of passes with and without emulation
TURNS = 3  # of our timings and torch's
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
    """Return the seconds of reading two large arrays and of comparing them, by task."""
    generator = np.random.default_rng(0)
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        reference = generator.standard_normal(LARGE, dtype=np.float32)
        device = reference + np.float32(1e-3) * generator.standard_normal(LARGE, dtype=np.float32)
        paths = [Path(folder, f"{name}.npy") for name in ("reference", "device")]
        np.save(paths[0], reference)
        np.save(paths[1], device)
        del reference, device
        for task in ("features", "classification"):
            times: dict[str, list[float]] = {"reading": [], "comparing": []}
            for _ in range(TURNS):
                start = time.perf_counter()
                for path in paths:
                    np.load(path)
                middle = time.perf_counter()
                compare(*(np.load(path, mmap_mode="r") for path in paths), task)
                times["reading"].append(middle - start)
                times["comparing"].append(time.perf_counter() - middle)
            found[task] = times
    return found


def latencies(place: Path, samples: int = 20) -> dict[str, dict[str, list[float]]]:
    """Return our samples and those of ``torch.utils.benchmark`` in ms, by system."""
    torch.set_num_threads(cpus())
    found: dict[str, dict[str, list[float]]] = {}
    for system in read(place)["models"]:
        folder = place / "results" / system
        model = checkpoints.load(folder)
        one = evidence.read_inputs(folder / "inputs.npy")[:1]
        found[system] = {"ours": [], "torch": []}
        for _ in range(TURNS):
            ours = time_forward(model, one, Device("cpu"), [1], 3, samples, 1)["1"]
            found[system]["ours"] += ours["samples"]
            found[system]["torch"] += timer(model, one, samples)
    return found


def timer(model: torch.nn.Module, one: np.ndarray[Any, Any], samples: int) -> list[float]:
    """Return samples of ``torch.utils.benchmark`` in ms for the same passes."""
    names = {"model": model, "x": torch.from_numpy(one)}
    measured = Timer("model(x)", globals=names, num_threads=torch.get_num_threads())
    with torch.no_grad():
        measured.timeit(3)
        return [1000 * measured.timeit(1).mean for _ in range(samples)]
