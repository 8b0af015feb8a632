"""Command line: ``python -m npu_parity predict --system efficientnet_lite0 --image cat.jpg``."""

from pathlib import Path
from typing import Annotated

import typer

from npu_parity import cli

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)


@app.callback()
def npu_parity() -> None:
    """Ask a system about images of your own, or a device about its arithmetic."""


@app.command()
def predict(
    system: Annotated[str, typer.Option(help="a name among the configuration's models")],
    image: Annotated[list[Path], typer.Option(help="an image file; may be given several times")],
    device: Annotated[str, typer.Option(help="a name among the configuration's devices")] = "cpu",
    config: Annotated[Path, typer.Option(help="results lie beside it")] = Path("config.yaml"),
) -> None:
    """Print the five best classes of each IMAGE, or its digits, with scores and time."""
    from npu_parity.system import load

    print(*load(system, device, config).predict(image), sep="\n")


@app.command()
def probe(
    device: Annotated[str, typer.Option(help="a name among the configuration's devices")] = "cpu",
    config: Annotated[Path, typer.Option(help="the configuration")] = Path("config.yaml"),
) -> None:
    """Print how many mantissa bits of float32 operands a device keeps, and how it rounds."""
    from npu_parity import config as configuration
    from npu_parity.backends.machine import cpus
    from npu_parity.numerics import probing

    chosen = configuration.device(configuration.load(config), device, config)
    chosen.use_threads(cpus())
    with chosen.configured() as target:
        found = probing.probe(device=target)
    for kind, result in found.items():
        rounding = f", rounding {result['rounding']}" if result["rounding"] else ""
        name = result["format"] or "no known format"
        print(f"{device} {kind}: {result['mantissa_bits']} mantissa bits{rounding} ({name})")


def main() -> None:
    """Run the command line."""
    cli.run(app)


if __name__ == "__main__":
    main()
