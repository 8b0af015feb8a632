"""Numbers that know the file and the field that they come from.

A tracked number is a ``float`` or ``int``. Wherever it is formatted, its text carries its origin
between three characters that no other text contains. So a table is written by the same code with
and without origins, and `pieces` finds the origin of every number in the result.
"""

from collections.abc import Iterator
from copy import copy
from typing import Any, Self

# Characters for private use: no file, name or label has them.
OPEN, BETWEEN, CLOSE = "\ue000", "\ue001", "\ue002"


def _marked(text: str, source: str) -> str:
    # `+` is escaped, because formatting looks for the exponent "e+" in its own result.
    return f"{OPEN}{source.replace('+', '%2B')}{BETWEEN}{text}{CLOSE}"


class Figure(float):
    """A float with its origin, as ``FILE#FIELD``."""

    source: str

    def __new__(cls, value: float, source: str) -> Self:  # noqa: D102
        figure = super().__new__(cls, value)
        figure.source = source
        return figure

    def __format__(self, spec: str) -> str:
        return _marked(format(float(self), spec), self.source)

    def __str__(self) -> str:
        return format(self)

    def __rmul__(self, other: float) -> "Figure":
        return Figure(other * float(self), self.source)

    def __radd__(self, other: float) -> "Figure":
        return Figure(other + float(self), self.source)

    def __rsub__(self, other: float) -> "Figure":
        return Figure(other - float(self), self.source)

    def __truediv__(self, other: float) -> "Figure":
        divisor = f"÷{other.source}" if isinstance(other, Figure) else ""
        return Figure(float(self) / float(other), self.source + divisor)


class Count(int):
    """An int with its origin, as ``FILE#FIELD``."""

    source: str

    def __new__(cls, value: int, source: str) -> Self:  # noqa: D102
        count = super().__new__(cls, value)
        count.source = source
        return count

    def __format__(self, spec: str) -> str:
        return _marked(format(int(self), spec), self.source)

    def __str__(self) -> str:
        return format(self)


def track(data: Any, file: str, field: str = "") -> Any:
    """Return the content of a JSON file with a `Figure` or `Count` for every number.

    >>> print(plain(str(track({"errors": [0.5]}, "metrics.json")["errors"][0])))
    0.5
    """
    if isinstance(data, dict):
        inner = f"{field}." if field else ""
        tracked = copy(data)  # its class may report a missing key in words
        tracked.update({key: track(value, file, f"{inner}{key}") for key, value in data.items()})
        return tracked
    if isinstance(data, list):
        return [track(value, file, f"{field}[{i}]") for i, value in enumerate(data)]
    if isinstance(data, float):
        return Figure(data, f"{file}#{field}")
    if isinstance(data, int) and not isinstance(data, bool):
        return Count(data, f"{file}#{field}")
    return data


def pieces(text: str) -> Iterator[tuple[str, str]]:
    """Yield the parts of a text with their origin, which is empty for all that is no number."""
    for part in text.split(OPEN):
        marked, _, rest = part.rpartition(CLOSE) if CLOSE in part else ("", "", part)
        source, _, number = marked.partition(BETWEEN)
        if number:
            yield number, source.replace("%2B", "+")
        if rest:
            yield rest, ""


def plain(text: str) -> str:
    """Return a text without origins."""
    return "".join(part for part, _ in pieces(text))
