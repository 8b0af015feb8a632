"""The runs that a verdict compares: their outputs, and how far further runs differ."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu_parity.verdict import maps, rows


@dataclass(frozen=True)
class Runs:
    """Outputs of one network on one set of inputs, arrays of shape (inputs, columns).

    Attributes:
        reference: float32 outputs of the reference device.
        exact: float64 outputs of the reference. They show the error of float32 itself. None if the
            port must return exactly the reference's outputs, see `unchanged`.
        predicted: float32 outputs of the reference with the device's numerics emulated.
        measured: float32 outputs of the device; None if nothing was measured.
        hosted: float32 outputs of the port on the reference's device; None if it did not run there,
            or if the port is the reference itself.
        heads: widths of the heads, in order.
        shapes: their shapes; (classes, height, width) for a dense map. None: no dense map.
        misfit: why the port's heads are not the reference's; empty if they are.
        overflow: where the prediction first overflows its 16-bit format; None if it does not.
        errors: further errors of the prediction (rows, columns) if the device stores 16 bits; None
            if it stores float32. See `outputs.further_errors`.
        narrow: whether the port's own weights have 16 bits. Then `hosted` has their rounding.
    """

    reference: NDArray[Any]
    exact: NDArray[Any] | None
    predicted: NDArray[Any]
    measured: NDArray[Any] | None = None
    hosted: NDArray[Any] | None = None
    heads: Mapping[str, int] | None = None
    shapes: Mapping[str, Sequence[int]] | None = None
    misfit: str = ""
    overflow: str | None = None
    errors: NDArray[Any] | None = None
    narrow: bool = False

    @property
    def columns(self) -> dict[str, slice]:
        """The columns of each head."""
        width = self.reference.shape[1]
        return rows.columns(self.heads or {"": width}, width)

    def scores(self, outputs: NDArray[Any]) -> list[NDArray[Any]]:
        """Return the scores of each head: (inputs, places, classes).

        A dense map has a place for each pixel. Any other head has one place.
        """
        return [
            maps.places(outputs[:, c], (self.shapes or {}).get(n)) for n, c in self.columns.items()
        ]


@dataclass(frozen=True)
class Repeated:
    """How far further runs differ: the largest relative L2 error over the inputs.

    Attributes:
        again: of a second run on the device.
        batches: of a run with another batch size, by size.
        reference: of a second run of the reference.
        reference_batches: of runs of the reference with other batch sizes.
    """

    again: float = 0.0
    batches: Mapping[str, float] = field(default_factory=dict)
    reference: float = 0.0
    reference_batches: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any], reference: Mapping[str, Any]) -> "Repeated":
        """Return what `outputs.repeated` found for a port and for the reference."""
        again, batches = _unrest(stored)
        return cls(again, batches, *_unrest(reference))

    @classmethod
    def of_reference(cls, reference: Mapping[str, Any]) -> "Repeated":
        """Return what `outputs.repeated` found for the reference alone."""
        return cls(0.0, {}, *_unrest(reference))


def _unrest(stored: Mapping[str, Any]) -> tuple[float, dict[str, float]]:
    """Read a result of `outputs.repeated`. JSON has no infinity, so it is None there."""
    again, *batches = (
        math.inf if found is None else found
        for found in (stored["again"], *stored["batches"].values())
    )
    return again, dict(zip(stored["batches"], batches, strict=True))


def unchanged(runs: Runs, repeated: Repeated) -> bool:
    """Return whether every run gives exactly the reference's outputs.

    Then question 3 does not depend on `Runs.exact`. Another batch size may change the port by no
    more than it changes the reference.
    """
    others = (runs.predicted, runs.measured, runs.hosted)
    own = repeated.reference_batches
    return (
        all(array is None or np.array_equal(array, runs.reference) for array in others)
        and repeated.again == 0
        and all(f <= own.get(size, 0.0) < math.inf for size, f in repeated.batches.items())
    )
