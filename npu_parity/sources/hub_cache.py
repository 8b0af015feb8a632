"""Files in the cache of a hub's client, for machines that cannot reach the hub."""

import re
from dataclasses import replace
from pathlib import Path

from npu_parity.errors import ParityError
from npu_parity.evidence import sha256 as hash_of
from npu_parity.sources import containers
from npu_parity.sources.clients import Snapshot, connect
from npu_parity.sources.repositories import HubFile, Request, choose_name


def find(request: Request) -> HubFile | None:
    """Return a file of the client's cache without asking the hub; None if it does not have it.

    A file with the expected SHA-256 counts, from any revision. Without an expected SHA-256, the
    newest snapshot of the revision counts, or of any revision if the request names none.

    Raises:
        ParityError: the cached file is damaged.
    """
    client = connect(request.hub)
    snapshots = sorted(
        client.cached(request.repo, request.cache_dir or client.cache),
        key=lambda snapshot: (snapshot.folder.stat().st_mtime_ns, snapshot.revision),
        reverse=True,
    )
    pinned = bool(request.sha256 or request.locked)
    usable = 0
    found = None
    for snapshot in snapshots:
        known = pinned or request.revision is None or request.revision in snapshot.names
        chosen = choose_name(request.file, snapshot.files) if known else None
        if chosen is None or (request.locked and chosen not in request.locked):
            continue
        usable += 1
        expected = request.sha256 or request.locked.get(chosen)
        found = found or _cached(request, snapshot, chosen, expected)
    if found is None:
        return None
    how = "of the expected sha256" if pinned else f"the newest of {usable} revisions"
    return replace(found, cache=how)


def _cached(
    request: Request, snapshot: Snapshot, name: str, expected: str | None
) -> HubFile | None:
    """Return a file of a snapshot with its shards; None if it is not the expected one."""
    path = snapshot.folder / name
    digest = hash_of(path)
    if expected and digest != expected.lower():
        return None
    stated = path.resolve().name  # Hugging Face names the content by its hash
    if re.fullmatch("[0-9a-f]{64}", stated) and digest != stated:
        raise ParityError(f"{request}: {path} is damaged: delete it and go online")
    shards = []
    if containers.is_index(name):
        for shard in containers.shards(path):
            below = str(Path(name).parent / shard)
            if not (snapshot.folder / below).is_file():
                return None
            got = _cached(request, snapshot, below, request.locked.get(below))
            if got is None:
                return None
            shards.append(got)
    return HubFile(request.hub, request.repo, snapshot.revision, name, path, digest, tuple(shards))
