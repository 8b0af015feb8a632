"""The repository that the author of a port hands in: scripts, weights, evidence and a readme.

The folder runs alone. It has this package, the weights and the inputs, so nothing is fetched.
"""

import importlib.metadata
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from npu_parity import evidence
from npu_parity.backends.device import BACKENDS
from npu_parity.errors import ParityError
from npu_parity.evidence import manifest
from npu_parity.evidence.files import PACKAGE
from npu_parity.report import cards, graded, hubs, screenshots
from npu_parity.report.about import About
from npu_parity.report.results import System

SCRIPTS = PACKAGE / "data" / "port"
# Packages that the scripts import, beside those whose versions a run records.
NEEDED = (
    *("huggingface-hub", "jsonschema", "modelscope", "pandas", "pyyaml", "requests", "tabulate"),
    "typer",
)
# Hubs show this file first. GitCode shows any spelling.
README = {"gitcode": "readme.md"}
LARGE = (
    "*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.npy filter=lfs diff=lfs merge=lfs -text\n"
)
LEFT_OUT = ".onnx"  # made again from the weights


def publish(
    system: System,
    settings: dict[str, Any],
    devices: dict[str, Any],
    about: About,
    folder: Path,
    hub: str = "gitcode",
    language: str = "en",
    pictures: bool = True,
) -> list[str]:
    """Write the repository into a folder and return the names of its files.

    Args:
        system: a system of the results.
        settings: its configuration.
        devices: the devices of the configuration.
        about: what people wrote about it.
        folder: a new or an empty folder.
        hub: the hub whose front matter the readme has.
        language: of the readme, ``en`` or ``zh``.
        pictures: whether to run inference.py and to open the page, for screenshots in the readme.

    Raises:
        ParityError: the folder is not empty or lies in results, a result is missing or was changed,
            or a file of the user lies outside the project. Nothing is written then.
    """
    _require_empty(folder)
    cards.card(system, about, hub, language)  # a mistake is found before anything runs
    run = port_run(system)
    with tempfile.TemporaryDirectory(dir=_parent(folder), prefix=".publish-") as place:
        work = Path(place) / "repository"
        shutil.copytree(PACKAGE, work / "npu_parity", ignore=shutil.ignore_patterns("__pycache__"))
        for script in sorted(SCRIPTS.rglob("*.py")):
            target = work / script.relative_to(SCRIPTS)
            text = script.read_text(encoding="utf-8")
            named = text.replace('SYSTEM = "system"', f'SYSTEM = "{system.name}"')
            _write(target, named.replace('load(SYSTEM, "cpu"', f'load(SYSTEM, "{_device(system)}"'))
        _copy_results(system.folder, work / "results" / system.name)
        for name in _own_files(system, settings):
            _carry(name, work)
        _write(work / "config.yaml", _yaml(_configuration(system, settings, devices)))
        _write(work / "requirements.txt", requirements(system.run[run]))
        _write(work / ".gitattributes", LARGE)
        _write_logs(system, run, work)
        _copy_assets(system.folder, work / "assets")
        if license_ := _license():
            _write(work / "LICENSE", license_)
        shots = dict(_screenshots(system, run, work)) if pictures else {}
        readme = cards.card(system, about, hub, language, shots)
        _write(work / README.get(hub, "README.md"), readme)
        if folder.exists():
            folder.rmdir()
        work.rename(folder)
        folder.chmod(0o755)
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def port_run(system: System) -> str:
    """Return the run that the logs are about: the NPU's, measured if possible, or the last one."""
    found = [*hubs.on_npu(system, "/measured"), *hubs.on_npu(system, "/predicted"), system.runs[-1]]
    return found[0]


def requirements(run: dict[str, Any]) -> str:
    """Return the text of requirements.txt: the versions of a run, and of what the scripts import.

    A local part of a version, such as ``+cpu``, is left out: package indexes have none.
    """
    recorded = {k: v for k, v in run["versions"].items() if k not in ("python", "npu-parity")}
    found = recorded | {name: importlib.metadata.version(name) for name in NEEDED}
    lines = [f"{name}=={version.partition('+')[0]}" for name, version in found.items()]
    head = [f"# As in {run['run']} of {run['backend']}, Python {run['versions']['python']}."]
    if "torch-npu" not in found:
        head.append(
            "# No NPU was used. On an NPU install the torch and torch-npu that fit its CANN:"
        )
        head += [f"#   {pair}" for pair in _pairs()]
    return "\n".join([*head, *lines, ""])


def _pairs() -> Iterator[str]:
    """Yield the pairs of torch and torch-npu that the package names, by its extras."""
    extras: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("npu-parity") or ():
        requirement, _, marker = line.partition(";")
        extra = marker.rpartition("extra ==")[2].strip().strip("'\"")
        if extra.startswith("npu-"):
            extras.setdefault(extra, []).append(requirement.strip())
    for extra, found in extras.items():
        yield f"{extra.removeprefix('npu-')}: {' '.join(sorted(found))}"


def _require_empty(folder: Path) -> None:
    if manifest.holds(folder / "file"):
        raise ParityError(f"{folder} lies in results, expected a folder of its own")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ParityError(f"{folder} is not empty, expected a new or an empty folder")


def _parent(folder: Path) -> Path:
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParityError(f"{folder} cannot be written: {error.strerror or error}") from error
    return folder.absolute().parent


def _device(system: System) -> str:
    return system.runs[0].partition("/")[0]


def _copy_results(source: Path, target: Path) -> None:
    """Copy the results that their manifests hold. A file that was changed is a ParityError."""
    for folder in manifest.folders(source):
        entries = manifest.read(folder)
        for file in (folder / name for name in entries if not name.endswith(LEFT_OUT)):
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(evidence.read_bytes(file))
        if entries:
            shutil.copyfile(
                folder / manifest.NAME, target / folder.relative_to(source) / manifest.NAME
            )


def _own_files(system: System, settings: dict[str, Any]) -> Iterable[str]:
    """Return the user's own files that the scripts read, as the configuration names them."""
    networks = [system.weights["architecture"], settings.get("ported", "")]
    files = [a.rpartition(":")[0] for a in networks if ".py:" in a]
    return [*files, *([settings["labels"]] if settings.get("labels") else [])]


def _carry(name: str, target: Path) -> None:
    """Copy a file under its own name. A file of this package is there already."""
    source = evidence.find(name)
    if source is None:
        raise ParityError(f"{name}: {evidence.problem(name)}")
    if source.is_relative_to(PACKAGE):
        return
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ParityError(
            f"{name}: found a file outside the project, expected a relative path: move it beside "
            "config.yaml, change the configuration and run again"
        )
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target / name)


def _configuration(
    system: System, settings: dict[str, Any], devices: dict[str, Any]
) -> dict[str, Any]:
    """Return the configuration of the folder: the reference, the NPUs and this system.

    Weights and inputs are the files of the folder. The preprocessing is written out.
    """
    reference, folder = _device(system), f"results/{system.name}"
    npus = {name: d for name, d in devices.items() if d["backend"] == "npu"}
    kept = {k: v for k, v in settings.items() if k not in ("about", "seeded", "tables")}
    allowed = ("resize", "crop", "interpolation", "mean", "std", "background")
    preprocessing = {k: v for k, v in system.inputs["preprocessing"].items() if k in allowed}
    kept |= {
        "weights": [f"path:{folder}/weights.safetensors"],
        "inputs": [f"{folder}/inputs.npy"],
        "preprocessing": preprocessing,
    }
    return {
        "reference": reference,
        "devices": {reference: devices[reference], **(npus or {"npu": {"backend": "npu"}})},
        "models": {system.name: kept},
    }


def _write_logs(system: System, run: str, work: Path) -> None:
    """Write the comparison of a run as the scripts of the folder would write it."""
    found = system.metrics[run]
    fields = {"system": system.name, **graded.fields(system, run)}
    verdict = {key: found[key] for key in ("verdict", "evidence", "verdict_line")}
    both = found | graded.differences(found, system.prefix)
    lines = graded.lines(fields, system.inputs["names"], both)
    _write(work / "logs/accuracy_compare.log", "\n".join([*lines, found["verdict_line"], ""]))
    evidence.write_json(work / "logs/summary.json", fields | verdict)
    whole = fields | {"executed_on": system.run[run]["executed_on"], **both}
    evidence.write_json(work / "results/accuracy_eval.json", whole)


def _copy_assets(source: Path, target: Path) -> None:
    target.mkdir()
    for file in (source / "divergence.svg", source.parent / "report.html"):
        if file.is_file():
            shutil.copyfile(file, target / file.name)


def _screenshots(system: System, run: str, work: Path) -> Iterator[tuple[str, str]]:
    """Write screenshots into ``assets/``; yield their names and why they are left out, or ""."""
    device, _, kind = run.partition("/")
    executed = kind == "measured" and BACKENDS[system.run[run]["backend"]].executes
    command = ["inference.py", "--device", device if executed else _device(system)]
    try:
        _write(work / "assets/inference.svg", screenshots.terminal(command, work))
        yield "inference.svg", ""
    except ParityError as error:
        yield "inference.svg", str(error)
    try:
        if not (work / "assets/report.html").is_file():
            raise ParityError("the results have no report.html")
        screenshots.page(work / "assets/report.html", work / "assets/page.png")
        yield "page.png", ""
    except ParityError as error:
        yield "page.png", str(error)


def _license() -> str | None:
    """Return the licence of this package, from the checkout or the installed distribution."""
    file = PACKAGE.parent / "LICENSE"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    return importlib.metadata.distribution("npu-parity").read_text("licenses/LICENSE")


def _yaml(data: dict[str, Any]) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
