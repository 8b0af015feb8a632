"""Measure the latency of a system's forward pass on a device: latency.json with all samples."""

from pathlib import Path
from typing import Annotated

import typer

from npu_parity import cli, evidence
from npu_parity.backends.machine import cpus


def main(
    weights_folder: cli.Weights,
    inputs: cli.Inputs,
    output: Annotated[Path, typer.Option(help="latency.json")],
    batch_sizes: Annotated[list[int], typer.Argument(help="e.g. 1 4 8 16")],
    device: cli.Device = "cpu",
    ported: cli.Ported = "",
    exported: cli.Exported = None,
    warmup: Annotated[int, typer.Option(help="passes before the counted, for each size")] = 3,
    samples: Annotated[int, typer.Option(help="counted passes with batch size 1")] = 100,
    batch_samples: Annotated[int, typer.Option(help="counted passes with larger batches")] = 10,
    threads: cli.Threads = 1,
) -> None:
    """Write timings in milliseconds and throughput in images per second, by batch size."""
    from npu_parity.backends.latency import time_forward
    from npu_parity.sources import checkpoints

    array = evidence.read_inputs(inputs)
    used = device.use_threads(threads)
    device.take_accelerator()
    if exported:
        model = device.implementation.opened(exported)
    else:
        model = checkpoints.load(weights_folder, ported or None)
    timings = time_forward(
        model,
        array[:1],
        device,
        batch_sizes,
        warmup,
        samples,
        batch_samples,
    )
    evidence.write_sidecar(
        output,
        {
            "unit": "ms",
            "backend": device.backend,
            "numerics": device.numerics.to_dict(),
            "precision": device.precision,
            "executed_on": {"backend": device.backend, **device.implementation.describe()},
            "threads": used,
            "cpus": cpus(),
            "peak_memory_bytes": device.implementation.peak_memory(),
            "warmup": warmup,
            "batch_sizes": timings,
            "weights_sha256": evidence.sha256(weights_folder / "weights.safetensors"),
        },
    )


if __name__ == "__main__":
    cli.run(main)
