"""Preprocess a system's inputs: inputs.npy and its sidecar inputs.json."""

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from npu_parity import cli, evidence
from npu_parity.sources import pretrained
from npu_parity.sources.hubs import unreachable
from npu_parity.sources.images import alike, collect, skipped
from npu_parity.sources.preprocessing import Preprocessing
from npu_parity.sources.weights import beside


def main(
    sources: Annotated[list[str], typer.Argument(help="e.g. skimage:chelsea, random:100, cat.jpg")],
    architecture: Annotated[str, typer.Option(help="e.g. timm:NAME: preprocessing of its weights")],
    output: Annotated[Path, typer.Option(help="the .npy file; the sidecar gets the same folder")],
    preprocessing: Annotated[dict, typer.Option(parser=cli.mapping)] = "{}",
    weights: Annotated[list[str], typer.Option(help="their preprocessing counts first")] = [],  # noqa: B006
    hubs: Annotated[Path | None, typer.Option(help="file with the answers of the hubs")] = None,
    lock: Annotated[Path | None, typer.Option(help="file with the hashes of hub files")] = None,
) -> None:
    """Write the preprocessed SOURCES as one float32 array (inputs, 3, H, W)."""
    named = {source.partition(":")[0] for source in pretrained.asked(weights)}
    out_of_reach = unreachable(named, hubs) if hubs and named else {}
    transform = Preprocessing(architecture, preprocessing, weights, beside(lock, out_of_reach))
    images, arrays = [], []
    for item in collect(sources, transform.shape, transform.background):
        arrays.append(transform(item.data, item.name))  # images are large: none is kept
        about = {"name": item.name, "source": item.source, "sha256": item.sha256}
        images.append(about | {"changes": item.changes})
    for other in (left := skipped(sources)):
        kinds = ", ".join(f"{count} {kind}" for kind, count in other["kinds"].items())
        names = ", ".join(other["names"])
        print(f"{other['source']}: skipped {kinds}: {names}", file=sys.stderr)
    names, array = [about["name"] for about in images], np.stack(arrays)
    digest = evidence.write_array(output, array)
    evidence.write_sidecar(
        output.with_suffix(".json"),
        {
            "names": names,
            "images": images,
            "skipped": left,
            "preprocessing": transform.settings,
            "preprocessing_from": transform.origins,
            "alike": alike(array, names),
            "shape": [len(names), *transform.shape],
            "sha256": digest,
        },
    )


if __name__ == "__main__":
    cli.run(main)
