"""Run all inputs on the CPU and on the NPU of this machine, and compare the outputs.

python compare_cpu_npu.py --device npu    writes logs/accuracy_compare.log and logs/summary.json
"""

from pathlib import Path
from typing import Annotated

import typer

from npu_parity import ParityError, cli, evidence, load
from npu_parity.report import graded

SYSTEM = "system"
ROOT = Path(__file__).resolve().parent


def main(
    device: Annotated[str, typer.Option(help="a device of config.yaml: npu or cpu")] = "npu",
) -> None:
    """Print and write the differences. Exit code 1 if the outputs do not match within 1 %."""
    reference, port = (load(SYSTEM, d, ROOT / "config.yaml") for d in ("cpu", device))
    names, inputs = reference.inputs()
    found = port.differences(reference.outputs(inputs), port.outputs(inputs))
    about = {"system": SYSTEM, "device": device, "run": "measured", **port.describe()}
    lines = graded.lines(about, names, found)
    evidence.write_text(ROOT / "logs/accuracy_compare.log", "\n".join([*lines, ""]))
    evidence.write_sidecar(ROOT / "logs/summary.json", about | graded.only(found))
    print(*lines, sep="\n")
    if not found["match_within_1_percent"]:
        raise ParityError(f"the outputs do not match within 1 %: {found['match_basis']}")


if __name__ == "__main__":
    cli.run(main)
