"""Dense maps of scores, (classes, height, width): the class of each pixel."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu_parity.verdict.rows import blocks


def places(outputs: NDArray[Any], shape: Sequence[int] | None) -> NDArray[Any]:
    """Return the scores of one head as (inputs, places, classes).

    Args:
        outputs: (inputs, columns).
        shape: (classes, height, width) of a dense map, whose pixels are the places. Any other head
            has one place.

    >>> places(np.arange(8).reshape(1, 8), (2, 2, 2)).tolist()
    [[[0, 4], [1, 5], [2, 6], [3, 7]]]
    """
    if shape is None or len(shape) < 2:
        return outputs[:, None, :]
    return outputs.reshape(len(outputs), shape[0], -1).swapaxes(1, 2)


def pixel_classes(scores: NDArray[Any]) -> NDArray[Any]:
    """Return the class of each place; scores are (..., classes). A single score has two classes.

    Its sign decides.
    """
    found: NDArray[Any] = scores.argmax(-1) if scores.shape[-1] > 1 else scores[..., 0] > 0
    return found


def agreement(
    reference: NDArray[Any], device: NDArray[Any], shape: Sequence[int]
) -> dict[str, float | None]:
    """Compare the classes of the pixels of both sides of one dense map, (inputs, columns)."""
    counts = np.zeros((3, max(shape[0], 2)), np.int64)  # both sides, reference, device
    for block in blocks(*reference.shape):
        r, d = reference[block], device[block]
        if not (np.isfinite(r).all() and np.isfinite(d).all()):
            return {"pixel_agreement": None, "mean_iou": None}
        r, d = (pixel_classes(places(side, shape)) for side in (r, d))
        for count, classes in zip(counts, (r[r == d], r, d), strict=True):
            count += np.bincount(classes.ravel(), minlength=len(count))
    both, of_reference, of_device = counts
    seen = of_reference > 0  # classes of the device alone lower the others
    ious = both[seen] / (of_reference + of_device - both)[seen]
    return {
        "pixel_agreement": float(both.sum() / of_reference.sum()),
        "mean_iou": float(np.mean(ious)),
    }
