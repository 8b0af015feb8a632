"""A case for the judge from arrays of outputs alone, made by any tool on any machine."""

from collections.abc import Mapping
from pathlib import Path

from npu_parity.backends.dumps import UNKNOWN, read_outputs
from npu_parity.errors import ParityError
from npu_parity.numerics.formats import Numerics
from npu_parity.verdict.judge import Case
from npu_parity.verdict.runs import Runs


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
