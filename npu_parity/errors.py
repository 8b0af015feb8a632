"""The exceptions that a user is meant to read."""


class ParityError(Exception):
    """A user's mistake or a missing thing, told in one line.

    The line names the file and the key or tensor, what was found, what was expected and what
    to do. Command lines print it as ``error: ...`` and exit with status 1, never a traceback.
    """


class Unavailable(ParityError):
    """A hub that cannot be reached, or does not have the file: the next source may be tried."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its type's name where it says nothing."""
    return str(error).partition("\n")[0] or type(error).__name__
