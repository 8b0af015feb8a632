"""Follow a run through the network, operator by operator: divergence.csv."""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from npu_parity import cli, evidence
from npu_parity.verdict.metrics import worst_input


def main(
    weights_folder: cli.Weights,
    inputs: cli.Inputs,
    metrics: Annotated[Path, typer.Option(help="metrics.json, which gives the worst input")],
    output: Annotated[Path, typer.Option(help="divergence.csv")],
    operators: Annotated[
        Path | None, typer.Option(help="operators.csv of the device", exists=True)
    ] = None,
    device: cli.Device = "cpu",
    ported: cli.Ported = "",
    threads: cli.Threads = 1,
) -> None:
    """Write the error of the prediction, and of the device if measured, after each operator."""
    from npu_parity.check import Original
    from npu_parity.sources import checkpoints

    device.use_threads(threads)
    found = evidence.read_json(metrics)
    original = Original(checkpoints.load(weights_folder), evidence.read_inputs(inputs), device)
    port = alone = None
    if found["run"] == "measured":
        device.take_accelerator()
        port = checkpoints.load(weights_folder, ported or None)
        alone = evidence.read_table(operators).set_index("index")["max_error_of_bound"].to_dict()
    steps = original.follow(port, worst_input(found), alone=alone)
    frame = pd.DataFrame(step.row() for step in steps)
    evidence.write_text(output, frame.to_csv(index=False))


if __name__ == "__main__":
    cli.run(main)
