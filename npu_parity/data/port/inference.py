"""Predict images on a device, and compare with the reference.

python inference.py --image cat.jpg --device npu --compare
"""

from pathlib import Path
from typing import Annotated

import typer

from npu_parity import cli, load

SYSTEM = "system"
CONFIG = Path(__file__).resolve().parent / "config.yaml"


def main(
    image: Annotated[list[Path] | None, typer.Option(help="an image; may be repeated")] = None,
    device: Annotated[str, typer.Option(help="a device of config.yaml: cpu or npu")] = "cpu",
    compare: Annotated[bool, typer.Option(help="also run on the CPU and show the errors")] = False,
) -> None:
    """Print the answer for each IMAGE, or for the inputs in the results if no image is given."""
    port = load(SYSTEM, device, CONFIG)
    found = port.predict(image) if image else port.predict_inputs()
    print(*found, sep="\n")
    if compare:
        reference = load(SYSTEM, "cpu", CONFIG)
        expected = reference.predict(image) if image else reference.predict_inputs()
        for ours, theirs in zip(expected, found, strict=True):
            errors = port.differences(ours.outputs[None], theirs.outputs[None])
            shown = ("max_abs_diff", "mean_abs_diff", "cosine_similarity", "top1_match")
            print(ours.image, *(f"{key}={errors[key]}" for key in shown))


if __name__ == "__main__":
    cli.run(main)
