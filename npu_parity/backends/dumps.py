"""Dumps: outputs that another tool computed, perhaps on another machine, such as ATC and OM."""

import io
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu_parity import evidence
from npu_parity.backends.cpu import Cpu
from npu_parity.errors import ParityError
from npu_parity.numerics.formats import Numerics

# The workflow checks these. Arrays alone cannot show them.
UNKNOWN = (
    "arrays do not show whether inputs and weights were the reference's",
    "only one run of the device was given",
)

# What a run's sidecar says of outputs from a file. They have the order of the reference's heads.
UNSEEN: dict[str, Any] = {
    "heads": None,
    "notes": [],
    "repeated": {"again": 0.0, "batches": {}, "failed": list(UNKNOWN)},
}


class Dumps(Cpu):
    """Outputs in files. Nothing is executed here, so there are no operators and no latency."""

    name = "dumps"
    formats = ()
    questions = frozenset({3, 4})
    executes = False

    def missing(self, numerics: Numerics) -> str | None:
        """Return None: any machine can read files."""
        return None

    def lacking(self, form: str) -> str | None:
        """Return None: any machine can read files."""
        return None

    def describe(self) -> dict[str, Any]:
        """Return that nothing is known about the device."""
        return {"name": "unknown: outputs of another tool"}

    def switches(self, numerics: Numerics) -> dict[str, Any]:
        """Return nothing: files have no switches."""
        return {}


def read_outputs(path: Path) -> NDArray[Any]:
    """Return the outputs in an ``.npy`` file as (inputs, columns), dense maps as flat columns.

    float16 becomes float32, which changes no value.

    Raises:
        ParityError: the file cannot be used, or its array has no inputs or columns, or is not of
            floating-point numbers.
    """
    if problem := evidence.problem(path):
        raise ParityError(f"{path}: {problem}")
    try:
        content = io.BytesIO(evidence.read_bytes(path))
        found: NDArray[Any] = np.lib.format.read_array(content, allow_pickle=False)
    except (ValueError, EOFError, tokenize.TokenError):
        raise ParityError(
            f"{path}: found no .npy array of numbers; expected what numpy.save writes"
        ) from None
    if found.dtype.kind != "f":
        raise ParityError(
            f"{path}: found an array of {found.dtype}, expected floating-point numbers: save the "
            "scores with .astype('float32')"
        )
    if found.ndim < 2 or not found.size:
        raise ParityError(
            f"{path}: found shape {found.shape}, expected one row for each input: (inputs, columns)"
        )
    flat = found.reshape(len(found), -1)
    return flat.astype(np.result_type(flat.dtype, np.float32), copy=False)


def read_dump(path: Path, count: int) -> NDArray[np.float32]:
    """Return the outputs that another tool computed for a system, as float32 (inputs, columns).

    Args:
        path: an ``.npy`` file.
        count: the number of inputs.

    Raises:
        ParityError: the file cannot be used, see `read_outputs`, or has another number of rows.
    """
    found = read_outputs(path)
    if len(found) != count:
        raise ParityError(
            f"{path}: found {len(found)} rows, expected {count}: one for each input, in the order "
            "of inputs.json"
        )
    with np.errstate(over="ignore"):
        return found.astype(np.float32)
