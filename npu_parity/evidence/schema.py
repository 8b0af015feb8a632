"""A mistake in a YAML file that has a schema, in one line."""

import difflib
from typing import TYPE_CHECKING, Any

from npu_parity.errors import ParityError, shorten
from npu_parity.evidence.document import Document, Place, dotted

if TYPE_CHECKING:
    import jsonschema


def explain(error: "jsonschema.ValidationError", document: Document) -> ParityError:
    """Return one line: the place in the file, the value found, the value expected."""
    place = tuple(error.absolute_path)
    # jsonschema declares these three as optional, but a reported error always has them.
    rule: Any = error.schema
    required: Any = error.validator_value
    found: Any = error.instance
    if error.validator == "additionalProperties":
        known = list(rule["properties"])
        key = next(k for k in found if k not in known)
        close = difflib.get_close_matches(str(key), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
        return mistake(document, place, f"unknown key {shortened(key)}; {hint}", at=(*place, key))
    if error.validator == "required":
        key = next(k for k in required if k not in found)
        return mistake(document, place, f"the key {key!r} is missing")
    if error.validator == "format":
        return mistake(document, place, shortened(str(error.cause), quoted=False))
    expected = rule.get("description", error.message)
    text = f"found {shortened(found)}, expected {shortened(expected, quoted=False)}"
    return mistake(document, place, text)


def mistake(document: Document, place: Place, text: str, at: Place | None = None) -> ParityError:
    """Return an error: the file with the line, the place, the text."""
    where = dotted(place) or "the top level"
    return ParityError(shorten(f"{document.where(at or place)}: {where}: {text}", 290))


def shortened(value: Any, quoted: bool = True) -> str:
    """Return a value that fits a message."""
    return shorten(repr(value) if quoted else str(value), 150)
