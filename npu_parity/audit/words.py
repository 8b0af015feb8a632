"""Two texts, word by word: what a document says, and what it should say.

Words of Markdown and HTML count, rules of tables do not. A number may have the origin that stands
beside it (`npu_parity.report.origin`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from npu_parity.errors import ParityError, shorten
from npu_parity.report import origin

# Parts of a page without numbers of results: the library of tables, and pictures.
OPAQUE = re.compile(r"<(script|style)\b.*?</\1>|base64,[^\"]*", re.DOTALL)
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
RULE = re.compile(r"^\|[:|-]+\|$", re.MULTILINE)  # the line below a header in Markdown


@dataclass(frozen=True)
class _Word:
    text: str
    line: int
    source: str


def same_words(path: Path, text: str, expected: Sequence[str]) -> int:
    """Compare a document with what it should be; ParityError at the first other word.

    Returns how many numbers with an origin the document has.
    """
    found, *readings = (_words(OPAQUE.sub(lines, t)) for t in (text, *expected))
    first = readings[0]
    for i, word in enumerate(found[: len(first)]):
        if not _fits(word.text, [r[i].text for r in readings if i < len(r)]):
            near = next((w.source for w in first[i::-1][:3] if w.source), "")
            ours, theirs = _shown(word.text, first[i].text)
            raise ParityError(
                f"{path}, line {word.line}: found {ours}, the results give {theirs}"
                + (f" ({near})" if near else "")
            )
    if len(found) != len(first):
        last = found[-1].line if found else 0
        raise ParityError(
            f"{path} has {len(found)} words up to line {last}, expected {len(first)}: "
            "run `make`, which writes it again"
        )
    return sum(bool(word.source) for word in first)


def _fits(word: str, readings: Sequence[str]) -> bool:
    """Return whether a word is one of its readings, or its numbers lie between theirs.

    The first reading is of the figures as they are, the others of figures that were moved up and
    down. A number that grows both ways is a size, and it was 0 on the way.

    >>> _fits("5.33e-14", ["5.31e-14", "4.2e-14", "6.4e-14"]), _fits("5.33", ["5.31"] * 3)
    (True, False)
    >>> _fits("1e-16", ["2e-16", "9e-15", "8e-15"])
    True
    """
    if word in readings:
        return True
    if {NUMBER.sub("", reading) for reading in readings} != {NUMBER.sub("", word)}:
        return False
    numbers = [[float(n.replace(",", "")) for n in NUMBER.findall(r)] for r in (word, *readings)]
    return all(
        (0 if known[0] < min(known[1:], default=0) else min(known)) <= found <= max(known)
        for found, *known in zip(*numbers, strict=True)
    )


def _shown(*words: str) -> list[str]:
    """Return words for a message, without tags of HTML if they differ without them."""
    bare = [re.sub(r"^[^<]*>|<.*", "", word) for word in words]
    return [shorten(word, 150) for word in (bare if len(set(bare)) > 1 else words)]


def lines(match: re.Match[str]) -> str:
    """Return only the ends of lines, so that the numbers of lines stay."""
    return "\n" * match[0].count("\n")


def _words(text: str) -> list[_Word]:
    """Return the words of a document with their lines and origins, without rules of tables."""
    found: list[_Word] = []
    word, origin_of, line = "", "", 1
    for part, source in origin.pieces(RULE.sub("", text)):
        for piece in re.split(r"(\s)", part):
            if piece.isspace():
                if word:
                    found.append(_Word(word, line, origin_of))
                word, origin_of = "", ""
                line += piece == "\n"
            elif piece:
                word += piece
                origin_of = origin_of or source or _source(piece)
    return [*found, _Word(word, line, origin_of)] if word else found


def _source(piece: str) -> str:
    """Return the origin that HTML states beside a number."""
    match = re.match(r'data-source="([^"]+)"', piece)
    return match[1] if match else ""
