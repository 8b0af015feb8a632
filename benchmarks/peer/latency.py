"""Measure the latency of a system: ``python latency.py SYSTEM cpu|onnxruntime``."""

import json
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from shared import folder, load, read_config, read_inputs


def measure(run: Callable[[], object], warmup: int, count: int) -> list[float]:
    """Return the durations of passes in ms, after some that do not count."""
    for _ in range(warmup):
        run()
    samples = []
    for _ in range(count):
        start = time.perf_counter()
        run()
        samples.append(1000 * (time.perf_counter() - start))
    return samples


def prepare(system: str, device: str) -> tuple[Callable[[np.ndarray], Callable[[], object]], dict]:
    """Return a function from a batch to a pass, and the settings of the system."""
    settings = read_config()["models"][system]
    if device == "onnxruntime":
        import onnxruntime

        file = str(folder(system, device) / "network.onnx")
        session = onnxruntime.InferenceSession(file)
        name = session.get_inputs()[0].name
        return lambda batch: lambda: session.run(None, {name: batch}), settings
    model = load(system, settings)

    def on_cpu(batch: np.ndarray) -> Callable[[], object]:
        x = torch.from_numpy(batch)
        return lambda: model(x)

    return on_cpu, settings


def main(system: str, device: str) -> None:
    """Write latency.json with every sample."""
    asked = read_config()["latency"]
    to_pass, settings = prepare(system, device)
    one, found = read_inputs(settings)[:1], {}
    with torch.no_grad():
        for size in asked["batch_sizes"]:
            count = asked["samples"] if size == 1 else asked["batch_samples"]
            run = to_pass(np.repeat(one, size, axis=0))
            samples = measure(run, asked["warmup"], count)
            p50, p95, p99 = (float(p) for p in np.percentile(samples, [50, 95, 99]))
            mean = float(np.mean(samples))
            found[str(size)] = {
                **{"mean": mean, "std": float(np.std(samples, ddof=1))},
                **{"p50": p50, "p95": p95, "p99": p99},
                "throughput": 1000 * size / mean,
                "samples": samples,
            }
    about = {"unit": "ms", "threads": torch.get_num_threads(), "batch_sizes": found}
    (folder(system, device) / "latency.json").write_text(json.dumps(about, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
