"""The tolerance of a figure that another machine computes again from the same arrays.

Sums have a fixed order, see `npu_parity.verdict.metrics.l2`. But machines differ in the last digits
of exp and log. Libraries allow an error of 4 units in the last place, which is 8 u with the unit
roundoff u = 2^-53 of float64. A probability is a quotient of exponentials, so two machines compute
it with a relative difference of at most 32 u. A difference between probabilities loses digits: if
the probabilities differ by a relative error e, the difference is accurate to 32 u / e, and its
square to 64 u / e.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ROUNDINGS = 64  # units of u
U = 2.0**-53


def tolerance(relative_error: float | None) -> float:
    """Return the relative tolerance of figures from two arrays with this relative L2 error.

    >>> tolerance(1e-3) < 1e-11
    True
    """
    return ROUNDINGS * U * (1 + 1 / relative_error) if relative_error else ROUNDINGS * U


def differences(stated: Any, again: Any, path: str = "") -> Iterator[str]:
    """Yield a line for each figure that differs from the one computed again.

    Integers, text, the lengths of lists and the keys of mappings must be equal. Floats must agree
    within `tolerance`. A mapping contains the relative error of its arrays as
    ``relative_l2_error`` and ``prob_relative_l2_error``.

    Args:
        stated: the content of a JSON file.
        again: the same content, computed again.
        path: the path of the content, for the lines.
    """
    yield from _differences(stated, again, path, ROUNDINGS * U)


def _differences(stated: Any, again: Any, path: str, allowed: float) -> Iterator[str]:
    if isinstance(stated, Mapping) and isinstance(again, Mapping):
        for key in {**stated, **again}:
            if key not in stated or key not in again:
                yield f"{path}.{key}: only one side has this key"
                continue
            prefix = "prob_" if str(key).startswith("prob_") else ""
            error = stated.get(f"{prefix}relative_l2_error")
            within = tolerance(error) if isinstance(error, float) else allowed
            yield from _differences(stated[key], again[key], f"{path}.{key}", within)
    elif all(isinstance(x, Sequence) and not isinstance(x, str) for x in (stated, again)):
        if len(stated) != len(again):
            yield f"{path}: {len(stated)} values, computed again {len(again)}"
        for i, (a, b) in enumerate(zip(stated, again, strict=False)):
            yield from _differences(a, b, f"{path}[{i}]", allowed)
    elif isinstance(stated, float) and isinstance(again, float):
        if abs(stated - again) > allowed * max(abs(stated), abs(again)):
            yield f"{path}: {stated!r}, computed again {again!r}"
    elif type(stated) is not type(again) or stated != again:
        yield f"{path}: {stated!r}, computed again {again!r}"
