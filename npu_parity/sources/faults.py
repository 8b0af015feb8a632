"""Why a hub's client failed, in one line; and a deadline for calls that have none."""

import contextlib
import errno
import io
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from npu_parity.errors import Absent, ParityError, Unavailable, shorten

# Local faults. A full disk says nothing about the hub.
LOCAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.EMFILE}

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return the result of a call; Unavailable if it takes longer. Clients have no such deadline.

    The thread is abandoned then. The clients give a file its name only when it is complete.
    """
    outcome: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not outcome:
        raise Unavailable(f"not finished within {seconds:.0f} s")
    return outcome[0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep progress bars out of log files. ModelScope's cannot be disabled."""
    shown = sys.stderr if sys.stderr.isatty() else io.StringIO()
    with contextlib.redirect_stderr(shown):
        yield


@contextlib.contextmanager
def in_one_line(label: str) -> Iterator[None]:
    """Turn any error of a client into one line: `Unavailable`, `Absent`, or a local fault.

    The errors of this package get the label.
    """
    try:
        yield
    except ParityError as error:
        raise type(error)(f"{label}: {error}") from error
    except Exception as error:
        kind, reason = explained(error)
        raise kind(f"{label}: {reason}") from error


def explained(error: BaseException) -> tuple[type[ParityError], str]:
    """Return the kind of a client's failure, and its reason in a few words.

    The cause is several exceptions deep.
    """
    advice = {
        401: "check the name, or log in: the repository may be private or gated",
        403: "access denied: log in, and accept the repository's terms",
        404: "check repository, file and revision",
        429: "too many requests: try later, or log in",
    }
    link: BaseException | None = error
    while link is not None:
        kind = type(link).__name__
        status = getattr(link, "status_code", None)
        status = status or getattr(getattr(link, "response", None), "status_code", None)
        if status and status >= 400:
            said = getattr(link, "server_message", None) or getattr(link, "message", None) or kind
            hint = f"; {advice[status]}" if status in advice else ""
            answered = status < 500 and status not in (407, 408, 425, 429)
            return Absent if answered else Unavailable, f"HTTP {status}, {_words(said)}{hint}"
        if kind == "OfflineModeIsEnabled":
            return Unavailable, "offline mode is set (HF_HUB_OFFLINE)"
        if isinstance(link, socket.gaierror):
            return Unavailable, "name not resolved"
        if isinstance(link, ConnectionRefusedError):
            return Unavailable, "connection refused"
        if isinstance(link, TimeoutError) or "Timeout" in kind:
            return Unavailable, "no answer in time"
        if isinstance(link, OSError) and (link.errno in LOCAL or (link.errno and link.filename)):
            where = f" ({link.filename})" if link.filename else ""
            return ParityError, f"cannot be stored here: {link.strerror}{where}"
        if kind == "TooManyRedirects":
            return Unavailable, "redirected in a loop"
        if "JSONDecodeError" in kind:
            page = "the answer is a page and not the hub's, such as a login to the network"
            return Unavailable, f"{page}: open a browser there"
        if isinstance(link, ConnectionResetError) or "ProtocolError" in kind:
            return Unavailable, "connection lost"
        last, link = link, link.__cause__ or link.__context__
    return Unavailable, f"{type(last).__name__}: {_words(str(last))}"


def _words(text: str) -> str:
    return shorten(text, 120)
