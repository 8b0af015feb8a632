"""Files that prove the origin of a number: hashes, sidecars, versions.

Every array and every weights file has a JSON sidecar with its SHA-256. A file is written under a
temporary name and then renamed, so no incomplete file remains.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import tokenize
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from npu_parity.errors import ParityError, first_line
from npu_parity.evidence import manifest
from npu_parity.evidence.manifest import sha256

if TYPE_CHECKING:
    import pandas as pd

PACKAGE = Path(__file__).resolve().parents[1]
# This package and all packages whose version can change a number.
RECORDED = (
    *("npu-parity", "torch", "torchvision", "torch-npu", "timm", "numpy", "pillow"),
    *("pillow-heif", "safetensors", "scikit-image"),
)


def write(path: str | Path, writer: Callable[[Path], None]) -> str:
    """Let `writer` write a file beside `path`, then rename it. No incomplete file remains.

    A result is entered into the manifest of its folder. Returns the SHA-256 of the file.
    """
    path = Path(path)
    partial = manifest.partial_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(partial)
        partial.chmod(0o644)  # safetensors uses 0600
        digest = sha256(partial)
        partial.replace(path)
        if manifest.holds(path):
            manifest.enter(path, digest)
    except OSError as error:  # no space, no permission: what the system says fits in one line
        raise ParityError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return digest


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8."""

    def save(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    write(path, save)


def write_json(path: str | Path, data: Any) -> None:
    """Write `data` as JSON with floats in full precision; ValueError for NaN and infinity."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=_as_list)
    write_text(path, text + "\n")


def _as_list(data: Any) -> list[Any]:
    """Return a sequence that makes its entries when they are asked for, as a list."""
    if isinstance(data, Sequence):
        return list(data)
    raise TypeError(f"{type(data).__name__} cannot be written as JSON")


def write_sidecar(path: str | Path, data: dict[str, Any]) -> None:
    """Write `data` as JSON, with the versions of the packages and the hash of this job's code."""
    write_json(path, {**data, "versions": versions(), "code": manifest.JOB.code})


def write_array(path: str | Path, array: NDArray[Any]) -> str:
    """Write `array` as ``.npy`` and return the SHA-256 of the file."""
    content = io.BytesIO()  # if numpy writes a file itself, its error does not say why
    np.save(content, array, allow_pickle=False)

    def save(partial: Path) -> None:
        partial.write_bytes(content.getbuffer())

    return write(path, save)


def read_bytes(path: str | Path) -> bytes:
    """Read a file. A result must have the bytes that the manifest of its folder states.

    Raises:
        ParityError: it is missing, cannot be read, or was changed since it was made.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise ParityError(f"{path} is missing: run `snakemake --cores 4 {path}`") from None
    except OSError as error:
        raise ParityError(f"{path} cannot be read: {error.strerror or error}") from None
    manifest.check(Path(path), content)
    return content


class _Object(dict[str, Any]):
    """An object in a JSON file. A key that another version did not write is a ParityError."""

    def __init__(self, path: str | Path, data: dict[str, Any]):
        super().__init__(data)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise ParityError(
            f"{self.path} lacks {key!r}: another version made it; {manifest.mend(Path(self.path))}"
        )


def read_json(path: str | Path) -> Any:
    """Read a JSON file; ParityError if it is missing, changed or not JSON.

    A key that is not in the file is a ParityError too.
    """
    try:
        text = read_bytes(path).decode("utf-8")
        return json.loads(text, object_hook=lambda data: _Object(path, data))
    except ValueError as error:
        raise ParityError(f"{path} is not JSON ({error}): delete it and run again") from None


def read_table(path: str | Path, dtype: dict[str, Any] | None = None) -> "pd.DataFrame":
    """Read a CSV file; ParityError if it is missing, changed or no table."""
    import pandas as pd  # a third of a second, which few callers need

    try:
        return pd.read_csv(io.BytesIO(read_bytes(path)), dtype=dtype)
    except ValueError as error:
        reason = first_line(error)
        raise ParityError(f"{path} is not a table ({reason}): delete it and run again") from None


def read_array(path: str | Path, expected: str | None = None) -> NDArray[Any]:
    """Read an ``.npy`` file; ParityError if it is damaged or does not match `expected`.

    `expected` is the SHA-256 in the file's sidecar.
    """
    content = read_bytes(path)
    if expected is not None:
        _expect(path, hashlib.sha256(content).hexdigest(), expected)
    try:
        found: NDArray[Any] = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, tokenize.TokenError) as error:
        raise ParityError(f"{path} is not an .npy array ({error}): delete it") from None
    return found


def read_inputs(path: str | Path) -> NDArray[Any]:
    """Read ``inputs.npy``. Its hash must match its sidecar ``inputs.json``."""
    return read_array(path, read_json(Path(path).with_suffix(".json"))["sha256"])


def verify(path: str | Path, expected: str) -> None:
    """Raise ParityError if the file's SHA-256 differs from its sidecar."""
    found = sha256(path)
    _expect(path, found, expected)
    manifest.note(Path(path), found)


def _expect(path: str | Path, found: str, expected: str) -> None:
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
    return next((path for path in places if os.path.isfile(path)), None)


def problem(path: str | Path) -> str | None:
    """Return why a file that the user names cannot be used; None if it can be.

    Any text may be a path here. Only ordinary files can be used, because the content of a pipe or
    of a device may never come, or never end.

    >>> problem("none.png")
    'there is no such file'
    """
    if os.path.isfile(path):  # unlike `Path.is_file`, false for a name that no file can have
        readable = os.access(path, os.R_OK)
        return None if readable else "permission denied"
    if os.path.isdir(path):
        return "this is a folder, expected a file"
    if os.path.exists(path):
        return "this is a pipe or a device, expected a file"
    if os.path.islink(path):
        return "this is a link that leads to no file"
    return "there is no such file"


def versions() -> dict[str, str]:
    """Return the versions of Python and of all installed packages that can change a number."""
    found = {"python": platform.python_version()}
    for name in RECORDED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
