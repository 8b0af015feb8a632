"""Files in the cache of a hub's client, for machines that cannot reach the hub."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from npu_parity.errors import ParityError
from npu_parity.evidence import sha256 as hash_of
from npu_parity.sources import containers
from npu_parity.sources.clients import Snapshot, connect
from npu_parity.sources.repositories import HubFile, choose_name, require_safe


def find(
    hub: str,
    repo: str,
    file: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    sha256: str | None = None,
    locked: Mapping[str, str] | None = None,
) -> HubFile | None:
    """Return a file of the client's cache without asking the hub; None if it does not have it.

    A file with the expected SHA-256 counts, from any revision. Without an expected SHA-256, the
    newest snapshot of `revision` counts, or of any revision if it is None. Arguments: see `fetch`.

    Raises:
        ParityError: a name is unsafe, or the cached file is damaged.
    """
    require_safe(hub, repo, file, revision)
    client = connect(hub)
    room = Path(cache_dir) if cache_dir else client.cache
    snapshots = sorted(
        client.cached(repo, room),
        key=lambda snapshot: (snapshot.folder.stat().st_mtime_ns, snapshot.revision),
        reverse=True,
    )
    pinned = {**(locked or {})}
    usable = 0
    found = None
    for snapshot in snapshots:
        known = bool(sha256 or pinned) or revision is None or revision in snapshot.names
        chosen = choose_name(file, snapshot.files) if known else None
        if chosen is None or (pinned and chosen not in pinned):
            continue
        usable += 1
        found = found or _cached(hub, repo, snapshot, chosen, sha256 or pinned.get(chosen), pinned)
    if found is None:
        return None
    how = "of the expected sha256" if sha256 or pinned else f"the newest of {usable} revisions"
    return replace(found, cache=how)


def _cached(
    hub: str,
    repo: str,
    snapshot: Snapshot,
    name: str,
    expected: str | None,
    locked: Mapping[str, str],
) -> HubFile | None:
    """Return a file of a snapshot with its shards; None if it is not the expected one."""
    path = snapshot.folder / name
    digest = hash_of(path)
    if expected and digest != expected.lower():
        return None
    stated = path.resolve().name  # Hugging Face names the content by its hash
    if re.fullmatch("[0-9a-f]{64}", stated) and digest != stated:
        raise ParityError(f"{hub}:{repo} {name}: {path} is damaged: delete it and go online")
    shards = []
    if containers.is_index(name):
        for shard in containers.shards(path):
            below = str(Path(name).parent / shard)
            if not (snapshot.folder / below).is_file():
                return None
            got = _cached(hub, repo, snapshot, below, locked.get(below), {})
            if got is None:
                return None
            shards.append(got)
    return HubFile(hub, repo, snapshot.revision, name, path, digest, tuple(shards))
