"""Ask questions 1 and 2 of a device: program.json and operators.csv."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from npu_parity import cli, evidence
from npu_parity.devices import Device, configured, use_threads


def main(
    weights_folder: cli.Weights,
    inputs: cli.Inputs,
    output: Annotated[Path, typer.Option(help="folder of the run")],
    backend: cli.Backend = "cpu",
    numerics: cli.Numerics = "{}",
    ported: cli.Ported = "",
    threads: cli.Threads = 1,
) -> None:
    """Write how the port's program differs, and each operator against its bound."""
    import torch  # here, so that `cli.run` tells why it cannot be imported

    from npu_parity import checkpoints
    from npu_parity.check import Original
    from npu_parity.numerics import shortfall
    from npu_parity.operators import without_bound
    from npu_parity.probing import probe
    from npu_parity.verdict import Answer, same_kernels

    device = Device(backend, numerics)
    use_threads(threads, device)
    array = evidence.read_inputs(inputs)
    original = Original(checkpoints.load(weights_folder), array[:1], device)
    port = checkpoints.load(weights_folder, ported or None)
    differences, operators = original.differences(port), original.operators
    with configured(device) as target:
        lacking = shortfall(probe(device=target), original.promised)
    answers = (Answer(1, not differences, tuple(differences)), same_kernels(operators, lacking))
    frame = pd.DataFrame(result.row() for result in operators)
    evidence.write_text(output / "operators.csv", frame.to_csv(index=False))
    evidence.write_json(
        output / "program.json",
        {
            "answers": [asdict(answer) for answer in answers],
            "operators": len(operators),
            "without_bound": without_bound(operators),
            "threads": torch.get_num_threads(),
            "versions": evidence.versions(),
        },
    )


if __name__ == "__main__":
    cli.run(main)
