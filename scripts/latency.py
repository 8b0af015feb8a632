"""Time a system's forward pass on a device: latency.json, every sample kept."""

from pathlib import Path
from typing import Annotated

import typer

from npu_parity import cli, devices, evidence


def main(
    weights_folder: cli.Weights,
    inputs: cli.Inputs,
    output: Annotated[Path, typer.Option(help="latency.json")],
    batch_sizes: Annotated[list[int], typer.Argument(help="e.g. 1 4 8 16")],
    backend: cli.Backend = "cpu",
    numerics: cli.Numerics = "{}",
    ported: cli.Ported = "",
    warmup: Annotated[int, typer.Option(help="passes not counted, each batch size")] = 3,
    samples: Annotated[int, typer.Option(help="counted passes of a batch of one")] = 100,
    batch_samples: Annotated[int, typer.Option(help="counted passes of a larger batch")] = 10,
    threads: cli.Threads = 1,
) -> None:
    """Write timings in milliseconds and throughput in images a second, by batch size."""
    from npu_parity import checkpoints  # torch: `cli.run` tells why it cannot be imported
    from npu_parity.latency import time_forward

    device = devices.Device(backend, numerics)
    array = evidence.read_inputs(inputs)
    used = devices.use_threads(threads, device)
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
    evidence.write_json(
        output,
        {
            "unit": "ms",
            "backend": backend,
            "numerics": numerics,
            "executed_on": {"backend": backend, **devices.describe(backend)},
            "threads": used,
            "cpus": devices.cpus(),
            "warmup": warmup,
            "batch_sizes": timings,
            "weights_sha256": evidence.sha256(weights_folder / "weights.safetensors"),
            "versions": evidence.versions(),
        },
    )


if __name__ == "__main__":
    cli.run(main)
