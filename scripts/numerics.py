"""Measure the real numerics of a device: numerics.json."""

from pathlib import Path
from typing import Annotated

import typer

from npu_parity import cli, evidence


def main(
    weights_folder: cli.Weights,
    inputs: cli.Inputs,
    outputs: Annotated[Path, typer.Option(help="outputs.npy of the device")],
    output: Annotated[Path, typer.Option(help="numerics.json")],
    device: cli.Device = "cpu",
    threads: cli.Threads = 1,
) -> None:
    """Write the distance of each format's prediction from the outputs, and the probe's result."""
    from npu_parity.backends import heads
    from npu_parity.check import Original
    from npu_parity.sources import checkpoints
    from npu_parity.verdict.numerics_found import nearest

    device.use_threads(threads)
    device.take_accelerator()
    array = evidence.read_inputs(inputs)
    sidecar = evidence.read_json(outputs.with_name("run.json"))
    measured = evidence.read_array(outputs, sidecar["sha256"]["outputs"])
    original = Original(checkpoints.load(weights_folder), array, device)
    with device.configured() as target:
        probed = original.probe(target)
    theirs = sidecar["heads"] or original.shapes  # outputs from a file have no names
    found = original.distances(heads.aligned(measured, original.shapes, theirs))
    evidence.write_sidecar(output, {"found": nearest(found), "distances": found, "probe": probed})


if __name__ == "__main__":
    cli.run(main)
