"""Export a system's network for a device that executes files: network.onnx and network.json."""

from pathlib import Path
from typing import Annotated

import typer

from npu_parity import cli, evidence


def main(
    weights_folder: cli.Weights,
    inputs: cli.Inputs,
    output: Annotated[Path, typer.Option(help=".onnx file; sidecar in the same folder")],
    device: cli.Device = "onnxruntime",
    ported: cli.Ported = "",
    threads: cli.Threads = 1,
) -> None:
    """Write the network with its weights as one ONNX file for any batch size."""
    from npu_parity.backends import onnx
    from npu_parity.sources import checkpoints

    device.use_threads(threads)
    model = checkpoints.load(weights_folder, ported or None)
    digest = onnx.export(model, evidence.read_inputs(inputs), output)
    weights = evidence.sha256(weights_folder / "weights.safetensors")
    evidence.write_sidecar(
        output.with_suffix(".json"),
        {"backend": device.backend, "weights_sha256": weights, "sha256": digest},
    )


if __name__ == "__main__":
    cli.run(main)
