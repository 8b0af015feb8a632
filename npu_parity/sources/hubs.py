"""Fetch one weights file from ModelScope or Hugging Face, with their own clients, and verify it.

The clients are imported inside the functions that use them: nothing here costs time until a
hub is really needed.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from npu_parity.errors import ParityError, Unavailable

# Read by ModelScope's client when it is imported; with its own defaults it waits for minutes on
# a hub that has stopped answering. A user's own values win.
_MODELSCOPE_SETTINGS = {
    "MODELSCOPE_API_CONNECT_TIMEOUT": "5",
    "MODELSCOPE_REPO_TREE_PAGE_TIMEOUT_SECONDS": "10",
    "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "2",
    "MODELSCOPE_DOWNLOAD_TIMEOUT": "15",
    "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "3",
}


@dataclass(frozen=True)
class HubFile:
    """A file fetched from a hub, verified.

    Attributes:
        hub: a name of `CLIENTS`.
        repo: ``owner/name``.
        revision: the commit that the hub resolved (ModelScope: the last one to change this file).
        file: name within the repository.
        path: where it lies on this machine.
        sha256: of the bytes at ``path``, in hexadecimal.
    """

    hub: str
    repo: str
    revision: str
    file: str
    path: Path
    sha256: str


def reachable(hub: str, timeout: float = 3.0) -> str | None:
    """Ask once whether a hub answers, through the proxy and mirror that its client would use.

    Args:
        hub: a name of `CLIENTS`.
        timeout: seconds for everything together; nothing is tried twice.

    Returns:
        None when the hub answers, otherwise its address and why not.

    Raises:
        ParityError: the hub is unknown, or its client is broken.
    """
    client = _client(hub)
    outcome: list[str | None] = []

    def probe() -> None:
        try:
            status = client.probe(2 * timeout)  # longer than anybody waits for it
        except Exception as error:
            outcome.append(_reason(error))
        else:
            outcome.append(f"HTTP {status}" if status == 407 or status >= 500 else None)

    # In a thread, since a client's own timeout bounds neither the resolution of a name nor a
    # slow header nor the sum over several addresses.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(timeout)
    reason = outcome[0] if outcome else f"no answer within {timeout:g} s"
    return reason and f"{client.endpoint}: {reason}"


def unreachable(names: Iterable[str], answers: Path) -> dict[str, str]:
    """Return which hubs cannot be reached, and why; each of `names` is asked once.

    Whoever wants a hub first asks it and notes its answer in the file `answers`; others wait, and
    read. Remove the file, and the hubs are asked again.
    """
    answers.parent.mkdir(parents=True, exist_ok=True)
    with open(answers, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        known = json.loads(file.read() or '{"asked": [], "unreachable": {}}')
        for name in sorted(set(names) - {*known["asked"], *known["unreachable"]}):
            known["asked"].append(name)
            if reason := reachable(name):
                known["unreachable"][name] = reason
        file.truncate(0)
        json.dump(known, file)
    return known["unreachable"]


def fetch(
    hub: str,
    repo: str,
    file: str,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    sha256: str | None = None,
) -> HubFile:
    """Download a file of a model repository, or find it in the client's cache, and verify it.

    Args:
        hub: a name of `CLIENTS`.
        repo: ``owner/name``.
        file: a name within the repository, or a pattern such as ``model-*.pth``; of several
            matches the last one in natural order is taken (122000 comes after 99000).
        revision: branch, tag or commit; the hub's default branch if None.
        cache_dir: instead of the client's own cache.
        sha256: a pin, in hexadecimal, that the file must have as well.

    Raises:
        Unavailable: the hub fails in whatever way, or has no such file.
        ParityError: a name is unsafe, or the bytes have another sha256 than the hub or the pin
            says.
    """
    label = f"{hub}:{repo} {file}" + (f" at {revision}" if revision else "")
    for name in (repo, file, revision or "default"):
        if not _is_safe(name):
            raise ParityError(f"{hub}: {name!r} is no plain relative name; write it without '..'")
    client = _client(hub)
    with _in_one_line(label):
        listing = client.files(repo, revision)
    entry = _choose(label, file, listing)

    expected = (sha256 or entry.sha256).lower()
    if entry.sha256 and entry.sha256 != expected:
        raise ParityError(
            f"{label}: the hub has sha256 {entry.sha256}, the pin says {expected}; "
            "correct the pin, or name the revision it was made from"
        )
    # Cached bytes may be stale or damaged: a mismatch is believed only of a fresh download.
    for fresh in (False, True):
        with _in_one_line(label):
            path = Path(client.download(repo, entry, cache_dir, fresh))
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        if not expected:
            raise ParityError(
                f"{label}: the hub states no sha256; pin the one of the downloaded bytes, {found}, "
                "if you trust them"
            )
        if found == expected:
            return HubFile(hub, repo, entry.commit, entry.name, path, found)
    with _in_one_line(label):
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)  # in Hugging Face's cache, a link to the former
    raise ParityError(
        f"{label}: the downloaded bytes have sha256 {found}, expected was {expected}; "
        "they were removed; try again, or another hub"
    )


@dataclass(frozen=True)
class _Entry:
    """What a hub states about one file: no sha256 is "", ``ref`` is what to download it by."""

    name: str
    size: int | None
    sha256: str
    commit: str
    ref: str


class _HuggingFace:
    def __init__(self) -> None:
        from huggingface_hub import HfApi

        self.api = HfApi()
        self.endpoint = self.api.endpoint

    def probe(self, timeout: float) -> int:
        from huggingface_hub import get_session

        session = get_session()
        return session.head(self.endpoint, timeout=timeout, follow_redirects=False).status_code

    def files(self, repo: str, revision: str | None) -> list[_Entry]:
        from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT

        info = self.api.model_info(
            repo, revision=revision, files_metadata=True, timeout=HF_HUB_ETAG_TIMEOUT
        )
        return [
            _Entry(
                name=file.rfilename,
                size=file.size,
                sha256=file.lfs.sha256 if file.lfs else "",
                commit=info.sha,
                ref=info.sha,
            )
            for file in info.siblings or ()
        ]

    def download(self, repo: str, entry: _Entry, cache_dir: str | Path | None, fresh: bool) -> str:
        return self.api.hf_hub_download(
            repo, entry.name, revision=entry.ref, cache_dir=cache_dir, force_download=fresh
        )


class _ModelScope:
    def __init__(self) -> None:
        for name, value in _MODELSCOPE_SETTINGS.items():
            os.environ.setdefault(name, value)
        # The light half of the client: `modelscope` itself imports torch.
        from modelscope_hub import HubApi, get_default_config

        self.api = HubApi()
        self.endpoint = get_default_config().endpoint

    def probe(self, timeout: float) -> int:
        import requests

        return requests.head(self.endpoint, timeout=timeout).status_code

    def files(self, repo: str, revision: str | None) -> list[_Entry]:
        ref = revision or "master"
        # Not HubApi.list_repo_files, which drops the commit.
        return [
            _Entry(
                name=file["Path"],
                size=file.get("Size") or None,
                sha256=(file.get("Sha256") or "").lower(),
                commit=file.get("Revision") or ref,
                ref=ref,
            )
            for file in self.api.legacy.list_repo_files(repo, "model", ref)
            if file.get("Type") != "tree"
        ]

    def download(self, repo: str, entry: _Entry, cache_dir: str | Path | None, fresh: bool) -> Path:
        # Its progress bar has no switch, and would fill a log file.
        shown = sys.stderr if sys.stderr.isatty() else io.StringIO()
        with contextlib.redirect_stderr(shown):
            return self.api.download_file(
                repo,
                "model",
                entry.name,
                revision=entry.ref,
                cache_dir=cache_dir,
                force=fresh,
                file_size=entry.size,
            )


# The one list of hubs: a new one is a class, and a line here.
CLIENTS: dict[str, type[_HuggingFace] | type[_ModelScope]] = {
    "modelscope": _ModelScope,
    "huggingface": _HuggingFace,
}


def _client(hub: str) -> _HuggingFace | _ModelScope:
    if hub not in CLIENTS:
        raise ParityError(f"hub {hub!r} is unknown: expected one of {', '.join(CLIENTS)}")
    with _in_one_line(f"{hub}: its client cannot be used"):
        return CLIENTS[hub]()


def _is_safe(name: str) -> bool:
    """Whether a name, joined to a folder, stays within it on any system."""
    return (
        name.isprintable()
        and not re.search(r"\\|^~|^[A-Za-z]:", name)
        and not {"", ".", ".."} & set(name.split("/"))
    )


def _choose(label: str, file: str, entries: list[_Entry]) -> _Entry:
    """Pick the entry with this name, or the last in natural order that matches the pattern."""

    def natural(entry: _Entry) -> list[str | int]:
        parts = re.split(r"([0-9]+)", entry.name)
        return [int(part) if i % 2 else part for i, part in enumerate(parts)]

    def matches(name: str) -> bool:
        parts, patterns = name.split("/"), file.split("/")
        return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))

    entries = sorted(entries, key=natural)
    chosen = [e for e in entries if e.name == file] or [e for e in entries if matches(e.name)]
    if not entries:
        raise Unavailable(f"{label}: the hub lists no files; check the revision")
    if not chosen:
        names = _first_words(", ".join(e.name for e in entries[:8]))
        more = f" and {len(entries) - 8} more" if len(entries) > 8 else ""
        raise Unavailable(f"{label}: no such file; the repository has {names}{more}")
    if not _is_safe(chosen[-1].name):
        raise ParityError(f"{label}: refused, the hub names a file {chosen[-1].name!r}")
    return chosen[-1]


@contextlib.contextmanager
def _in_one_line(label: str) -> Iterator[None]:
    """Turn whatever a client raises into one line that lets the next source be tried."""
    try:
        yield
    except Exception as error:
        raise Unavailable(f"{label}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Say in a few words why a client failed: the cause lies several exceptions deep."""
    advice = {
        401: "check the name, or log in: the repository may be private or gated",
        403: "access denied: log in, and accept the repository's terms",
        404: "check repository, file and revision",
    }
    link: BaseException | None = error
    while link is not None:
        kind = type(link).__name__
        status = getattr(link, "status_code", None)
        status = status or getattr(getattr(link, "response", None), "status_code", None)
        if status:
            said = getattr(link, "server_message", None) or getattr(link, "message", None) or kind
            hint = f"; {advice[status]}" if status in advice else ""
            return f"HTTP {status}, {_first_words(said)}{hint}"
        if kind == "OfflineModeIsEnabled":
            return "offline mode is set (HF_HUB_OFFLINE)"
        if isinstance(link, socket.gaierror):
            return "name not resolved"
        if isinstance(link, ConnectionRefusedError):
            return "connection refused"
        if isinstance(link, TimeoutError) or "Timeout" in kind:
            return "no answer in time"
        if isinstance(link, ConnectionResetError) or "ProtocolError" in kind:
            return "connection lost"
        last, link = link, link.__cause__ or link.__context__
    return f"{type(last).__name__}: {_first_words(str(last))}"


def _first_words(text: str, limit: int = 200) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[:limit]}…"
