"""The hubs' own clients, behind one interface. They are imported when needed: it takes time.

Each client keeps its settings: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HF_HUB_CACHE;
MODELSCOPE_ENDPOINT, MODELSCOPE_API_TOKEN, MODELSCOPE_CACHE.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from npu_parity.errors import Absent, ParityError, Unavailable
from npu_parity.sources.faults import in_one_line

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
class Entry:
    """A hub's entry for one file.

    Attributes:
        name: name within the repository.
        size: in bytes, if the hub states it.
        sha256: of the content, in hexadecimal; "" if the hub does not state it.
        blob: git's SHA-1 of the content, which Hugging Face states for small files; or "".
        commit: the commit of the file.
        ref: the revision to download.
    """

    name: str
    size: int | None
    sha256: str
    blob: str
    commit: str
    ref: str


@dataclass(frozen=True)
class Snapshot:
    """A folder of a client's cache with files of one revision of a repository."""

    revision: str
    names: frozenset[str]
    folder: Path

    @property
    def files(self) -> list[str]:
        """The names of its files within the repository."""
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return [path.relative_to(self.folder).as_posix() for path in found]


class HuggingFace:
    """Hugging Face, or a mirror of it."""

    branch, other_branch = "main", "master"
    setting = "HF_HUB_CACHE"

    def __init__(self) -> None:
        from huggingface_hub import HfApi, constants

        self.api = HfApi()
        self.endpoint = self.api.endpoint
        self.cache = Path(constants.HF_HUB_CACHE)

    def probe(self, timeout: float) -> int:
        """Return the HTTP status of the hub's first page."""
        from huggingface_hub import get_session

        session = get_session()
        return session.head(self.endpoint, timeout=timeout, follow_redirects=False).status_code

    def files(self, repo: str, revision: str | None) -> list[Entry]:
        """Return the files of a repository."""
        from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT

        info = self.api.model_info(
            repo, revision=revision, files_metadata=True, timeout=HF_HUB_ETAG_TIMEOUT
        )
        if info.sha is None:
            raise Unavailable("the hub names no commit")
        if info.id and info.id != repo:
            raise Absent(f"the repository has moved to {info.id}: write this name")
        return [
            Entry(
                name=file.rfilename,
                size=file.size,
                sha256=(file.lfs.sha256 if file.lfs else "").lower(),
                blob="" if file.lfs else (file.blob_id or "").lower(),
                commit=info.sha,
                ref=info.sha,
            )
            for file in info.siblings or ()
        ]

    def download(self, repo: str, entry: Entry, cache_dir: str | Path | None, fresh: bool) -> Path:
        """Return the path of a file, which is downloaded if the cache does not have it."""
        from huggingface_hub.utils.tqdm import tqdm

        class Limited(tqdm):
            """Stops a body that is longer than announced. The client compares at its end only."""

            received = 0

            def update(self, n: float | None = 1) -> Any:
                self.received += int(n or 0)
                # Some ways of transfer count bytes of their own too.
                if entry.size is not None and self.received > 2 * entry.size + 2**20:
                    raise ParityError(
                        f"the hub sends more than the {entry.size} bytes it announced"
                    )
                return super().update(n)

        return Path(
            self.api.hf_hub_download(
                repo,
                entry.name,
                revision=entry.ref,
                cache_dir=cache_dir,
                force_download=fresh,
                tqdm_class=Limited,
            )
        )

    def cached(self, repo: str, cache_dir: Path) -> Iterator[Snapshot]:
        """Yield what the cache has of a repository."""
        from huggingface_hub.file_download import repo_folder_name

        room = cache_dir / repo_folder_name(repo_id=repo, repo_type="model")
        refs: dict[str, set[str]] = {}
        for path in (room / "refs").rglob("*"):
            if path.is_file():
                name = path.relative_to(room / "refs").as_posix()
                refs.setdefault(path.read_text().strip(), set()).add(name)
        for folder in (room / "snapshots").glob("*"):
            names = {folder.name, *refs.get(folder.name, ())}
            yield Snapshot(folder.name, frozenset(names), folder)


class ModelScope:
    """ModelScope."""

    branch, other_branch = "master", "main"
    setting = "MODELSCOPE_CACHE"

    def __init__(self) -> None:
        for name, value in _MODELSCOPE_SETTINGS.items():
            os.environ.setdefault(name, value)
        # This part of the client does not import torch; `modelscope` does.
        from modelscope_hub import HubApi, get_default_config

        self.api = HubApi()
        config = get_default_config()
        assert config.endpoint is not None, "the client fills it in"
        self.endpoint, self.cache = config.endpoint, config.cache_dir

    def probe(self, timeout: float) -> int:
        """Return the HTTP status of the hub's first page."""
        import requests

        return requests.head(self.endpoint, timeout=timeout).status_code

    def files(self, repo: str, revision: str | None) -> list[Entry]:
        """Return the files of a repository; none if there is no such revision."""
        ref = revision or self.branch
        # HubApi.list_repo_files does not return the commit.
        found: list[dict[str, Any]] = self.api.legacy.list_repo_files(repo, "model", ref)
        return [
            Entry(
                name=file["Path"],
                size=file.get("Size") or None,
                sha256=(file.get("Sha256") or "").lower(),
                blob="",
                commit=file.get("Revision") or ref,
                ref=ref,
            )
            for file in found
            if file.get("Type") != "tree"
        ]

    def download(self, repo: str, entry: Entry, cache_dir: str | Path | None, fresh: bool) -> Path:
        """Return the path of a file, which is downloaded if the cache does not have it."""
        return self.api.download_file(
            repo,
            "model",
            entry.name,
            revision=entry.ref,
            cache_dir=cache_dir,
            force=fresh,
            file_size=entry.size,
        )

    def cached(self, repo: str, cache_dir: Path) -> Iterator[Snapshot]:
        """Yield what the cache has of a repository, also in the layout of older clients."""
        owner, name = repo.split("/")
        models = cache_dir / "models"
        for folder in (models / f"{owner}--{name}" / "snapshots").glob("*"):
            yield Snapshot(folder.name, frozenset({folder.name}), folder)
        older = name.replace(".", "___")
        for folder in (models / owner / older, cache_dir / "hub" / "models" / owner / older):
            if folder.is_dir():
                yield Snapshot("unknown", frozenset(), folder)


Client = HuggingFace | ModelScope

# The only list of hubs. A new hub needs a class, and a line here.
CLIENTS: dict[str, type[HuggingFace] | type[ModelScope]] = {
    "modelscope": ModelScope,
    "huggingface": HuggingFace,
}


def connect(hub: str) -> Client:
    """Return the client of a hub; ParityError if the name is unknown."""
    if hub not in CLIENTS:
        raise ParityError(f"hub {hub!r} is unknown: expected one of {', '.join(CLIENTS)}")
    with in_one_line(f"{hub}: its client cannot be used"):
        return CLIENTS[hub]()
