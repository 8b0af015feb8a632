"""A case for the judge from arrays of outputs alone, made by any tool on any machine."""

import io
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu_parity import evidence
from npu_parity.errors import ParityError
from npu_parity.numerics.formats import Numerics
from npu_parity.verdict.judge import Case
from npu_parity.verdict.questions import Runs

# The workflow checks these. Arrays alone cannot show them.
UNKNOWN = (
    "arrays do not show whether inputs and weights were the reference's",
    "only one run of the device was given",
)


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
    return flat.astype(np.result_type(flat.dtype, np.float32))


# What a run's sidecar says of outputs from a file. They have the order of the reference's heads.
UNSEEN: dict[str, Any] = {
    "heads": None,
    "notes": [],
    "repeated": {"again": 0.0, "batches": {}, "failed": list(UNKNOWN)},
}


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


def read_arrays(
    reference: Path,
    device_outputs: Path,
    exact: Path,
    predicted: Path | None = None,
    task: str = "classification",
    heads: Mapping[str, int] | None = None,
) -> Case:
    """Return the case of a device whose outputs are known, but not its program and its kernels.

    Questions 1 and 2 are not asked. Inputs are named by their numbers.

    Args:
        reference: float32 outputs of the reference.
        device_outputs: outputs of the device for the same inputs.
        exact: float64 outputs of the reference. They show the error of float32 itself.
        predicted: predicted outputs of the device; None if it rounds nothing below float32.
        task: one of `metrics.TASKS`.
        heads: widths of the heads, in order; None or empty for a single one.

    Raises:
        ParityError: a file cannot be used, see `read_outputs`; or the reference, its float64 run
            and the prediction have different shapes.
    """
    own = read_outputs(reference)
    others = {path: read_outputs(path) for path in (exact, predicted or reference)}
    for path, array in others.items():
        if array.shape != own.shape:
            raise ParityError(
                f"{path}: found shape {array.shape}, expected {own.shape} as in {reference}"
            )
    runs = Runs(
        own,
        others[exact],
        others[predicted or reference],
        measured=read_outputs(device_outputs),
        heads=heads or None,
    )
    names = [str(number) for number in range(len(own))]
    return Case(runs, Numerics(), names, task=task, notes=UNKNOWN)
