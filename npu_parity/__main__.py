"""Command line: ``python -m npu_parity predict --system efficientnet_lite0 --image cat.jpg``."""

from pathlib import Path
from typing import Annotated

import typer

from npu_parity import cli

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)


@app.callback()
def npu_parity() -> None:
    """Ask a system of the configuration about images of your own."""


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


def main() -> None:
    """Run the command line."""
    cli.run(app)


if __name__ == "__main__":
    main()
