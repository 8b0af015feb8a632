"""Fetch a file of weights from ModelScope or Hugging Face with their own clients, and verify it.

The functions import the clients when they need them, because the import takes time.
"""

import fcntl
import hashlib
import json
import shutil
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from npu_parity.errors import Absent, ParityError, shorten
from npu_parity.evidence import sha256 as hash_of
from npu_parity.sources import containers
from npu_parity.sources.clients import Client, Entry, connect
from npu_parity.sources.faults import explained, in_one_line, quiet, within
from npu_parity.sources.repositories import HubFile, Request, choose

SLOWEST = 100_000  # bytes per second; a fetch that is slower is given up


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
    client = connect(hub)
    outcome: list[str | None] = []

    def probe() -> None:
        try:
            status = client.probe(2 * timeout)  # longer than the wait below
        except Exception as error:
            outcome.append(explained(error)[1])
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


def fetch(request: Request, patience: float = 20.0) -> HubFile:
    """Download a file of a model repository, or find it in the client's cache, and verify it.

    The shards of an index are fetched too.

    Args:
        request: the file.
        patience: seconds for a fetch, besides the time for its bytes at the rate `SLOWEST`.

    Raises:
        Unavailable: the hub is out of reach.
        Absent: the hub answers, but does not give the file.
        ParityError: a SHA-256 differs from the hub's, the lock's or the pin, or this machine cannot
            store the file.
    """
    client = connect(request.hub)
    listing = files(request, patience)
    entry = choose(request, listing)
    if request.locked and entry.name not in request.locked:
        raise ParityError(
            f"{request}: the hub now has {entry.name}, weights.lock.yaml has "
            f"{next(iter(request.locked))}; {request.accepting}"
        )

    def get(entry: Entry, pin: str | None) -> HubFile:
        expected = (pin or request.locked.get(entry.name) or entry.sha256).lower()
        if entry.sha256 and entry.sha256 != expected:
            says = "the pin says" if pin else "weights.lock.yaml says"
            advice = "correct the pin, or name the revision of the pin"
            raise ParityError(
                f"{request}: the hub has sha256 {entry.sha256}, {says} {expected}; "
                + (advice if pin else request.accepting)
            )
        return _download(request, client, entry, expected, patience)

    found = get(entry, request.sha256)
    if containers.is_index(entry.name):
        entries = {listed.name: listed for listed in listing}
        names = [str(Path(entry.name).parent / name) for name in containers.shards(found.path)]
        if missing := [name for name in names if name not in entries]:
            raise Absent(f"{request}: the index names {missing[0]}, but the repository lacks it")
        found = replace(found, shards=tuple(get(entries[name], None) for name in names))
    return found


def files(request: Request, patience: float = 20.0) -> list[Entry]:
    """Return the files of the repository; Unavailable or Absent as for `fetch`."""
    client = connect(request.hub)
    try:
        with in_one_line(str(request)):
            listing = within(patience, lambda: client.files(request.repo, request.revision))
            if not listing:
                raise Absent("the hub lists no files; check the revision")
            return listing
    except Absent as error:
        if request.revision != client.other_branch:
            raise
        raise Absent(f"{error}; its default branch is {client.branch}") from error


def _download(
    request: Request, client: Client, entry: Entry, expected: str, patience: float
) -> HubFile:
    """Download an entry, or find it in the cache, and compare its hash."""
    if not containers.is_inside(entry.name):
        name = shorten(repr(entry.name), 60)
        raise ParityError(f"{request}: refused, the hub names a file {name}")
    room = request.cache_dir or client.cache
    there = any((s.folder / entry.name).is_file() for s in client.cached(request.repo, room))
    _require_space(request, client, room, entry, there)
    seconds = patience + (entry.size or 0) / SLOWEST
    # A cached file may be old or damaged. Only a new download proves a mismatch.
    for fresh in (False, True):
        with in_one_line(str(request)), quiet():

            def download(fresh: bool = fresh) -> Path:
                return Path(client.download(request.repo, entry, request.cache_dir, fresh))

            path = within(seconds, download)
            found = hash_of(path)
            same = found == expected if expected else entry.blob == _blob(path)
        if not expected and not entry.blob:
            raise ParityError(
                f"{request}: the hub states no sha256; if you trust the downloaded file, pin its "
                f"sha256 {found}"
            )
        if same:
            return HubFile(request.hub, request.repo, entry.commit, entry.name, path, found)
    with in_one_line(str(request)):
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)  # in Hugging Face's cache, a link to the resolved path
    raise ParityError(
        f"{request}: the downloaded file has sha256 {found}, expected {expected or entry.blob}; "
        "it was removed; try again or use another hub"
    )


def _blob(path: Path) -> str:
    """Return git's hash of a file."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _require_space(request: Request, client: Client, room: Path, entry: Entry, there: bool) -> None:
    place = next(p for p in (room, *room.parents) if p.exists())
    free = shutil.disk_usage(place).free
    if not there and entry.size and entry.size > free:
        raise ParityError(
            f"{request}: needs {entry.size / 1e6:.0f} MB, but {place} has {free / 1e6:.0f} MB "
            f"free: free some, or set {client.setting} to a folder on another disk"
        )
