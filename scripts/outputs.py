"""Run a system on a device, or predict the device: outputs.npy and its sidecar run.json."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from npu_parity import cli, evidence
from npu_parity.backends.device import Device

SEED = 0  # makes a network with random numbers reproducible


def main(
    weights_folder: cli.Weights,
    inputs: cli.Inputs,
    output: Annotated[Path, typer.Option(help="outputs.npy; run.json gets the same folder")],
    run: Annotated[
        Literal["measured", "predicted", "exact", "hosted"],
        typer.Option(help="exact: in float64; hosted: the port on this CPU"),
    ] = "measured",
    device: cli.Device = "cpu",
    ported: cli.Ported = "",
    exported: cli.Exported = None,
    dumped: Annotated[
        Path | None, typer.Option(help="outputs of another tool, .npy; nothing is executed")
    ] = None,
    batch: Annotated[int, typer.Option(help="number of inputs in one forward pass")] = 1,
    also: Annotated[list[int] | None, typer.Argument(help="other batch sizes to compare")] = None,
    threads: cli.Threads = 1,
) -> None:
    """Write the network's outputs as one float32 array (inputs, columns)."""
    from npu_parity.backends import dumps, outputs
    from npu_parity.backends.precision import narrow
    from npu_parity.sources import checkpoints

    array = evidence.read_inputs(inputs)
    used = device.use_threads(threads)
    place = device if run == "measured" else Device("cpu")
    place.take_accelerator()
    place.implementation.seed(SEED)
    found = {"precision": device.precision}
    if exported:
        model = place.implementation.opened(exported)
    elif not dumped:
        model = checkpoints.load(weights_folder, ported or None)
    if dumped:
        result = dumps.read_dump(dumped, len(array))
        found |= dumps.UNSEEN
    elif run == "measured":
        measured, found["repeated"] = outputs.measure_repeatedly(
            model, array, device, batch, also or ()
        )
        result = measured.array
        found |= {"heads": measured.shapes, "notes": measured.notes}
    elif run == "predicted":
        result, found["overflow"] = outputs.predict_watched(model, array, device, batch)
        errors = outputs.further_errors(model, array, result, device, batch)
        found["errors"] = None if errors is None else errors.tolist()
    else:
        result = outputs.RUNS[run](model, array, device, batch)
        if not narrow(model, device.precision):  # a port in float32, on this CPU
            found["precision"] = "fp32"
    with place.configured():
        switches = place.implementation.found_switches(place.numerics)
    digest = evidence.write_array(output, result)
    files = {"exported": exported, "dumped": dumped}
    evidence.write_sidecar(
        output.with_name("run.json"),
        {
            "run": run,
            "backend": device.backend,
            "numerics": device.numerics.to_dict(),
            "executed_on": {"backend": place.backend, **place.implementation.describe()},
            "switches": switches,
            "seed": SEED,
            "shape": list(result.shape),
            "batch": batch,
            **found,
            "threads": used,
            "sha256": {
                "weights": evidence.sha256(weights_folder / "weights.safetensors"),
                "inputs": evidence.sha256(inputs),
                "outputs": digest,
                **{name: evidence.sha256(file) for name, file in files.items() if file},
            },
        },
    )


if __name__ == "__main__":
    cli.run(main)
