"""The numerics that a device has, from its outputs and its probe, and the numerics it promises."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu_parity.numerics.formats import FORMATS, Numerics
from npu_parity.verdict import metrics


def nearest(distances: Mapping[str, float | None]) -> str | None:
    """Return the name of the smallest finite distance; None if there is none.

    If distances are equal, the first one counts.

    >>> nearest({"fp32": 2.0, "hf32": 0.5, "tf32": None})
    'hf32'
    """
    finite = {name: d for name, d in distances.items() if d is not None and np.isfinite(d)}
    return min(finite, key=lambda name: finite[name]) if finite else None


def distances(
    measured: NDArray[Any], predictions: Mapping[str, NDArray[Any]]
) -> dict[str, float | None]:
    """Return the L2 distance of each prediction from the measured outputs.

    A distance is None if it is not finite. The result is empty if the shapes differ.
    """
    if any(p.shape != measured.shape for p in predictions.values()):
        return {}
    m = measured.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        found = {n: metrics.l2(m - p.astype(np.float64)) for n, p in predictions.items()}
    return {name: d if np.isfinite(d) else None for name, d in found.items()}


def sizes(
    measured: NDArray[Any], predictions: Mapping[str, NDArray[Any]], reference: NDArray[Any]
) -> dict[str, float | None]:
    """Return how far the size (L2) of each predicted error is from the size of the measured error.

    A distance is None if it is not finite. The result is empty if the shapes differ.
    """
    errors = distances(reference, {**predictions, "": measured})
    found = errors.pop("", None)
    return {
        name: None if error is None or found is None else abs(error - found)
        for name, error in errors.items()
    }


def coarser(found: str | None, promised: Numerics) -> str | None:
    """Return a finding if the numerics found are coarser than every promised format."""
    if found is None:
        return None
    coarsest = min(FORMATS[name].mantissa_bits for name in promised.formats)
    if FORMATS[found].mantissa_bits >= coarsest:
        return None
    formats = "/".join(sorted(promised.formats))
    return f"the outputs match {found}, but the device promises {formats}"


def shortfall(probed: Mapping[str, Mapping[str, Any]], promised: Numerics) -> list[str]:
    """Return a finding for each kind of product that keeps fewer operand bits than promised.

    Args:
        probed: the result of `probe`.
        promised: the numerics that the device promises.
    """
    findings = []
    for kind in ("conv", "matmul"):
        wanted, found = FORMATS[getattr(promised, kind)], probed[kind]
        if found["format"] is None:  # the algorithm changes values even if it multiplies by 1
            continue
        kept = FORMATS[found["format"]]
        if kept.mantissa_bits < wanted.mantissa_bits or kept.exponent_bits < wanted.exponent_bits:
            findings.append(
                f"{kind} keeps {kept.mantissa_bits} mantissa bits of its operands ({kept.name}) "
                f"where the device promises {wanted.name}"
            )
    return findings
