"""Probe how a device rounds float32 operands, before any network runs there: probes/DEVICE.json."""

from pathlib import Path
from typing import Annotated

import typer

from npu_parity import cli, evidence


def main(
    output: Annotated[Path, typer.Option(help="the JSON file")],
    device: cli.Device = "cpu",
    threads: cli.Threads = 1,
) -> None:
    """Write the mantissa bits that the device keeps, with its settings and its description."""
    from npu_parity.numerics.probing import probe

    device.use_threads(threads)
    device.take_accelerator()
    backend = device.implementation
    with device.configured() as target:
        found, switches = probe(device=target), backend.found_switches(device.numerics)
    evidence.write_sidecar(
        output,
        {
            "backend": device.backend,
            "numerics": device.numerics.to_dict(),
            "executed_on": {"backend": device.backend, **backend.describe()},
            "switches": switches,
            "probe": found,
        },
    )


if __name__ == "__main__":
    cli.run(main)
