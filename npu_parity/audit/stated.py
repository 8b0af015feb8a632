"""Results as their files state them, read without asking a manifest."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from npu_parity.errors import ParityError, first_line
from npu_parity.evidence import manifest
from npu_parity.report import results


class Stated(results.System):
    """A system with figures as its files state them. No manifest is asked. Pictures show these."""

    def read(self, name: str) -> Any:
        """Return a JSON file."""
        return read_json(self.folder / name)

    def rows(self, name: str) -> pd.DataFrame:
        """Return a CSV file."""
        return read_table(self.folder / name)

    def outputs(self, run: str) -> np.ndarray[Any, Any]:
        """Return the array of a run."""
        return read_array(self.folder, run)


def read_array(folder: Path, run: str) -> np.ndarray[Any, Any]:
    """Return the array of a run; ParityError if it is not the one that run.json states."""
    path = folder / run / "outputs.npy"
    stated = read_json(path.with_name("run.json"))["sha256"]["outputs"]
    if not path.is_file():
        raise ParityError(f"{path} is missing: {manifest.mend(path)}")
    if (found := manifest.sha256(path)) != stated:
        raise ParityError(
            f"{path}: found SHA-256 {found[:12]}…, run.json states {stated[:12]}…: the array "
            "was changed, or belongs to another run"
        )
    array: np.ndarray[Any, Any] = np.load(path, allow_pickle=False)
    return array


def read_table(path: Path) -> pd.DataFrame:
    """Return a CSV file; ParityError if it is none."""
    try:
        return pd.read_csv(io.StringIO(read_text(path)), dtype={"module": str, "operator": str})
    except ValueError as error:
        raise ParityError(f"{path}: {first_line(error)}") from None


def read_text(path: Path) -> str:
    """Return a text; ParityError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParityError(f"{path} cannot be read: {first_line(error)}") from None


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; ParityError if it is none."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise ParityError(f"{path} is not JSON ({error}): delete it and run again") from None
