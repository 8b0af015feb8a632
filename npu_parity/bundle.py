"""Pack systems and all that they need for a machine without a network: ``npu-parity bundle``."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from npu_parity import config, evidence
from npu_parity.errors import ParityError, shorten
from npu_parity.evidence import document, manifest
from npu_parity.evidence.files import PACKAGE
from npu_parity.sources import containers, lock, wheels

PROJECT = PACKAGE.parent
# The parts of this project that a run needs. A checkout has them, an installed wheel does not.
WORKFLOW = (
    *("Snakefile", "rules", "scripts", "profiles", "envs", "models", PACKAGE.name),
    *("Makefile", "pyproject.toml", "uv.lock", "README.md", "README.zh.md", "LICENSE"),
)
CONFIG = Path("config.yaml")
RESULTS = ("weights.safetensors", "weights.json", "inputs.npy", "inputs.json")
SUMS = "SHA256SUMS"
ARCHIVES = {".tar": "tar", ".tar.gz": "gztar"}
ABOUT = """\
A bundle of npu-parity for a machine without a network: {systems}.

    sha256sum --quiet -c {sums}
    {command}

docs/weights.md of npu-parity says more.
"""


def bundle(to: Path, systems: Sequence[str] = (), target: wheels.Target | None = None) -> list[str]:
    """Pack systems into a folder, or into an archive if its name ends with .tar or .tar.gz.

    Run it in the folder of config.yaml. Snakemake first makes the weights and inputs that are
    missing or outdated. The bundle has them, the workflow, the configuration, the lock, the user's
    own files, the wheel of this project and the hash of every file.

    Args:
        to: the folder or archive. It must not exist.
        systems: keys of ``models``; all if empty.
        target: the machine whose wheels are packed too; None packs no wheels but the project's.

    Returns:
        The names of the systems.

    Raises:
        ParityError: a system is unknown, a file cannot be packed, or a program that is needed
            fails. Then nothing has the name `to`.
    """
    require_new(to)
    settings = config.load(CONFIG)
    chosen = {n: config.system(settings, n, CONFIG) for n in systems or settings["models"]}
    files = [*own_files(settings, chosen)]
    _make(chosen)
    suffix = next((end for end in ARCHIVES if to.name.endswith(end)), "")
    with staged(to) as place:
        room = place / to.name.removesuffix(suffix)
        _copy_workflow(room)
        for file in files:
            _copy(file, room / file)
        _write_settings(chosen, room)
        for name in chosen:
            folder = Path(manifest.ROOM) / name
            manifest.copy(folder, RESULTS, room / folder)
        wheels.build(PROJECT, room / "wheels")
        if target:
            wheels.download(target, PROJECT, room / "wheels")
        about = ABOUT.format(systems=", ".join(chosen), sums=SUMS, command=_command(target))
        (room / "BUNDLE.txt").write_text(about, encoding="utf-8")
        (room / SUMS).write_text("".join(_sums(room)), encoding="utf-8")
        if suffix:
            made = shutil.make_archive(
                str(place / "archive"),
                ARCHIVES[suffix],
                place,
                room.name,
                owner="root",
                group="root",
            )
            room = Path(made)
        room.replace(to)
    return [*chosen]


def require_new(to: Path) -> None:
    """Raise ParityError if something has this name already, or if there is no workflow to pack."""
    if os.path.lexists(to):
        raise ParityError(f"{to} exists already: give another name, or remove it")
    if not (PROJECT / "Snakefile").is_file():
        raise ParityError(f"{PROJECT} has no Snakefile: run this from a checkout of npu-parity")


def own_files(settings: config.Config, systems: dict[str, Any]) -> Iterator[Path]:
    """Yield the user's own files of some systems, relative to the folder of the configuration.

    Raises:
        ParityError: a file is missing, or is not below this folder.
    """
    finders = (*config.FILES.values(), config.label_files)
    named = [file for system in systems.values() for find in finders for file in find(system)]
    dumps = (config.dump_file(d, name) for d in settings["devices"].values() for name in systems)
    for name in dict.fromkeys([*named, *filter(None, dumps)]):
        path = Path(name)
        if path.is_relative_to(PROJECT) and path.relative_to(PROJECT).parts[0] in WORKFLOW:
            continue  # the workflow has it
        if problem := evidence.problem(path):
            raise ParityError(f"{shorten(name, 150)}: {problem}")
        if path.is_absolute() or not containers.is_inside(path.as_posix()):
            raise ParityError(
                f"{shorten(name, 150)} is not below the folder of {CONFIG}: copy it there and name "
                "it by its relative path, which another machine has too"
            )
        yield path


def _make(systems: Iterable[str]) -> None:
    """Let Snakemake make weights and inputs, unless they are there and up to date."""
    targets = [f"{manifest.ROOM}/{name}/{file}" for name in systems for file in RESULTS]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(PROJECT / "Snakefile")]
    done = subprocess.run(
        [*command, "--cores", "2", *targets],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
        reason = lines[-1].removeprefix("error: ") if lines else "run `snakemake --cores 4 all`"
        raise ParityError(f"weights and inputs cannot be made: {reason}")


def _command(target: wheels.Target | None) -> str:
    """Return the command that runs a bundle."""
    if target is None:
        return "snakemake --cores 4 all"
    profile = f"profiles/{target.environment.partition('-')[0]}"
    own = f" PROFILE={profile}" if (PROJECT / profile).is_dir() else ""
    return f"make EXTRA={target.environment}{own}"


@contextmanager
def staged(to: Path) -> Iterator[Path]:
    """Yield a folder beside `to` for what is not finished. It is removed afterwards."""
    place = manifest.partial_of(to)
    try:
        place.mkdir(parents=True)
        yield place
    except OSError as error:  # no space, no permission
        raise ParityError(f"{to} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _copy_workflow(room: Path) -> None:
    for part in WORKFLOW:
        source = PROJECT / part
        if source.is_dir():
            shutil.copytree(source, room / part, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            _copy(source, room / part)


def _copy(source: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, to)


def _write_settings(systems: dict[str, Any], room: Path) -> None:
    """Write the configuration of some systems, and the lock."""
    data = document.read(CONFIG).data
    if set(systems) == set(data["models"]):
        _copy(CONFIG, room / CONFIG)
    else:
        data["models"] = {name: data["models"][name] for name in systems}
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
        (room / CONFIG).write_text(text, encoding="utf-8")
    if lock.FILE.is_file():
        _copy(lock.FILE, room / lock.FILE)


def _sums(room: Path) -> Iterator[str]:
    """Yield a line for each file, as ``sha256sum -c`` reads it."""
    for path in sorted(path for path in room.rglob("*") if path.is_file()):
        yield f"{evidence.sha256(path)}  {path.relative_to(room).as_posix()}\n"
