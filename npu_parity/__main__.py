"""Command line: ``python -m npu_parity predict --system efficientnet_lite0 --image cat.jpg``."""

from pathlib import Path
from typing import Annotated

import typer

from npu_parity import cli
from npu_parity.errors import ParityError

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)


@app.callback()
def npu_parity() -> None:
    """Classify your own images with a system, or measure the numerics of a device."""


@app.command()
def predict(
    system: Annotated[str, typer.Option(help="a system of the configuration (key of models)")],
    image: Annotated[list[Path], typer.Option(help="an image file; may be repeated")],
    device: Annotated[str, typer.Option(help="a device of the configuration")] = "cpu",
    config: Annotated[
        Path, typer.Option(help="the configuration; results/ is in the same folder")
    ] = Path("config.yaml"),
) -> None:
    """Print the five best classes or the digits of each IMAGE, with scores and time."""
    from npu_parity.system import load

    print(*load(system, device, config).predict(image), sep="\n")


@app.command()
def probe(
    device: Annotated[str, typer.Option(help="a device of the configuration")] = "cpu",
    config: Annotated[Path, typer.Option(help="the configuration")] = Path("config.yaml"),
) -> None:
    """Print the mantissa bits that a device keeps of float32 operands, and its rounding."""
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


@app.command()
def accept(
    source: Annotated[str, typer.Argument(help="a source of weights, as in weights.lock.yaml")],
) -> None:
    """Accept the file that a hub has now: remove SOURCE from weights.lock.yaml."""
    from npu_parity.sources import lock

    lock.accept(source)
    print(f"{lock.FILE}: {source} is removed; the next run writes it again")


@app.command()
def verify(
    results: Annotated[Path, typer.Argument(help="the folder of results")] = Path("results"),
) -> None:
    """Compute every hash and every verdict in RESULTS again, and name what does not fit."""
    from npu_parity.audit.verify import verify as check

    lines, wrong = check(results)
    for line in (*lines, *wrong[1:]):
        print(line)
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise ParityError(f"{wrong[0]}{more}")


@app.command()
def audit(
    report: Annotated[Path, typer.Argument(help="a published report: Markdown, text or JSON")],
    results: Annotated[Path, typer.Option(help="folder of results with predictions")] = Path(
        "results"
    ),
) -> None:
    """Say what can be said about somebody else's REPORT without its arrays: docs/audit.md."""
    from npu_parity.audit import published

    found = published.audit(published.read_report(report), results)
    print(*found.lines(), sep="\n")
    if found.contradictions:
        count = len(found.contradictions)
        raise ParityError(f"{report}: {count} of the relations between its figures cannot be true")


def main() -> None:
    """Run the command line."""
    cli.run(app)


if __name__ == "__main__":
    main()
