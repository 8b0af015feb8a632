"""Answer questions 1 and 2 for a device: program.json and operators.csv."""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from npu_parity import cli, evidence


def main(
    weights_folder: cli.Weights,
    inputs: cli.Inputs,
    output: Annotated[Path, typer.Option(help="folder of the run")],
    device: cli.Device = "cpu",
    ported: cli.Ported = "",
    threads: cli.Threads = 1,
) -> None:
    """Write the differences of the port's program, and the error of each operator."""
    from npu_parity.check import Original
    from npu_parity.sources import checkpoints
    from npu_parity.verdict.operators import COLUMNS, without_bound

    used = device.use_threads(threads)
    device.take_accelerator()
    array = evidence.read_inputs(inputs)
    original = Original(checkpoints.load(weights_folder), array, device)
    port = checkpoints.load(weights_folder, ported or None)
    program = original.program(port)  # first, because the path leaves the port on the device
    path = original.path(port)
    program = path.with_program(program)
    operators = original.operators(channels_last=path.channels_last)
    frame = pd.DataFrame([r.row() for r in operators or ()], columns=COLUMNS)
    evidence.write_text(output / "operators.csv", frame.to_csv(index=False))
    evidence.write_sidecar(
        output / "program.json",
        {
            **program.to_dict(),
            "operators": len(frame),
            "inputs": original.chosen,
            "unseen": [*original.unseen(), *path.unseen],
            "without_bound": [
                {"operator": name, "share_of_elements": share}
                for name, share in without_bound(operators or ()).items()
            ],
            "threads": used,
        },
    )


if __name__ == "__main__":
    cli.run(main)
