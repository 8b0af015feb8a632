"""Splice generated text between markers of a Markdown file."""

import re

from npu_parity.errors import ParityError

OPENING = re.compile(r"^<!-- from (?P<file>\S+) -->$", re.MULTILINE)
MARKER = re.compile(
    r"^(<!-- from (?P<file>\S+) -->\n)(?:(?!^<!-- from ).)*?^(<!-- end -->)$",
    re.DOTALL | re.MULTILINE,
)


def markers(text: str) -> list[str]:
    """Return the files that the markers of `text` name."""
    return [match["file"] for match in MARKER.finditer(text)]


def splice(text: str, contents: dict[str, str]) -> str:
    """Return `text` with every ``<!-- from FILE --> … <!-- end -->`` holding that file's content.

    Doing it again changes nothing. Raises ParityError where a marker is not closed, or names a
    file that `contents` lacks.
    """
    closed = {match.start() for match in MARKER.finditer(text)}
    for match in OPENING.finditer(text):
        if match.start() not in closed:
            raise ParityError(f"the marker `from {match['file']}` has no <!-- end --> of its own")

    def replace(match: re.Match) -> str:
        if match["file"] not in contents:
            raise ParityError(f"the marker `from {match['file']}` names a file that is not there")
        return f"{match[1]}\n{contents[match['file']].strip()}\n\n{match[3]}"

    return MARKER.sub(replace, text)
