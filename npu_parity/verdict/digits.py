"""The house number that the heads of an SVHN network spell."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npu_parity.errors import ParityError
from npu_parity.verdict.rows import checked, columns

DIGITS = ("digit1", "digit2", "digit3", "digit4", "digit5")
SYMBOLS = "0123456789_"  # class 10 is blank


def decode_digits(outputs: ArrayLike, heads: Mapping[str, int]) -> list[str]:
    """Spell the house number in each row of SVHN outputs.

    ``outputs`` has shape (inputs, columns). Head ``length`` gives the number of valid heads among
    ``digit1`` to ``digit5`` (at most 5). Class 10 is blank, shown as ``_``.

    Raises ``ParityError`` if a head is missing or a digit head does not have width 11.
    """
    outputs = checked("digit", outputs)
    for name in DIGITS:
        if heads.get(name) != len(SYMBOLS):
            raise ParityError(f"head {name} has width {heads.get(name)}, expected {len(SYMBOLS)}")
    if "length" not in heads:
        raise ParityError(f"digit heads are {', '.join(heads)}, expected a head length")
    by_head = columns(heads, outputs.shape[1])
    lengths = outputs[:, by_head["length"]].argmax(axis=1)
    digits = np.stack([outputs[:, by_head[name]].argmax(axis=1) for name in DIGITS], axis=1)
    return [
        "".join(SYMBOLS[digit] for digit in row[:length])
        for row, length in zip(digits, lengths, strict=True)
    ]


def answers(outputs: NDArray[Any], heads: Mapping[str, int]) -> list[str | None]:
    """Return the answer for each input, or None if its outputs are not finite."""
    return [
        answer if np.isfinite(row).all() else None
        for answer, row in zip(decode_digits(outputs, heads), outputs, strict=True)
    ]
