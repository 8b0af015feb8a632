"""Run a system on a device, or predict the device: outputs.npy and its sidecar run.json."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from npu_parity import cli, devices, evidence


def main(
    weights_folder: cli.Weights,
    inputs: cli.Inputs,
    output: Annotated[Path, typer.Option(help="outputs.npy; run.json lies beside it")],
    run: Annotated[
        Literal["measured", "predicted", "exact"], typer.Option(help="exact: in float64")
    ] = "measured",
    backend: cli.Backend = "cpu",
    numerics: cli.Numerics = "{}",
    ported: cli.Ported = "",
    batch: Annotated[int, typer.Option(help="inputs computed at a time")] = 1,
    threads: cli.Threads = 1,
) -> None:
    """Write the network's outputs as one float32 array (inputs, columns)."""
    from npu_parity import checkpoints, outputs  # torch: `cli.run` tells why it cannot be imported
    from npu_parity.numerics import Numerics

    device = devices.Device(backend, numerics)
    array = evidence.read_inputs(inputs)
    used = devices.use_threads(threads, device)
    model = checkpoints.load(weights_folder, ported or None)
    result = outputs.RUNS[run](model, array, device, batch)
    executed_on = backend if run == "measured" else "cpu"
    digest = evidence.write_array(output, result)
    evidence.write_json(
        output.with_name("run.json"),
        {
            "run": run,
            "backend": backend,
            "numerics": Numerics.from_dict(numerics).to_dict(),
            "executed_on": {"backend": executed_on, **devices.describe(executed_on)},
            "shape": list(result.shape),
            "batch": batch,
            "threads": used,
            "sha256": {
                "weights": evidence.sha256(weights_folder / "weights.safetensors"),
                "inputs": evidence.sha256(inputs),
                "outputs": digest,
            },
            "versions": evidence.versions(),
        },
    )


if __name__ == "__main__":
    cli.run(main)
