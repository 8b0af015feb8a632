"""Run all inputs on a device and compare the outputs with those of the reference in the results.

python eval/eval_accuracy.py --device npu    writes results/accuracy_eval.json
"""

import sys
from pathlib import Path
from typing import Annotated

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import typer  # noqa: E402

from npu_parity import cli, evidence, load  # noqa: E402
from npu_parity.report import graded  # noqa: E402

SYSTEM = "system"


def main(
    device: Annotated[str, typer.Option(help="a device of config.yaml: cpu or npu")] = "cpu",
) -> None:
    """Print and write every metric, over all inputs and input by input."""
    port = load(SYSTEM, device, ROOT / "config.yaml")
    names, inputs = port.inputs()
    found = port.differences(port.stored(), port.outputs(inputs))
    about = {"system": SYSTEM, "device": device, "run": "measured", **port.describe()}
    evidence.write_sidecar(ROOT / "results/accuracy_eval.json", about | {"names": names, **found})
    print(*graded.lines(about, names, found), sep="\n")


if __name__ == "__main__":
    cli.run(main)
