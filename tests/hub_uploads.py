"""The stand-in of hub_server.py also takes uploads, as both hubs do.

Hugging Face's newer way for large files (Xet) is not imitated. HF_HUB_DISABLE_XET=1 chooses the
older one.

    with HubServer() as hub, uploads(hub) as taken:
        ...
    taken["owner/name"]["config.yaml"]  # its bytes
"""

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

from hub_server import HubServer, Request, _Handler

LARGE = 2**16  # bytes from which a file goes by LFS
TOKEN = "hf_taken"


class _Uploads(_Handler):
    """Create a repository, ask how to send each file, send the large ones, commit."""

    def do_POST(self) -> None:
        self.hub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(Request(self.command, self.headers["Host"], path, None))
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.refuse(401, "Invalid username or password.")
        if path == "/api/v1/models":
            found = json.loads(body)
            self.hub.taken[f"{found['Path']}/{found['Name']}"] = {}
            return self.json({"Code": 200, "Success": True, "Data": found})
        if path == "/api/repos/create":
            found = json.loads(body)
            repo = "/".join(filter(None, [found.get("organization"), found["name"]]))
            self.hub.taken.setdefault(repo, {})
            return self.json({"url": f"{self.hub.url}/{repo}"})
        if path == "/api/validate-yaml":  # the client sends the card before everything else
            self.hub.cards.append(json.loads(body)["content"])
            return self.json({"errors": [], "warnings": []})
        for pattern, route in (
            (r"/api/models/(.+)/preupload/main", self.ways),
            (r"/(.+)\.git/info/lfs/objects/batch", self.places),
            (r"/api/models/(.+)/commit/main", self.commit),
            (r"/api/v1/repos/models/(.+)/info/lfs/objects/batch", self.places),
            (r"/api/v1/repos/models/(.+)/commit/master", self.act),
        ):
            if match := re.fullmatch(pattern, path):
                return route(match[1], body)
        return self.refuse(404, "no such page")

    def do_PUT(self) -> None:
        self.hub = self.server.hub
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.blobs[self.path.rsplit("/", 1)[-1]] = content
        self.reply(200, b"")

    def ways(self, repo: str, body: bytes) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["size"] >= LARGE else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self.json({"files": files})

    def places(self, repo: str, body: bytes) -> None:
        objects = [
            {**found, "actions": {"upload": {"href": f"{self.hub.url}/put/{found['oid']}"}}}
            for found in json.loads(body)["objects"]
        ]
        self.json({"transfer": "basic", "objects": objects})

    def commit(self, repo: str, body: bytes) -> None:
        tree = self.hub.taken[repo]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                tree[value["path"]] = self.hub.blobs[value["oid"]]
        self.json(
            {"success": True, "commitOid": "1" * 40, "commitUrl": f"{self.hub.url}/{repo}/commit/1"}
        )

    def act(self, repo: str, body: bytes) -> None:
        """Commit what ModelScope's client sends."""
        for action in json.loads(body)["actions"]:
            inline = action["type"] == "normal"
            content = (
                base64.b64decode(action["content"]) if inline else self.hub.blobs[action["sha256"]]
            )
            self.hub.taken[repo][action["path"]] = content
        self.json({"Code": 200, "Success": True, "Data": {"oid": "1" * 40}})


@contextmanager
def uploads(hub: HubServer) -> Iterator[dict[str, dict[str, bytes]]]:
    """Let a running stand-in take uploads; yield the files of each repository."""
    hub.taken, hub.cards = {}, []
    hub._http.RequestHandlerClass = _Uploads
    yield hub.taken
