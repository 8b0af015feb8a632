"""A stand-in for ModelScope and Hugging Face that their real clients download from.

    with HubServer() as hub:
        commit = hub.add("owner/name", "model.safetensors", b"...")
        subprocess.run(..., env=os.environ | hub.env())

It answers as the hubs were observed to: contents come from another host by a redirect,
ModelScope answers 200 with no files for a revision that does not exist, and so on.
"""

import gzip
import hashlib
import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

OF_CONTENT = ("corrupt", "truncate", "drip", "long", "endless", "gzip")  # faults of contents only
NOWHERE = "http://127.0.0.1:9"  # nothing listens there


def hub_env(url: str, folder: Path, *hubs: str) -> dict[str, str]:
    """Environment that points the clients of these hubs (default: both) at an address.

    Caches and credentials lie in `folder`; timeouts are short, in seconds.
    """
    settings = {
        "huggingface": {
            "HF_ENDPOINT": url,
            "HF_HOME": f"{folder}/huggingface",
            "HF_HUB_CACHE": f"{folder}/huggingface/hub",
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": "",
            "HF_HUB_ETAG_TIMEOUT": "2",
            "HF_HUB_DOWNLOAD_TIMEOUT": "2",
        },
        "modelscope": {
            "MODELSCOPE_ENDPOINT": url,
            "MODELSCOPE_HOME": f"{folder}/modelscope",
            "MODELSCOPE_CACHE": f"{folder}/modelscope/cache",
            "MODELSCOPE_API_TOKEN": "",
            "MODELSCOPE_REPO_TREE_PAGE_TIMEOUT_SECONDS": "2",
            "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1",
            "MODELSCOPE_DOWNLOAD_TIMEOUT": "2",
            "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "1",
        },
    }
    env = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    for hub in hubs or settings:
        env |= settings[hub]
    return env


def process(env: dict[str, str]) -> ProcessPoolExecutor:
    """A fresh process with this environment, since the clients read it when imported."""
    return ProcessPoolExecutor(1, get_context("forkserver"), _update_environment, (env,))


def _update_environment(env: dict[str, str]) -> None:
    os.environ.update(env)


@dataclass(frozen=True)
class Request:
    """One request as it arrived; `range` is the header of that name."""

    method: str
    host: str
    path: str
    range: str | None


@dataclass(frozen=True)
class _File:
    sha256: str
    announced: bool
    lfs: bool
    commit: str


class HubServer:
    """Both hubs on one local port, from `with` to its end.

    Attributes:
        url: address of the server.
        folder: where `env()` puts caches; temporary unless given.
        requests: every request so far.
        moved: paths that are redirected, and where.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._temporary = None if folder else tempfile.TemporaryDirectory()
        self.folder = folder or Path(self._temporary.name)
        self.requests: list[Request] = []
        self.blobs: dict[str, bytes] = {}
        self.moved: dict[str, str] = {}
        self._refs: dict[tuple[str, str | None], str] = {}
        self._trees: dict[tuple[str, str], dict[str, _File]] = {}
        self._fault: tuple[str | int | None, int | None, bool] = (None, None, False)
        self._lock = threading.Lock()
        self.fault_over = threading.Event()

    def __enter__(self) -> "HubServer":
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.hub = self
        self.port = self._http.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.fail(None)
        self._http.shutdown()
        self._http.server_close()
        if self._temporary:
            self._temporary.cleanup()

    def env(self, *hubs: str) -> dict[str, str]:
        """Environment that points the clients of these hubs (default: both) here."""
        return hub_env(self.url, self.folder, *hubs)

    def add(
        self,
        repo: str,
        file: str,
        content: bytes,
        revision: str | None = None,
        announced: bool = True,
        lfs: bool = True,
    ) -> str:
        """Commit a file to a branch (default: the hub's default branch) and return the commit.

        Earlier commits stay. With `announced=False` the hub states no hash for the file. With
        `lfs=False` it is a small file: Hugging Face states git's hash of it.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        self.blobs[sha256] = content
        parent = self._refs.get((repo, revision), "")
        commit = hashlib.sha1(f"{parent}{repo}{revision}{file}{sha256}".encode()).hexdigest()
        tree = self._trees.get((repo, parent), {})
        self._trees[repo, commit] = tree | {file: _File(sha256, announced, lfs, commit)}
        self._refs[repo, revision] = commit
        return commit

    def fill(self, repo: str, names: Iterable[str]) -> None:
        """Add many names for the last file of the default branch, in one commit."""
        tree = self._trees[repo, self._refs[repo, None]]
        tree |= dict.fromkeys(names, next(reversed(tree.values())))

    def fail(
        self, fault: str | int | None, times: int | None = None, content_only: bool = False
    ) -> None:
        """Misbehave from now on, or for the next `times` requests; `fail(None)` ends it.

        An HTTP status is answered as it is. `hang` never answers, `slow` never ends its header,
        `drop` closes the connection instead of answering; with `content_only` these spare the
        hubs' API. `loop` redirects for ever, `portal` answers with a login page, and `later`
        answers 429 with a Retry-After of an hour. The next ones concern contents only: `drip`
        sends the file byte by byte, `long` and `endless` send more than announced, `gzip` sends
        it compressed, `corrupt` sends other bytes than announced, and `truncate` closes the
        connection in the middle. The next call of `fail` drops the connections that still hang.
        """
        self.fault_over.set()
        self.fault_over = threading.Event()
        self._fault = (fault, times, content_only or fault in OF_CONTENT)

    @property
    def downloads(self) -> list[Request]:
        """The requests for the contents of files."""
        return [r for r in self.requests if r.path.startswith("/cdn/")]

    def take_fault(self, content: bool) -> str | int | None:
        with self._lock:
            fault, times, content_only = self._fault
            if fault is None or times == 0 or (content_only and not content):
                return None
            if times:
                self._fault = (fault, times - 1, content_only)
            return fault

    def tree(self, repo: str, revision: str | None) -> tuple[str | None, dict[str, _File]]:
        """Commit and files at a revision; (None, {}) if there is no such revision."""
        commit = self._refs.get((repo, revision), revision)
        tree = self._trees.get((repo, commit))
        return (None, {}) if tree is None else (commit, tree)

    def has(self, repo: str) -> bool:
        return any(repo == known for known, _ in self._refs)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: HubServer

    def handle_error(self, *args: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that went away
            super().handle_error(*args)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.hub = self.server.hub
        url = urlsplit(self.path)  # absolute when this server is used as a proxy
        self.query = dict(parse_qsl(url.query))
        self.hub.requests.append(
            Request(self.command, self.headers["Host"], url.path, self.headers["Range"])
        )
        fault = self.hub.take_fault(url.path.startswith("/cdn/"))
        if isinstance(fault, int):
            return self.refuse(fault, "the stand-in\nwas told to")
        over = self.hub.fault_over
        if fault == "hang":
            over.wait()
        if fault == "slow":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not over.wait(0.1):
                self.wfile.write(b".")
        if fault in ("hang", "slow", "drop"):
            return self.drop()
        if fault == "loop":
            return self.reply(302, b"", {"Location": self.path})
        if fault == "portal":
            return self.reply(200, b"<!DOCTYPE html><html>Log in</html>")
        if fault == "later":
            return self.reply(429, b"{}", {"Retry-After": "3600"})
        if url.path in self.hub.moved:
            return self.reply(307, b"", {"Location": self.hub.moved[url.path]})
        routes = {
            r"/": self.home,
            r"/cdn/(\w+)": lambda sha256: self.content(self.hub.blobs[sha256], fault),
            r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?": self.huggingface_info,
            r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)": self.huggingface_file,
            r"/api/v1/models/([^/]+/[^/]+)/repo/files": self.modelscope_files,
            r"/api/v1/models/([^/]+/[^/]+)/repo": self.modelscope_file,
        }
        for pattern, route in routes.items():
            if match := re.fullmatch(pattern, url.path):
                return route(*(group and unquote(group) for group in match.groups()))
        return self.refuse(404, "no such page")

    do_HEAD = do_GET

    def home(self) -> None:
        self.reply(200, b"a hub")

    # Hugging Face

    def huggingface_info(self, repo: str, revision: str | None) -> None:
        commit, tree = self.hub.tree(repo, None if revision == "main" else revision)
        if not self.hub.has(repo):
            return self.refuse(404, "Repository not found", "RepoNotFound")
        if commit is None:
            return self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        siblings = [{"rfilename": name} for name in tree]
        if self.query.get("blobs"):
            for sibling, file in zip(siblings, tree.values(), strict=True):
                size = len(self.hub.blobs[file.sha256])
                blob = b"blob %d\0" % size + self.hub.blobs[file.sha256]
                sibling |= {"size": size, "blobId": hashlib.sha1(blob).hexdigest()}
                if not file.announced:
                    del sibling["blobId"]
                elif file.lfs:
                    sibling["lfs"] = {"sha256": file.sha256, "size": size, "pointerSize": 134}
        return self.json({"id": repo, "sha": commit, "private": False, "siblings": siblings})

    def huggingface_file(self, repo: str, revision: str, name: str) -> None:
        commit, tree = self.hub.tree(repo, None if revision == "main" else revision)
        if name not in tree:
            return self.refuse(404, "Entry not found", "EntryNotFound")
        sha256 = tree[name].sha256
        return self.redirect(
            sha256,
            {
                "X-Repo-Commit": commit,
                "X-Linked-Etag": f'"{sha256}"',
                "X-Linked-Size": str(len(self.hub.blobs[sha256])),
            },
        )

    # ModelScope

    def modelscope_files(self, repo: str) -> None:
        if not self.hub.has(repo):
            return self.refuse(404, "record not found")
        revision = self.query["Revision"]
        commit, tree = self.hub.tree(repo, None if revision == "master" else revision)
        files = [
            {
                "Path": name,
                "Name": name.rsplit("/", 1)[-1],
                "Type": "blob",
                "Size": len(self.hub.blobs[file.sha256]),
                "Sha256": file.sha256 if file.announced else "",
                "Revision": file.commit,
            }
            for name, file in tree.items()
        ]
        folders = {name.rsplit("/", 1)[0] for name in tree if "/" in name}
        files += [{"Path": f, "Name": f, "Type": "tree", "Size": 0} for f in folders]
        return self.json(
            {"Code": 200, "Success": True, "Data": {"Files": files if commit else None}}
        )

    def modelscope_file(self, repo: str) -> None:
        revision = self.query["Revision"]
        _, tree = self.hub.tree(repo, None if revision == "master" else revision)
        if self.query["FilePath"] not in tree:
            return self.refuse(404, "file not found")
        return self.redirect(tree[self.query["FilePath"]].sha256)

    # Answers

    def content(self, blob: bytes, fault: str | None) -> None:
        if fault == "corrupt":
            blob = bytes([blob[0] ^ 1]) + blob[1:]
        start = int(re.match(r"bytes=(\d+)-", self.headers["Range"] or "bytes=0-")[1])
        if start >= len(blob):
            return self.reply(416, b"")
        if fault == "gzip":
            packed = gzip.compress(blob)
            self.head(200, len(packed), {"Content-Encoding": "gzip"})
            self.wfile.write(packed)
            return None
        if fault == "endless":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while not self.hub.fault_over.is_set():
                self.wfile.write(b"100000\r\n" + bytes(2**20) + b"\r\n")
            return self.drop()
        if fault == "long":
            blob += blob
        headers = {"Content-Range": f"bytes {start}-{len(blob) - 1}/{len(blob)}"} if start else {}
        self.head(206 if start else 200, len(blob) - start, headers)
        if fault == "drip":
            for byte in blob[start:]:
                if self.hub.fault_over.wait(0.1):
                    break
                self.wfile.write(bytes([byte]))
            return self.drop()
        if fault == "truncate":
            self.wfile.write(blob[start : len(blob) // 2])
            return self.drop()
        self.wfile.write(blob[start:])

    def redirect(self, sha256: str, headers: dict[str, str] | None = None) -> None:
        # `localhost` is another host than 127.0.0.1, as a content network is.
        location = f"http://localhost:{self.hub.port}/cdn/{sha256}"
        self.reply(302, b"", {"Location": location} | (headers or {}))

    def refuse(self, status: int, text: str, code: str = "") -> None:
        """Answer an error in both hubs' terms."""
        body = {"Code": status, "Message": text, "Success": False, "error": text}
        self.json(body, status, {"X-Error-Code": code, "X-Error-Message": text} if code else {})

    def json(self, body: dict, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.reply(status, json.dumps(body).encode(), headers)

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.head(status, len(body), headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def head(self, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(length)} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()

    def drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(2)
