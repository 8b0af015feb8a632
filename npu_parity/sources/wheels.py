"""The wheels of an environment of this project, for a machine without a network."""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from npu_parity.errors import ParityError, shorten
from npu_parity.evidence import sha256

GLIBC = range(5, 29)  # wheels for glibc 2.28 or older, which systems have since 2018


@dataclass(frozen=True)
class Target:
    """The machine that gets the wheels.

    Attributes:
        environment: an extra of pyproject.toml, or what several of them begin with: ``npu`` means
            the pairs for all versions of CANN, and the machine chooses.
        machine: its processor, ``aarch64`` or ``x86_64``; it runs Linux.
        python: its Python, such as ``3.11``.
    """

    environment: str
    machine: str
    python: str = "3.11"

    def extras(self, project: Path) -> list[str]:
        """Return the extras; ParityError if there are none."""
        with (project / "pyproject.toml").open("rb") as file:
            known = tomllib.load(file)["project"]["optional-dependencies"]
        found = [name for name in known if f"{name}-".startswith(f"{self.environment}-")]
        if not found:
            raise ParityError(
                f"environment {self.environment!r} is unknown: expected one of npu, "
                f"{', '.join(known)}"
            )
        return found

    def has(self, requirement: Requirement) -> bool:
        """Return whether the machine needs a requirement."""
        there = {
            "implementation_name": "cpython",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }
        return requirement.marker is None or requirement.marker.evaluate(there)


def build(project: Path, room: Path) -> Path | None:
    """Build the wheel of this project, and return it; None without uv."""
    if _uv(project) is None:
        return None
    _run(project, ["build", "--quiet", "--wheel", "--out-dir", str(room.absolute())])
    (room / ".gitignore").unlink(missing_ok=True)  # of uv
    return next(room.glob("npu_parity-*.whl"))


def download(target: Target, project: Path, room: Path) -> None:
    """Download the wheels of an environment in the versions of uv.lock, and compare their hashes.

    pip downloads them with its own settings, such as PIP_INDEX_URL for a mirror. For each extra,
    the file ``EXTRA.txt`` has what ``pip install --no-index --require-hashes`` needs.

    Raises:
        ParityError: there is no uv, the environment is unknown, or a package has no wheel for the
            machine or another hash.
    """
    if _uv(project) is None:
        raise ParityError("wheels need uv: install it with `pip install uv`, or run `make` once")
    room = room.absolute()  # uv runs in the folder of the project
    room.mkdir(parents=True, exist_ok=True)
    for extra in target.extras(project):
        command = ["export", "--quiet", "--frozen", "--no-dev", "--no-emit-project"]
        exported = _run(project, [*command, "--extra", extra])
        wanted = {r.name: line for r, line in _requirements(exported) if target.has(r)}
        file = room / f"{extra}.txt"
        file.write_text("".join(wanted.values()), encoding="utf-8")
        _download(target, project, room, file)
        for source in {*room.glob("*.tar.gz"), *room.glob("*.zip")}:
            _run(project, ["build", "--quiet", "--wheel", "--out-dir", str(room), str(source)])
            source.unlink()
        (room / ".gitignore").unlink(missing_ok=True)
        file.write_text("".join(_installed(room, wanted)), encoding="utf-8")


def _requirements(exported: str) -> Iterator[tuple[Requirement, str]]:
    """Yield what uv exported: each requirement, and its line for pip without the marker."""
    text = re.sub(r"^\s*#.*\n", "", exported, flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(str.strip, text.splitlines()):
        stated, *hashes = line.split(" --hash=")
        requirement = Requirement(stated.strip())
        options = "".join(f" --hash={digest.strip()}" for digest in hashes)
        yield requirement, f"{requirement.name}{requirement.specifier}{options}\n"


def _download(target: Target, project: Path, room: Path, file: Path) -> None:
    options = ["--no-deps", "--require-hashes", "--requirement", str(file), "--dest", str(room)]
    tag = target.python.replace(".", "")
    options += ["--python-version", target.python, "--implementation", "cp"]
    for abi in (f"cp{tag}", "abi3", "none"):
        options += ["--abi", abi]
    for minor in reversed(GLIBC):
        options += ["--platform", f"manylinux_2_{minor}_{target.machine}"]
    for older in ("manylinux2014", "manylinux2010", "manylinux1", "linux"):
        options += ["--platform", f"{older}_{target.machine}"]
    _run(project, ["tool", "run", "pip", "download", "--disable-pip-version-check", *options])


def _installed(room: Path, wanted: dict[str, str]) -> Iterator[str]:
    """Yield the lines of EXTRA.txt: the wheels that are in the folder, with their hashes."""
    files = {parse_wheel_filename(path.name)[:2]: path for path in room.glob("*.whl")}
    for line in wanted.values():
        requirement = Requirement(line.partition(" --hash=")[0].strip())
        version = Version(next(iter(requirement.specifier)).version)
        path = files[canonicalize_name(requirement.name), version]
        yield f"{requirement} --hash=sha256:{sha256(path)}\n"


def _uv(project: Path) -> str | None:
    return shutil.which("uv") or shutil.which("uv", path=project / ".uv/bin")


def _run(project: Path, arguments: Sequence[str]) -> str:
    uv = _uv(project)
    assert uv is not None
    done = subprocess.run([uv, *arguments], cwd=project, capture_output=True, text=True)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = [line for line in lines if "error" in line.lower()] or lines or ["no reason given"]
        raise ParityError(f"uv {arguments[0]} failed: {shorten(said[-1], 200)}")
    return done.stdout
