"""Hold a run's outputs against the reference's: metrics.json."""

from pathlib import Path
from typing import Annotated

import typer

from npu_parity import cli, criteria, evidence
from npu_parity.errors import ParityError
from npu_parity.metrics import compare


def main(
    reference: Annotated[Path, typer.Option(help="outputs.npy of the reference")],
    outputs: Annotated[Path, typer.Option(help="outputs.npy of the run")],
    output: Annotated[Path, typer.Option(help="metrics.json")],
    task: Annotated[str, typer.Option(help="classification, features or digits")] = (
        "classification"
    ),
    heads: Annotated[dict, typer.Option(parser=cli.mapping, help="name: columns")] = "{}",
) -> None:
    """Write every metric and the published criteria, from arrays that match their sidecars."""
    runs = [evidence.read_json(path.with_name("run.json")) for path in (reference, outputs)]
    for kind in ("weights", "inputs"):
        if runs[0]["sha256"][kind] != runs[1]["sha256"][kind]:
            raise ParityError(
                f"{outputs} and {reference} were computed from different {kind} "
                "(their run.json states other hashes): run the older one again"
            )
    arrays = [
        evidence.read_array(path, run["sha256"]["outputs"])
        for path, run in zip((reference, outputs), runs, strict=True)
    ]
    metrics = compare(*arrays, task=task, heads=heads or None)
    evidence.write_json(
        output,
        {
            "run": runs[1]["run"],
            "backend": runs[1]["backend"],
            "numerics": runs[1]["numerics"],
            "sha256": {
                kind: run["sha256"]["outputs"]
                for kind, run in zip(("reference", "outputs"), runs, strict=True)
            },
            **metrics,
            "criteria": criteria.evaluate(metrics),
        },
    )


if __name__ == "__main__":
    cli.run(main)
