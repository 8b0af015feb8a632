"""Compare a run's outputs with the reference's, and give the verdict: metrics.json."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from npu_parity import cli, evidence
from npu_parity.verdict.judge import judge, output_files, read_case


def main(
    system: Annotated[Path, typer.Argument(help="the folder results/SYSTEM")],
    reference: Annotated[str, typer.Option(help="name of the reference device")],
    device: Annotated[str, typer.Option(help="name of the device")],
    run: Annotated[Literal["measured", "predicted"], typer.Option()],
    output: Annotated[Path, typer.Option(help="metrics.json")],
    task: Annotated[str, typer.Option(help="one of metrics.TASKS")] = "classification",
    hosted: Annotated[bool, typer.Option("--hosted", help="the port also ran on the CPU")] = False,
    heads: Annotated[dict, typer.Option(parser=cli.mapping, help="name: columns; {}: its own")] = (
        "{}"
    ),
) -> None:
    """Write every metric, the published criteria and the verdict of a run of SYSTEM."""
    case = read_case(system, reference, device, task, heads, run, hosted)
    stated = evidence.read_json(system / device / run / "run.json")
    paths = output_files(system, reference, device, run, hosted)
    evidence.write_sidecar(
        output,
        {
            "run": run,
            "reference": reference,
            "task": task,
            "head_widths": heads,
            "backend": stated["backend"],
            "numerics": stated["numerics"],
            "precision": stated["precision"],
            "sha256": {name: evidence.sha256(path) for name, path in paths.items()},
            **judge(case).to_dict(),
        },
    )


if __name__ == "__main__":
    cli.run(main)
