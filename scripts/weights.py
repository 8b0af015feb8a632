"""Fetch or draw a system's weights: weights.safetensors and its provenance, weights.json."""

from pathlib import Path
from typing import Annotated

import typer

from npu_parity import cli, evidence
from npu_parity.sources import architectures
from npu_parity.sources.clients import CLIENTS
from npu_parity.sources.hubs import unreachable


def main(
    sources: Annotated[list[str], typer.Argument(help="in the order of trial, e.g. seed:42")],
    architecture: Annotated[str, typer.Option(help="e.g. timm:efficientnet_b0")],
    output: Annotated[Path, typer.Option(help=".safetensors file; sidecar in the same folder")],
    arguments: Annotated[dict, typer.Option(parser=cli.mapping)] = "{}",
    preprocessing: Annotated[dict, typer.Option(parser=cli.mapping)] = "{}",
    seeded: Annotated[dict, typer.Option(parser=cli.mapping)] = "{}",
    tensors: str = "by_name",
    state: Annotated[str, typer.Option(help="the state dict within a checkpoint, e.g. ema")] = "",
    calibrate: bool = True,
    hubs: Annotated[Path | None, typer.Option(help="file with the answers of the hubs")] = None,
    lock: Annotated[Path | None, typer.Option(help="file with the hashes of hub files")] = None,
) -> None:
    """Try SOURCES in order and write the first available one as one safetensors file."""
    import torch  # here, so that `cli.run` explains a failed import

    from npu_parity.sources.weights import Wanted, obtain, save

    torch.set_num_threads(1)  # calibrated statistics must not depend on the number of cores
    wanted = Wanted(
        architecture,
        arguments,
        sources,
        seeded,
        tensors,
        calibrate,
        preprocessing,
        state or None,
        lock,
    )
    named = {source.partition(":")[0] for source in sources} & set(CLIENTS)
    state, provenance = obtain(wanted, unreachable(named, hubs) if hubs and named else {})
    model = architectures.build(architecture, arguments)
    digest = save(state, output)
    evidence.write_sidecar(
        output.with_suffix(".json"),
        {
            "architecture": architecture,
            "arguments": arguments,
            **provenance,
            "parameters": architectures.parameters(model),
            "tensors": len(state),
            "sha256": digest,
        },
    )


if __name__ == "__main__":
    cli.run(main)
