"""Measure latency and throughput on a device, by batch size.

python eval/eval_performance.py --device npu    writes results/performance_eval.json
"""

import sys
from pathlib import Path
from typing import Annotated

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import typer  # noqa: E402

from npu_parity import cli, evidence, load  # noqa: E402

SYSTEM = "system"


def main(
    device: Annotated[str, typer.Option(help="a device of config.yaml: cpu or npu")] = "cpu",
    batch: Annotated[list[int], typer.Option(help="a batch size; may be repeated")] = [1, 4, 8, 16],  # noqa: B006
    warmup: Annotated[int, typer.Option(min=0, help="passes that do not count")] = 3,
    samples: Annotated[int, typer.Option(min=2, help="timed passes of each batch size")] = 10,
) -> None:
    """Print and write mean, standard deviation, percentiles and throughput."""
    from npu_parity.backends.latency import time_forward
    from npu_parity.report.tables import number, spread

    port = load(SYSTEM, device, ROOT / "config.yaml")
    sample = port.inputs()[1][:1]
    timed = time_forward(port.model, sample, port.device, batch, warmup, samples, samples)
    about = {"system": SYSTEM, "device": device, "run": "measured", **port.describe()}
    evidence.write_sidecar(
        ROOT / "results/performance_eval.json",
        about | {"unit": "ms", "warmup": warmup, "batch_sizes": timed},
    )
    for size, found in timed.items():
        tail = ", ".join(f"{key} {number(found[key])}" for key in ("p50", "p95", "p99"))
        print(f"batch {size}: {spread(found)}; {tail} ms; {number(found['throughput'])} images/s")


if __name__ == "__main__":
    cli.run(main)
