"""Insert generated text between markers of a Markdown file."""

import re

from npu_parity.errors import ParityError

OPENING = re.compile(r"^<!-- from (?P<file>\S+) -->$", re.MULTILINE)
MARKER = re.compile(
    r"^(<!-- from (?P<file>\S+) -->\n)(?:(?!^<!-- from ).)*?^(<!-- end -->)$",
    re.DOTALL | re.MULTILINE,
)


def markers(text: str) -> list[str]:
    """Return the files in the markers of `text`."""
    return [match["file"] for match in MARKER.finditer(text)]


def splice(text: str, contents: dict[str, str]) -> str:
    """Return `text` with the content of FILE in every ``<!-- from FILE --> … <!-- end -->``.

    A second call changes nothing. Raises ParityError if a marker is not closed, or if `contents`
    does not have its file.
    """
    closed = {match.start() for match in MARKER.finditer(text)}
    for match in OPENING.finditer(text):
        if match.start() not in closed:
            raise ParityError(f"the marker `from {match['file']}` has no <!-- end --> of its own")

    def replace(match: re.Match[str]) -> str:
        if match["file"] not in contents:
            raise ParityError(f"the marker `from {match['file']}` names a file that is not there")
        return f"{match[1]}\n{contents[match['file']].strip()}\n\n{match[3]}"

    return MARKER.sub(replace, text)
