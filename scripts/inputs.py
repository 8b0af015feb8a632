"""Preprocess a system's inputs: inputs.npy and its sidecar inputs.json."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from npu_parity import cli, evidence
from npu_parity.sources.images import alike, collect
from npu_parity.sources.preprocessing import Preprocessing


def main(
    sources: Annotated[list[str], typer.Argument(help="e.g. skimage:chelsea, random:100, cat.jpg")],
    architecture: Annotated[str, typer.Option(help="timm:NAME selects timm's preprocessing")],
    output: Annotated[Path, typer.Option(help="the .npy file; the sidecar gets the same folder")],
    preprocessing: Annotated[dict, typer.Option(parser=cli.mapping)] = "{}",
) -> None:
    """Write the preprocessed SOURCES as one float32 array (inputs, 3, H, W)."""
    transform = Preprocessing(architecture, preprocessing)
    inputs = list(collect(sources, transform.shape))
    names, array = [i.name for i in inputs], np.stack([transform(i.data) for i in inputs])
    digest = evidence.write_array(output, array)
    evidence.write_sidecar(
        output.with_suffix(".json"),
        {
            "names": names,
            "images": [{"name": i.name, "source": i.source, "sha256": i.sha256} for i in inputs],
            "preprocessing": transform.settings,
            "alike": alike(array, names),
            "shape": [len(inputs), *transform.shape],
            "sha256": digest,
        },
    )


if __name__ == "__main__":
    cli.run(main)
