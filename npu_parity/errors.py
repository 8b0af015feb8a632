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
    """A hub does not answer or does not have the file. The next source may be tried."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if it has none."""
    return str(error).partition("\n")[0] or type(error).__name__
