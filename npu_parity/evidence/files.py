"""Files that prove the origin of a number: hashes, sidecars, versions.

Every array and every weights file has a JSON sidecar with its SHA-256. A file is written under a
temporary name and then renamed, so no incomplete file remains.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from npu_parity.errors import ParityError

PACKAGE = Path(__file__).resolve().parents[1]
# This package and all packages whose version can change a number.
RECORDED = (
    *("npu-parity", "torch", "torchvision", "torch-npu", "timm", "numpy", "pillow"),
    *("safetensors", "scikit-image"),
)


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal, like ``sha256sum``."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: str | Path, writer: Callable[[Path], None]) -> None:
    """Let `writer` write a file beside `path`, then rename it. No incomplete file remains."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        writer(partial)
        partial.chmod(0o644)  # safetensors uses 0600
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8."""

    def save(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    write(path, save)


def write_json(path: str | Path, data: Any) -> None:
    """Write `data` as JSON with floats in full precision; ValueError for NaN and infinity."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_sidecar(path: str | Path, data: dict[str, Any], code: str) -> None:
    """Write `data` as JSON, with the versions and the hash of the code that made the result.

    Args:
        path: the sidecar.
        data: the description of the result.
        code: the result of `npu_parity.evidence.code.digest` for the calling program.
    """
    write_json(path, {**data, "versions": versions(), "code": code})


def read_json(path: str | Path) -> Any:
    """Read a JSON file; ParityError if it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParityError(f"{path} is missing: run `snakemake --cores 4 {path}`") from None
    except ValueError as error:
        raise ParityError(f"{path} is not JSON ({error}): delete it and run again") from None


def write_array(path: str | Path, array: np.ndarray) -> str:
    """Write `array` as ``.npy`` and return the SHA-256 of the file."""

    def save(partial: Path) -> None:
        with open(partial, "wb") as file:
            np.save(file, array, allow_pickle=False)

    write(path, save)
    return sha256(path)


def read_array(path: str | Path, expected: str | None = None) -> np.ndarray:
    """Read an ``.npy`` file; ParityError if it is damaged or does not match `expected`.

    `expected` is the SHA-256 in the file's sidecar.
    """
    if not Path(path).is_file():
        raise ParityError(f"{path} is missing: run `snakemake --cores 4 {path}`")
    if expected is not None:
        verify(path, expected)
    try:
        with open(path, "rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, tokenize.TokenError) as error:
        raise ParityError(f"{path} is not an .npy array ({error}): delete it") from None


def read_inputs(path: str | Path) -> np.ndarray:
    """Read ``inputs.npy``. Its hash must match its sidecar ``inputs.json``."""
    return read_array(path, read_json(Path(path).with_suffix(".json"))["sha256"])


def verify(path: str | Path, expected: str) -> None:
    """Raise ParityError if the file's SHA-256 differs from its sidecar."""
    found = sha256(path)
    if found != expected:
        raise ParityError(
            f"{path} has SHA-256 {found[:12]}… where its sidecar states {expected[:12]}…: "
            "it was changed or damaged; delete it and run again"
        )


def find(name: str | Path) -> Path | None:
    """Return a file named in the configuration; None if there is no such file.

    The function searches the working directory, then this package (``data/imagenet_1k.txt``), then
    the folder beside the package (``models/svhn.py`` of a checkout).
    """
    places = (Path(name), PACKAGE / name, PACKAGE.parent / name)
    return next((path for path in places if path.is_file()), None)


def versions() -> dict[str, str]:
    """Return the versions of Python and of all installed packages that can change a number."""
    found = {"python": platform.python_version()}
    for name in RECORDED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
