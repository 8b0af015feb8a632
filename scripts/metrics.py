"""Hold a run's outputs against the reference's, and give the verdict: metrics.json."""

from pathlib import Path
from typing import Annotated

import typer

from npu_parity import cli, criteria, evidence, verdict
from npu_parity.errors import ParityError
from npu_parity.metrics import compare, explained


def main(
    reference: Annotated[Path, typer.Option(help="outputs.npy of the reference")],
    exact: Annotated[Path, typer.Option(help="outputs.npy of the reference in float64")],
    predicted: Annotated[Path, typer.Option(help="outputs.npy that the numerics predict")],
    system: Annotated[Path, typer.Option(help="folder with weights.json and inputs.json")],
    output: Annotated[Path, typer.Option(help="metrics.json")],
    measured: Annotated[Path | None, typer.Option(help="outputs.npy of the device")] = None,
    program: Annotated[Path | None, typer.Option(help="program.json of the device")] = None,
    numerics: Annotated[Path | None, typer.Option(help="numerics.json of the device")] = None,
    task: Annotated[str, typer.Option(help="classification, features or digits")] = (
        "classification"
    ),
    heads: Annotated[dict, typer.Option(parser=cli.mapping, help="name: columns")] = "{}",
) -> None:
    """Write every metric, the published criteria and the verdict; arrays must match their hashes.

    The prediction is held against the reference where nothing was measured.
    """
    run = evidence.read_json((measured or predicted).with_name("run.json"))
    paths = {"reference": reference, "exact": exact, "predicted": predicted, "measured": measured}
    paths = {name: path for name, path in paths.items() if path}
    arrays = {name: _outputs(path, run["sha256"]) for name, path in paths.items()}
    runs = verdict.Runs(**arrays, heads=heads or None)
    metrics = compare(runs.reference, arrays[run["run"]], task=task, heads=heads or None)
    pretrained = evidence.read_json(system / "weights.json")["pretrained"]
    answers, without_bound = [], ()
    if measured:
        found, asked = evidence.read_json(numerics), evidence.read_json(program)
        names = evidence.read_json(system / "inputs.json")["names"]
        answers = [verdict.Answer(**answer) for answer in asked["answers"]]
        answers.append(verdict.same_answer(runs, names, found["coarser"]))
        without_bound = asked["without_bound"]
        metrics |= {
            "explained": explained(runs.measured, runs.predicted, runs.reference),
            "numerics_found": found["found"],
        }
    answers.append(verdict.enough_evidence(runs, task, pretrained, without_bound))
    evidence.write_json(
        output,
        {
            "run": run["run"],
            "backend": run["backend"],
            "numerics": run["numerics"],
            "sha256": {name: evidence.sha256(path) for name, path in paths.items()},
            **verdict.Verdict(tuple(answers)).to_dict(),
            **metrics,
            "criteria": criteria.evaluate(metrics),
        },
    )


def _outputs(path: Path, expected: dict[str, str]):
    """Return a run's outputs, computed from the weights and inputs that are expected."""
    run = evidence.read_json(path.with_name("run.json"))
    for kind in ("weights", "inputs"):
        if run["sha256"][kind] != expected[kind]:
            raise ParityError(
                f"{path} was computed from other {kind} than the run it is held against "
                "(their run.json states other hashes): delete it and run again"
            )
    return evidence.read_array(path, run["sha256"]["outputs"])


if __name__ == "__main__":
    cli.run(main)
