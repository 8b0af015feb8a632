"""Install the environment of one extra with uv: `python3 envs/install.py npu`. `make` runs this.

It runs before the environment exists. Therefore it uses only Python's standard library.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WHEELS = ROOT / "wheels"
PAIRS = {"8.5": "npu-cann8", "9.1": "npu-cann9"}  # CANN's version and its extra in pyproject.toml

# Where CANN is if its set_env.sh was not sourced: root's installation, then the user's own.
FOLDERS = [
    str(Path(base, "Ascend", folder))
    for base in ("/usr/local", Path.home())
    for folder in ("cann", "ascend-toolkit/latest")
]
# Files with CANN's version, the most reliable first, and what precedes the version there.
VERSIONS = {
    "version.cfg": r"^(?:runtime|toolkit)_running_version=\[(?:[^:\]]*:)?",
    "*-linux/ascend_toolkit_install.info": r"^version=",
    "compiler/version.info": r"^(?:version_dir|Version)=",
}
CUDA = re.compile(r"torch|torchvision|(nvidia|cuda)-.*")  # what PyTorch's CPU index replaces


def main() -> None:
    """Install the environment, or print the commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extra", help="cpu, npu (the pair for the CANN found), npu-cann8 or -cann9")
    parser.add_argument("--uv", default="uv", help="the program uv")
    parser.add_argument("--index", help="index of torch's CPU builds, instead of PyPI's with CUDA")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    options = parser.parse_args()
    try:
        extra = chosen(options.extra)
    except LookupError as error:
        sys.exit(f"error: {error.args[0]}")
    for command in commands(extra, options.uv, options.index):
        if options.dry_run:
            print(shlex.join(command))
        elif status := subprocess.run(command, cwd=ROOT).returncode:
            sys.exit(status)


def chosen(extra: str) -> str:
    """Return the extra itself; for `npu`, the extra of the CANN on this machine."""
    if extra != "npu":
        return extra
    places = [os.environ.get(name) for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")]
    found = find_cann([*filter(None, places), *FOLDERS])
    pairs = " or ".join(f"EXTRA={name} (CANN {version})" for version, name in PAIRS.items())
    if found is None:
        raise LookupError(
            f"EXTRA=npu: found no CANN in ASCEND_HOME_PATH, {' or '.join(FOLDERS[:2])}; "
            f"source its set_env.sh, or choose yourself: make {pairs}"
        )
    folder, version = found
    generation = re.match(r"[0-9]+\.[0-9]+", version)
    if generation is None or generation[0] not in PAIRS:
        raise LookupError(
            f"EXTRA=npu: found CANN {version} in {folder}, expected {' or '.join(PAIRS)}; "
            f"install one of these, or choose yourself: make {pairs}"
        )
    return PAIRS[generation[0]]


def find_cann(folders: list[str]) -> tuple[str, str] | None:
    """Return the first of the folders with a version of CANN, and the version."""
    for folder in folders:
        for pattern, before in VERSIONS.items():
            for file in sorted(Path(folder).glob(pattern)):
                text = file.read_text(errors="replace")
                if version := re.search(rf"{before}([0-9][^\s\]]*)", text, re.MULTILINE):
                    return folder, version[1]
    return None


def commands(extra: str, uv: str, index: str | None) -> list[list[str]]:
    """Return the commands that install the environment from the lock.

    In a bundle (`npu-parity bundle`) the lock's wheels are in the folder wheels.
    With an index of torch's CPU builds, torch and torchvision come from the index, in the versions
    of the lock. All others come from the lock, without CUDA.
    """
    if (requirements := WHEELS / f"{extra}.txt").is_file():
        install = [".venv/bin/pip", "install", "--disable-pip-version-check", "--no-index"]
        install += ["--no-deps", f"--find-links={WHEELS}"]
        return [
            [sys.executable, "-m", "venv", ".venv"],
            [*install, "--require-hashes", f"--requirement={requirements}"],
            [*install, "npu-parity"],
        ]
    sync = [uv, "sync", "--locked", "--extra", extra, "--compile-bytecode"]
    if index is None:
        return [sync]
    export = [uv, "export", "--quiet", "--locked", "--extra", extra, "--no-hashes"]
    done = subprocess.run(export, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    pins = re.findall(r"^([\w-]+)==(\S+)(?: ; (.*))?$", done.stdout, re.MULTILINE)
    replaced = sorted({name for name, _, _ in pins if CUDA.fullmatch(name)})
    builds = [
        f"{name}=={version}+cpu"
        for name, version, marker in pins
        if name in ("torch", "torchvision") and here(marker)
    ]
    skip = [word for name in replaced for word in ("--no-install-package", name)]
    install = [uv, "pip", "install", "--python", ".venv", "--no-deps", "--index-url", index]
    return [sync + skip, [*install, *builds]]


def here(marker: str) -> bool:
    """Return whether a marker of torch holds here. Only the machine decides in pyproject.toml."""
    aarch64 = os.uname().machine == "aarch64"
    return not marker or ("== 'aarch64'" in marker) == aarch64


if __name__ == "__main__":
    main()
