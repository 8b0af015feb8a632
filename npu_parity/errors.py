"""Exceptions for the user."""


class ParityError(Exception):
    """A user's mistake or something missing, explained in one line.

    The line names the file and the key or tensor, the value found, the value expected, and what to
    do. Command lines print it as ``error: ...`` without a traceback and exit with status 1.

    >>> raise ParityError("cat.png: there is no such file")
    Traceback (most recent call last):
    npu_parity.errors.ParityError: cat.png: there is no such file
    """


class Unavailable(ParityError):
    """A hub is out of reach. The next source may be tried, also a seed."""


class Absent(ParityError):
    """A hub answers, but it does not give the file. Another hub may be tried, but no seed."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if it has none."""
    return _message(error).partition("\n")[0] or type(error).__name__


def reason(error: BaseException, limit: int) -> str:
    r"""Return the type and the message of an error in one line of at most `limit` characters.

    >>> reason(ValueError("two\nlines"), 40), reason(AssertionError(), 40)
    ('ValueError: two lines', 'AssertionError')
    """
    kind, message = type(error).__name__, _message(error)
    return shorten(f"{kind}: {message}" if message.strip() else kind, limit)


def shorten(text: str, limit: int) -> str:
    r"""Return `text` as one line of at most `limit` printable characters.

    >>> shorten("one\ntwo three", 9)
    'one two …'
    """
    line = " ".join(text[: 10 * limit].split())
    line = "".join(character if character.isprintable() else "?" for character in line)
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # a user's exception may fail in any way while it explains itself
        return ""
