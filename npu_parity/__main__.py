"""Command line: ``python -m npu_parity predict --system efficientnet_lite0 --image cat.jpg``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from npu_parity import cli
from npu_parity.errors import ParityError

if TYPE_CHECKING:
    from npu_parity.report.about import About
    from npu_parity.report.results import System

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)


@app.callback()
def npu_parity() -> None:
    """Classify your own images, measure the numerics of a device, or judge its outputs."""


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
def add(
    source: Annotated[
        str, typer.Argument(help="OWNER/REPO of timm, or modelscope:OWNER/REPO, huggingface:…")
    ],
    name: Annotated[str, typer.Option(help="default: the architecture's name")] = "",
    config: Annotated[Path, typer.Option(help="the configuration")] = Path("config.yaml"),
) -> None:
    """Look at a repository of a hub and add a system with its weights to the configuration."""
    from npu_parity.add import add as append

    found, lines = append(source, name or None, config)
    print(lines, end="")
    for reason in found.missing:
        print(f"left out: {reason}")


@app.command()
def zoo(
    patterns: Annotated[
        list[str], typer.Argument(help="networks, such as 'timm:mobilenetv3*' 'torchvision:*'")
    ],
    to: Annotated[Path, typer.Option(help="a new configuration, such as zoo/config.yaml")],
    number: Annotated[
        int | None, typer.Option(min=1, help="the largest number of networks; the smallest stay")
    ] = None,
    each: Annotated[
        int | None,
        typer.Option(min=1, help="the largest number of networks of each module of the library"),
    ] = None,
) -> None:
    """Write a configuration with a system for each network that fits PATTERNS: docs/guide.md.

    The weights are seeded. Every arithmetic is predicted, and nothing is executed on a device.
    """
    from npu_parity import zoo as writing

    found = writing.write(patterns, to, number, each)
    print(*writing.lines(found), sep="\n", end="\n" * bool(found.left_out))
    command = f"snakemake --cores 4 --directory {to.parent} results/summary.json"
    print(f"{to}: {len(found.systems)} systems; to run them: {command}")


@app.command()
def accept(
    source: Annotated[str, typer.Argument(help="a source of weights, as in weights.lock.yaml")],
) -> None:
    """Accept the file that a hub has now: remove SOURCE from weights.lock.yaml."""
    from npu_parity.sources import lock

    lock.accept(source)
    print(f"{lock.FILE}: {source} is removed; the next run writes it again")


@app.command()
def bundle(
    to: Annotated[Path, typer.Option(help="a new folder, or an archive: .tar, .tar.gz")],
    systems: Annotated[list[str] | None, typer.Argument(help="default: all")] = None,
    environment: Annotated[
        str, typer.Option(help="also pack the wheels of this extra: cpu, npu, npu-cann8, npu-cann9")
    ] = "",
    platform: Annotated[str, typer.Option(help="the processor there: aarch64, x86_64")] = "aarch64",
    python: Annotated[str, typer.Option(help="the Python there")] = "3.11",
) -> None:
    """Pack SYSTEMS for a machine without a network: weights, inputs, workflow, wheels."""
    from npu_parity.bundle import bundle as pack
    from npu_parity.sources.wheels import Target

    target = Target(environment, platform, python) if environment else None
    packed = pack(to, systems or (), target)
    print(f"{to}: {', '.join(packed)}; BUNDLE.txt in it says how to use it")


@app.command()
def crate(
    to: Annotated[Path, typer.Option(help="a new folder, or an archive: .zip")],
) -> None:
    """Write the results and the workflow as RO-Crate, for archives such as Zenodo."""
    from npu_parity import crate as archive

    print(f"{to}: {archive.write(to)} files and ro-crate-metadata.json")


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
def judge(
    reference: Annotated[Path, typer.Option(help="float32 outputs of the reference, .npy")],
    device_outputs: Annotated[Path, typer.Option(help="outputs of the device, .npy")],
    exact: Annotated[
        Path | None,
        typer.Option(
            help="float64 outputs of the reference; default: DEVICE/exact/outputs.npy, if the "
            "reference is DEVICE/measured/outputs.npy of a run"
        ),
    ] = None,
    predicted: Annotated[
        Path | None, typer.Option(help="predicted outputs, if the device rounds operands")
    ] = None,
    task: Annotated[str, typer.Option(help="as in the configuration")] = "classification",
    heads: Annotated[dict, typer.Option(parser=cli.mapping, help="name: columns")] = "{}",  # type: ignore[assignment, type-arg]
    json: Annotated[Path | None, typer.Option(help="also write all figures to this file")] = None,
) -> None:
    """Print the verdict on outputs that any tool computed. Exit code 1: FAIL, 2: a mistake."""
    from npu_parity import evidence
    from npu_parity.verdict import judge as judging
    from npu_parity.verdict.arrays import read_arrays

    try:
        exact = exact or _beside(reference)
        case = read_arrays(reference, device_outputs, exact, predicted, task, heads)
        found = judging.judge(case)
        if json:
            files = {"reference": reference, "measured": device_outputs, "exact": exact}
            files |= {"predicted": predicted} if predicted else {}
            hashes = {name: evidence.sha256(file) for name, file in files.items()}
            evidence.write_sidecar(json, {"task": task, "sha256": hashes, **found.to_dict()})
    except ParityError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    print(found.verdict)
    for answer in found.verdict.answers:
        print(answer, *(f"   {more}" for more in answer.findings[1:]), sep="\n")
    if found.verdict.failed:
        raise typer.Exit(1)


def _beside(reference: Path) -> Path:
    """Return the float64 outputs of a run of the workflow; ParityError if there are none."""
    found = reference.absolute().parent.parent / "exact" / "outputs.npy"
    if not found.is_file():
        raise ParityError(
            f"{reference}: found no float64 outputs, which show the error of float32 itself; "
            "give --exact FILE"
        )
    return found


@app.command()
def audit(
    report: Annotated[
        Path,
        typer.Argument(help="a report in Markdown, text or JSON, or its figures in YAML"),
    ],
    results: Annotated[Path, typer.Option(help="folder of results with predictions")] = Path(
        "results"
    ),
) -> None:
    """Say what can be said about somebody else's REPORT without its arrays: docs/audit.md."""
    from npu_parity.audit import published

    found = published.audit_file(report, results)
    print(*found.lines(), sep="\n")
    if found.contradictions:
        count = len(found.contradictions)
        raise ParityError(f"{report}: {count} of the relations between its figures cannot be true")


Hub = Annotated[str, typer.Option(help="gitcode, modelers, modelscope or huggingface")]
Language = Annotated[str, typer.Option(help="en or zh")]
Config = Annotated[Path, typer.Option(help="the configuration; results/ is in the same folder")]


@app.command()
def card(
    system: Annotated[str, typer.Argument(help="a system of the configuration (key of models)")],
    hub: Hub = "gitcode",
    language: Language = "en",
    output: Annotated[Path | None, typer.Option(help="write to this file")] = None,
    config: Config = Path("config.yaml"),
) -> None:
    """Print the card of SYSTEM with the front matter of a hub, from the results."""
    from npu_parity import evidence
    from npu_parity.report import cards

    described, _, about = _described(system, config)
    text = cards.card(described, about, hub, language)
    if output:
        evidence.write_text(output, text)
    else:
        print(text, end="")


@app.command()
def publish(
    system: Annotated[str, typer.Argument(help="a system of the configuration (key of models)")],
    to: Annotated[Path, typer.Option(help="a new or an empty folder")],
    hub: Hub = "gitcode",
    language: Language = "en",
    upload: Annotated[str, typer.Option(help="OWNER/NAME on huggingface or modelscope")] = "",
    yes: Annotated[
        bool, typer.Option(help="upload now; without it, only say what would be")
    ] = False,
    screenshots: Annotated[
        bool, typer.Option(help="run inference.py and open the page, for pictures in the readme")
    ] = True,
    config: Config = Path("config.yaml"),
) -> None:
    """Write the repository of a port: scripts, weights, evidence and a readme for a hub."""
    from npu_parity.report import publish as publishing
    from npu_parity.report import upload as uploading

    if upload:
        uploading.require(upload, hub)
    described, whole, about = _described(system, config)
    settings, devices = whole["models"][system], whole["devices"]
    files = publishing.publish(described, settings, devices, about, to, hub, language, screenshots)
    size = sum((to / name).stat().st_size for name in files)
    print(f"{to}: {len(files)} files; try: python {to}/inference.py --device {whole['reference']}")
    what = f"{len(files)} files ({size / 2**20:.0f} MiB) to {hub}:{upload}"
    if upload and yes:
        uploading.upload(to, upload, hub, about.license_of(described.weights))
        print(f"uploaded {what}")
    elif upload:
        print(f"dry run: would upload {what}; for that, remove {to} and run again with --yes")


def _described(name: str, path: Path) -> "tuple[System, dict[str, Any], About]":
    """Return a system with the runs that the results have, the configuration, and its texts."""
    from npu_parity import config as configuration
    from npu_parity.report import about, results

    config = configuration.load(path)
    settings = configuration.system(config, name, path)
    folder = path.parent / "results" / name
    planned = [
        f"{device}/{run}"
        for device in [config["reference"], *config["devices"]]
        for run in ("predicted", "measured")
        if (folder / device / run / "run.json").exists()
    ]
    runs = list(dict.fromkeys(planned))
    if f"{config['reference']}/measured" not in runs:
        raise ParityError(f"{folder} has no results of the reference: run `snakemake --cores 4`")
    return results.describe(folder, runs, settings), config, about.of(settings)


@app.command()
def trace(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="README.md, tables, a page, or folders of results", show_default=False),
    ] = None,
) -> None:
    """Derive every number in PATHS again from arrays and samples; default: README.md and results.

    Pictures are drawn again. Exit code 1 if a number or a picture does not match. It is named with
    both values, its place and its origin.
    """
    from npu_parity.audit.trace import trace as follow

    default = [path for path in (Path("results"), Path("README.md")) if path.exists()]
    for path, compared in follow(paths or default):
        print(f"{path}: {compared}")


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(help="a folder of results")],
    new: Annotated[Path, typer.Argument(help="another, of another machine or version")],
) -> None:
    """Say which numbers, verdicts and conditions differ between two folders of results.

    Exit code 0 if nothing but timings moved; 1 if a number, a verdict or the set of runs differs.
    """
    from npu_parity.audit.diff import diff as compare

    found = compare(old, new)
    print(*found.lines(), sep="\n")
    if not found.only_timings:
        raise typer.Exit(1)


def main() -> None:
    """Run the command line."""
    cli.run(app)


if __name__ == "__main__":
    main()
