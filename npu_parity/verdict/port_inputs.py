"""How the inputs of a port differ from those of its reference: its preprocessing is another one."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu_parity.backends import batches
from npu_parity.backends.batches import Inputs
from npu_parity.verdict.thresholds import Threshold

INPUTS = Threshold(
    4.0,
    question=1,
    decides="The port's inputs are the reference's if they differ by at most this many times "
    "2^-23 times the largest input.",
    reason="Preprocessing in another order rounds a few times. A wrong mean or interpolation "
    "changes an input by thousands of roundings.",
)


def differences(own: Inputs, theirs: Inputs) -> tuple[list[str], list[str]]:
    """Return how the inputs of a port differ, and what differs as rounding makes it."""
    ours, ports = batches.every(own), batches.every(theirs)
    if len(ours) != len(ports):
        return [f"{len(ports)} input tensors where the reference has {len(ours)}"], []
    found = [_differ(a, b) for a, b in zip(ours, ports, strict=True)]
    return [w for wrong, _ in found for w in wrong], [n for _, notes in found for n in notes]


def _differ(own: NDArray[Any], theirs: NDArray[Any]) -> tuple[list[str], list[str]]:
    if own.shape != theirs.shape:
        return [f"inputs have shape {theirs.shape} where the reference has {own.shape}"], []
    digests = [hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest() for a in (own, theirs)]
    if digests[0] == digests[1]:
        return [], []
    wide = np.complex128 if own.dtype.kind == "c" else np.float64
    largest = np.abs(own.astype(wide) - theirs).max()
    if largest <= INPUTS * np.finfo(np.float32).eps * np.abs(own).max():
        return [], [f"inputs differ by up to {largest:.3g}, as rounding makes them"]
    return [f"inputs differ by up to {largest:.3g}: preprocessing is not the same"], []
