"""Find out what a device really does to float32: numerics.json."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from npu_parity import cli, evidence
from npu_parity.devices import Device, configured, use_threads


def main(
    weights_folder: cli.Weights,
    inputs: cli.Inputs,
    outputs: Annotated[Path, typer.Option(help="outputs.npy that the device measured")],
    output: Annotated[Path, typer.Option(help="numerics.json")],
    backend: cli.Backend = "cpu",
    numerics: cli.Numerics = "{}",
    threads: cli.Threads = 1,
) -> None:
    """Write which format's prediction lies nearest to the outputs, and what a probe shows."""
    from npu_parity import checkpoints, verdict  # torch: `cli.run` tells why it cannot be imported
    from npu_parity.check import Original
    from npu_parity.numerics import coarser
    from npu_parity.probing import probe

    device = Device(backend, numerics)
    use_threads(threads, device)
    array = evidence.read_inputs(inputs)
    sidecar = evidence.read_json(outputs.with_name("run.json"))
    measured = evidence.read_array(outputs, sidecar["sha256"]["outputs"]).astype(np.float64)
    original = Original(checkpoints.load(weights_folder), array, device)
    with configured(device) as target:
        probed = probe(device=target)
    distances = {n: np.linalg.norm(measured - p) for n, p in original.predictions.items()}
    found = verdict.nearest_numerics(measured, original.predictions)
    evidence.write_json(
        output,
        {
            "found": found,
            "coarser": coarser(found, original.promised),
            "distances": {n: float(d) if np.isfinite(d) else None for n, d in distances.items()},
            "probe": probed,
            "versions": evidence.versions(),
        },
    )


if __name__ == "__main__":
    cli.run(main)
