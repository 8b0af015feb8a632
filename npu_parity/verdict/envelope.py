"""The error of outputs that a device's numerics allow, for each input and each head.

The scale is the error that the numerics predict, plus the error of float32 itself. The prediction
differs from the reference by a typical amount, but on one input it may be small by accident. So
the typical amount over all inputs is the least that counts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu_parity.verdict.rows import blocks
from npu_parity.verdict.thresholds import Threshold

ENVELOPE = Threshold(
    4.0,
    question=3,
    decides="An output may differ by this many times the error of float32 itself, in addition to "
    "what a device's rounding explains.",
    reason="A device adds in another order and fuses operators. Each effect changes the error of "
    "a network by less than the error itself. 4 leaves room for both. Clean variations of six "
    "systems reached 1.3.",
)
PREDICTED = Threshold(
    2.0,
    question=3,
    decides="The outputs of a device that rounds operands may differ from the predicted outputs by "
    "this many times the predicted error (L2, for each input and head).",
    reason="A device that rounds nothing differs from the prediction by 1 times this error. Clean "
    "variations of six systems reached 1.3. If a device stores 16 bits, √2 (1 + TAIL / √columns) "
    "replaces 2 where it is larger.",
)
TAIL = Threshold(
    5.0,
    question=3,
    decides="The error of one column may be this many times the root mean square of the error that "
    "is allowed.",
    reason="Errors of columns are spread like normal numbers. Clean variations of six systems "
    "reached 2.4.",
)


Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Envelope:
    """What is allowed around expected outputs.

    Attributes:
        expected: outputs (inputs, columns).
        allowed: the largest L2 error (inputs, heads).
        sizes: L2 norms of the reference (inputs, heads).
        columns: the columns of each head, by name.
        source: says in a finding what allows the error.
    """

    expected: NDArray[Any]
    allowed: Floats
    sizes: Floats
    columns: Mapping[str, slice]
    source: str

    @property
    def relative(self) -> float:
        """The largest relative L2 error that is allowed for an input and a head."""
        return float(share(self.allowed, self.sizes).max())

    def beyond(self, found: NDArray[Any], names: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Yield the name of each input with outputs beyond the envelope, and why.

        Values that are not finite count as beyond. A finding names the worst head or column.
        """
        for block in blocks(*found.shape):
            of_block = (found[block], self.expected[block], self.allowed[block], self.sizes[block])
            for i, *row in self._beyond(*of_block):
                yield names[block.start + i], self._why(*row)

    def _beyond(
        self, found: NDArray[Any], expected: NDArray[Any], allowed: Floats, sizes: Floats
    ) -> Iterator[tuple[Any, ...]]:
        """Yield the number of each input of a block that may be beyond, and what `_why` needs."""
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(found.astype(np.float64) - expected)
            l2 = norms(error, self.columns)
        beyond = ~np.isfinite(found).all(axis=1) | (share(l2, allowed) > 1).any(axis=1)
        limits = [
            TAIL * a / np.sqrt(c.stop - c.start)
            for c, a in zip(self.columns.values(), allowed.T, strict=True)
        ]
        for c, limit in zip(self.columns.values(), limits, strict=True):
            beyond |= error[:, c].max(axis=1) > limit
        for i in np.flatnonzero(beyond):
            yield i, found[i], error[i], l2[i], allowed[i], sizes[i], [each[i] for each in limits]

    def _why(
        self,
        found: NDArray[Any],
        error: Floats,
        l2: Floats,
        allowed: Floats,
        sizes: Floats,
        limits: Sequence[float],
    ) -> str:
        """Say why one input is beyond the envelope."""
        if not np.isfinite(found).all():
            column = int(np.flatnonzero(~np.isfinite(found))[0])
            return f"{found[column]} in column {column}"
        shares = share(l2, allowed)
        if shares.max() > 1:
            head = int(shares.argmax())
            size = sizes[head] or 1.0
            return (
                f"relative L2 error {l2[head] / size:.3g}{self._head(head)} where {self.source} "
                f"allows {allowed[head] / size:.3g}"
            )
        limit = np.concatenate(
            [
                np.full(c.stop - c.start, each)
                for c, each in zip(self.columns.values(), limits, strict=True)
            ]
        )
        column = int(share(error, limit).argmax())
        return (
            f"error {error[column]:.3g} of {self._place(column)} where {self.source} allows "
            f"{limit[column]:.3g}"
        )

    def _head(self, head: int) -> str:
        return f" of head {list(self.columns)[head]}" if len(self.columns) > 1 else ""

    def _place(self, column: int) -> str:
        """Name a column, by its number within its head."""
        name, c = next((n, c) for n, c in self.columns.items() if column < c.stop)
        head = f" of head {name}" if len(self.columns) > 1 else ""
        return f"column {column - c.start}{head}"


def envelope(
    reference: NDArray[Any],
    exact: NDArray[Any],
    predicted: NDArray[Any] | None,
    columns: Mapping[str, slice],
    errors: NDArray[Any] | None = None,
) -> Envelope:
    """Return what the numerics allow around the predicted outputs, or around the reference.

    A network that stores 16 bits is chaotic: one value that is rounded the other way changes all
    later ones. Then the errors of the device and of the prediction are independent. Their
    difference is √2 times as large, and its L2 norm over n columns is at most (√n + z) / √n times
    its root mean square, with z = `TAIL`.

    Args:
        reference: float32 outputs of the reference (inputs, columns).
        exact: its float64 outputs.
        predicted: outputs with the numerics of the device; None if only float32 is allowed.
        columns: the columns of each head, by name.
        errors: further predicted errors of rows like these (rows, columns), perhaps none, if the
            device stores 16 bits; None if it stores float32.

    >>> reference = np.array([[3.0, 4.0]])
    >>> found = envelope(reference, reference, 1.001 * reference, {"": slice(0, 2)})
    >>> round(found.relative, 6)
    0.002
    >>> list(found.beyond(np.array([[3.0, 4.1]]), ["cat"]))[0][0]
    'cat'
    """
    r, x, p = reference, exact, reference if predicted is None else predicted
    sizes = norms(r, columns)
    floor = share(norms(r, columns, x), norms(x, columns)).max(axis=0)
    expected = norms(p, columns, r)
    typical = np.sqrt((share(expected, sizes) ** 2).mean(axis=0))
    scale, factor = np.maximum(expected, typical * sizes), np.full(len(columns), PREDICTED)
    if errors is not None:
        widths = np.array([c.stop - c.start for c in columns.values()])
        factor = np.maximum(factor, np.sqrt(2) * (1 + TAIL / np.sqrt(widths)))
        if len(errors):
            further = norms(errors, columns)
            scale = np.maximum(scale, np.sqrt((further**2).mean(axis=0)))
    allowed = factor * scale + ENVELOPE * floor * sizes
    return Envelope(
        p, allowed, sizes, columns, "float32" if predicted is None else "the prediction"
    )


def norms(
    values: NDArray[Any], columns: Mapping[str, slice], others: NDArray[Any] | None = None
) -> Floats:
    """Return the L2 norm of each head of `values`, or of `values` - `others`, in float64.

    Args:
        values, others: (inputs, columns).

    Returns:
        (inputs, heads).
    """
    found = np.empty((len(values), len(columns)))
    for block in blocks(*values.shape):
        part = values[block].astype(np.float64)
        if others is not None:
            part -= others[block]
        for head, c in enumerate(columns.values()):
            found[block, head] = np.linalg.norm(part[:, c], axis=1)
    return found


def share(error: Floats, size: Floats) -> Floats:
    """Return error / size, with 0/0 = 0."""
    shares: Floats = np.where(error == 0, 0.0, np.inf)
    return np.divide(error, size, out=shares, where=size > 0)
