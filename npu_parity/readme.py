"""Splice generated text between markers of a Markdown file."""

import re

from npu_parity.errors import ParityError

MARKER = re.compile(r"(<!-- from (?P<file>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def markers(text: str) -> list[str]:
    """Return the files that the markers of `text` name."""
    return [match["file"] for match in MARKER.finditer(text)]


def splice(text: str, contents: dict[str, str]) -> str:
    """Return `text` with every ``<!-- from FILE --> … <!-- end -->`` holding that file's content.

    Doing it again changes nothing. Raises ParityError where a marker names a file that
    `contents` lacks.
    """

    def replace(match: re.Match) -> str:
        if match["file"] not in contents:
            raise ParityError(f"the marker `from {match['file']}` names a file that is not there")
        return f"{match[1]}\n{contents[match['file']].strip()}\n\n{match[3]}"

    return MARKER.sub(replace, text)
