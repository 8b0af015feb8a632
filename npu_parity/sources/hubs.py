"""Fetch one weights file from ModelScope or Hugging Face with their own clients, and verify it.

The functions import the clients when they need them, because the import takes time.
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

# ModelScope's client reads these settings at import. With its own defaults it waits for minutes if
# a hub does not answer. The user's environment has priority.
_MODELSCOPE_SETTINGS = {
    "MODELSCOPE_API_CONNECT_TIMEOUT": "5",
    "MODELSCOPE_REPO_TREE_PAGE_TIMEOUT_SECONDS": "10",
    "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "2",
    "MODELSCOPE_DOWNLOAD_TIMEOUT": "15",
    "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "3",
}


@dataclass(frozen=True)
class HubFile:
    """A verified file from a hub.

    Attributes:
        hub: a name in `CLIENTS`.
        repo: ``owner/name``.
        revision: the commit of the file (ModelScope: the last commit that changed this file).
        file: name within the repository.
        path: the file on this machine.
        sha256: SHA-256 of the file in hexadecimal.
    """

    hub: str
    repo: str
    revision: str
    file: str
    path: Path
    sha256: str


def reachable(hub: str, timeout: float = 3.0) -> str | None:
    """Check once whether a hub answers, with the proxy and mirror of its client.

    Args:
        hub: a name in `CLIENTS`.
        timeout: total time in seconds, without retries.

    Returns:
        None if the hub answers, otherwise its address and the reason.

    Raises:
        ParityError: the hub is unknown, or its client is broken.
    """
    client = _client(hub)
    outcome: list[str | None] = []

    def probe() -> None:
        try:
            status = client.probe(2 * timeout)  # longer than the wait below
        except Exception as error:
            outcome.append(_reason(error))
        else:
            outcome.append(f"HTTP {status}" if status == 407 or status >= 500 else None)

    # Use a thread, because the client's timeout does not limit name resolution, slow headers or the
    # total time over several addresses.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(timeout)
    reason = outcome[0] if outcome else f"no answer within {timeout:g} s"
    return reason and f"{client.endpoint}: {reason}"


def unreachable(names: Iterable[str], answers: Path) -> dict[str, str]:
    """Return the hubs among `names` that do not answer, each with the reason.

    The first process that needs a hub checks it and writes the answer to the file `answers`. Other
    processes wait and read it. Remove the file to check the hubs again.
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
    reasons: dict[str, str] = known["unreachable"]
    return reasons


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
        hub: a name in `CLIENTS`.
        repo: ``owner/name``.
        file: a name within the repository, or a pattern such as ``model-*.pth``. The last match in
            natural order counts (122000 comes after 99000).
        revision: branch, tag or commit; the hub's default branch if None.
        cache_dir: replaces the client's default cache.
        sha256: the expected SHA-256 of the file in hexadecimal.

    Raises:
        Unavailable: the hub fails or has no such file.
        ParityError: a name is unsafe, or the SHA-256 differs from the hub's or from the pin.
    """
    label = f"{hub}:{repo} {file}" + (f" at {revision}" if revision else "")
    for name in (repo, file, revision or "default"):
        if not _is_safe(name):
            raise ParityError(f"{hub}: {name!r} is not a relative name; write it without '..'")
    client = _client(hub)
    with _in_one_line(label):
        listing = client.files(repo, revision)
    entry = _choose(label, file, listing)

    expected = (sha256 or entry.sha256).lower()
    if entry.sha256 and entry.sha256 != expected:
        raise ParityError(
            f"{label}: the hub has sha256 {entry.sha256}, the pin says {expected}; "
            "correct the pin, or name the revision of the pin"
        )
    # A cached file may be old or damaged. Only a new download proves a mismatch.
    for fresh in (False, True):
        with _in_one_line(label):
            path = Path(client.download(repo, entry, cache_dir, fresh))
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        if not expected:
            raise ParityError(
                f"{label}: the hub states no sha256; if you trust the downloaded file, pin its "
                f"sha256 {found}"
            )
        if found == expected:
            return HubFile(hub, repo, entry.commit, entry.name, path, found)
    with _in_one_line(label):
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)  # in Hugging Face's cache, a link to the resolved path
    raise ParityError(
        f"{label}: the downloaded file has sha256 {found}, expected {expected}; "
        "it was removed; try again or use another hub"
    )


@dataclass(frozen=True)
class _Entry:
    """A hub's entry for one file. ``sha256`` may be "". ``ref`` is the revision to download."""

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
        if info.sha is None:
            raise Unavailable("the hub names no commit")
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
        # This part of the client does not import torch; `modelscope` does.
        from modelscope_hub import HubApi, get_default_config

        self.api = HubApi()
        endpoint = get_default_config().endpoint
        assert endpoint is not None, "the client fills it in"
        self.endpoint = endpoint

    def probe(self, timeout: float) -> int:
        import requests

        return requests.head(self.endpoint, timeout=timeout).status_code

    def files(self, repo: str, revision: str | None) -> list[_Entry]:
        ref = revision or "master"
        # HubApi.list_repo_files does not return the commit.
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
        # The progress bar cannot be disabled and would fill a log file.
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


# The only list of hubs. A new hub needs a class, and a line here.
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
    """Return whether a name, joined to a folder, stays within the folder on any system."""
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
    """Turn any error of a client into `Unavailable` with one line, so the next source is tried."""
    try:
        yield
    except Exception as error:
        raise Unavailable(f"{label}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Return in a few words why a client failed. The cause is several exceptions deep."""
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
