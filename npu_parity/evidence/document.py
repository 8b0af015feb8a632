"""A YAML file, read strictly: every mistake is one line with the file and the line number.

YAML reads some plain text as something else: ``no`` as false, ``010`` as eight, ``2024-13-45`` as
a date. A file that holds such text is refused, with a hint what to write.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from npu_parity.errors import ParityError, first_line, shorten

LARGEST = 1_000_000  # bytes
DEEPEST = 50  # levels
MOST = 50_000  # values: an alias may repeat a large part of the file
OVERRIDDEN = "with --config or --configfile"

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """What a YAML file says.

    Attributes:
        path: the file.
        data: mappings, lists, text, numbers, true, false and null.
        lines: the line of every key and list item, by its place, such as ``("models", "svhn")``;
            None if the command line gives another value.
    """

    path: Path
    data: Any
    lines: dict[Place, int | None] = field(repr=False)

    def where(self, place: Place) -> str:
        """Return the file, and the line of a place or of the nearest one around it."""
        for end in range(len(place), 0, -1):
            if place[:end] in self.lines:
                line = self.lines[place[:end]]
                return f"{self.path}, line {line}" if line else f"{self.path} {OVERRIDDEN}"
        return str(self.path)

    def override(self, given: Any, place: Place = ()) -> None:
        """Note the values that the command line gives instead of the file's.

        Args:
            given: what ``--config`` and ``--configfile`` say.
            place: where they say it.
        """
        if isinstance(given, dict):
            for key, value in given.items():
                self.override(value, (*place, key))
        else:
            for inner in [known for known in self.lines if known[: len(place)] == place]:
                del self.lines[inner]
            self.lines[place] = None


def read(path: str | Path, as_written: bool = False) -> Document:
    """Read a YAML file.

    Args:
        path: the file.
        as_written: keep every value as the text in the file, with all its digits.

    Raises:
        ParityError: the file is missing, unreadable, too large, not UTF-8, not YAML, or holds
            something other than `Document.data` lists.
    """
    path = Path(path)
    lines: dict[Place, int | None] = {}
    text = _text(path)
    try:
        root = yaml.compose(text, Loader=_Loader)
        data = _Reader(path, lines, as_written).value(root, ()) if root else None
    except yaml.YAMLError as error:
        raise _not_yaml(path, text, error) from None
    except _TooMany:
        raise ParityError(f"{path}: it holds more than {MOST} values") from None
    except RecursionError:
        raise _too_deep(path) from None
    return Document(path, data, lines)


class _TooMany(Exception):
    """The file holds more than `MOST` values."""


class _Loader(yaml.SafeLoader):
    """A loader that stops early, because it is slow."""

    count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, unless there are too many."""
        self.count += 1
        if self.count > MOST:
            raise _TooMany
        return super().compose_node(parent, index)


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            found = "is no file" if path.exists() else "is missing"
            raise ParityError(f"{path} {found}: run where it is, or name another file")
        content = path.read_bytes()
    except OSError as error:
        raise ParityError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > LARGEST:
        raise ParityError(f"{path} has {len(content)} bytes, expected at most {LARGEST}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        text = f"{path}, line {line}: this is not UTF-8; save the file as UTF-8"
        raise ParityError(text) from None


def _not_yaml(path: Path, text: str, error: yaml.YAMLError) -> ParityError:
    if isinstance(error, yaml.reader.ReaderError):  # the only one without a mark
        number, reason = text.count("\n", 0, error.position), "a control character"
    else:
        mark = getattr(error, "problem_mark", None)
        number = mark.line if mark else 0
        reason = shorten(getattr(error, "problem", None) or first_line(error), 150)
    return ParityError(f"{path}, line {number + 1}: this is not YAML ({reason})")


def _too_deep(path: Path) -> ParityError:
    return ParityError(f"{path}: it is nested more than {DEEPEST} levels deep")


class _Reader:
    """Turns nodes into values, and notes their lines."""

    def __init__(self, path: Path, lines: dict[Place, int | None], as_written: bool):
        self.path, self.lines, self.count = path, lines, 0
        self.as_written = as_written

    def value(self, node: yaml.Node, place: Place) -> Any:
        self.count += 1
        if len(place) > DEEPEST:
            raise _too_deep(self.path)
        if self.count > MOST:
            raise _TooMany
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return dict(self._items(node, place))
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self._noted(child, (*place, i)) for i, child in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, place)
        raise self._error(node, place, f"found the tag {_tag(node)}; leave it out")

    def _noted(self, node: yaml.Node, place: Place) -> Any:
        self.lines[place] = node.start_mark.line + 1
        return self.value(node, place)

    def _items(self, node: yaml.MappingNode, place: Place) -> Iterator[tuple[str, Any]]:
        seen: dict[str, int] = {}
        for key_node, child in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(key_node, place, "found a key that is no text")
            key, text = self._scalar(key_node, place), key_node.value
            if not isinstance(key, str):
                problem = f"YAML reads the key {_short(text)} as {key!r}; {_quote(text)}"
                raise self._error(key_node, place, problem)
            if key in seen:
                raise self._error(
                    key_node, place, f"the key {_short(key)} is already on line {seen[key]}"
                )
            seen[key] = self.lines[(*place, key)] = key_node.start_mark.line + 1
            yield key, self.value(child, (*place, key))

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> Any:
        text, kind = node.value, _tag(node)
        if kind == "!!str" or self.as_written:
            return text
        if kind == "!!null" and text in ("", "~", "null", "Null", "NULL"):
            return None
        if kind == "!!bool" and text in ("true", "false", "True", "False", "TRUE", "FALSE"):
            return text.lower() == "true"
        if kind == "!!int" and re.fullmatch(r"[-+]?(0|[1-9][0-9]{0,17})", text):
            return int(text)
        if kind == "!!float" and re.fullmatch(r"[-+]?[0-9]+\.[0-9]*([eE][-+]?[0-9]{1,3})?", text):
            return float(text)
        name = {
            "!!bool": "true or false",
            "!!int": "a number in another notation",
            "!!float": "a number in another notation",
            "!!timestamp": "a date",
            "!!merge": "a merge of mappings",
        }.get(kind, kind)
        raise self._error(node, place, f"YAML reads {_short(text)} as {name}; {_quote(text)}")

    def _error(self, node: yaml.Node, place: Place, problem: str) -> ParityError:
        where = dotted(place)
        line = f"{self.path}, line {node.start_mark.line + 1}"
        return ParityError(shorten(": ".join(filter(None, [line, where, problem])), 290))


def dotted(place: Place) -> str:
    """Return a place as people write it: ``models.svhn.inputs[0]``."""
    parts = (f"[{p}]" if isinstance(p, int) else f".{_short(str(p))}" for p in place)
    return "".join(parts).lstrip(".")


def _tag(node: yaml.Node) -> str:
    return str(node.tag).replace("tag:yaml.org,2002:", "!!")


def _quote(text: str) -> str:
    return f'for text write "{_short(text)}"'


def _short(text: str) -> str:
    """Return a text that fits a message."""
    return shorten(text, 60)
