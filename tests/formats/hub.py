"""A stand-in of the hub's HTTP API, as far as an upload by huggingface_hub uses it; on loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_a_secret_that_may_write"
READ_TOKEN = "hf_a_secret_that_may_only_read"
LARGE = (".safetensors", ".onnx")


@dataclass
class Hub:
    """The state of the hub: repositories with whether they are private, the files of each, and all requests."""

    url: str = ""
    repos: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    damages: str = ""  # the end of the name of a file that it stores wrongly
    requests: list[str] = field(default_factory=list)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run a hub on a free port of loopback."""
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._handle(b"")

    def do_POST(self) -> None:
        self._handle(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def do_PUT(self) -> None:
        self.state.objects[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, {})

    def _handle(self, body: bytes) -> None:
        path = self.path.split("?")[0]
        self.state.requests.append(f"{self.command} {path}")
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in (TOKEN, READ_TOKEN):
            self._answer(401, {"error": "Invalid credentials in Authorization header"})
        elif path == "/api/whoami-v2":
            self._answer(200, {"type": "user", "name": "me", "orgs": [], "auth": {}})
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self._create(json.loads(body), token)
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        else:
            self._repository(path.removeprefix("/api/models/"), body)

    def _create(self, asked: dict[str, Any], token: str) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        if token == READ_TOKEN:
            self._answer(403, {"error": "You don't have the rights to create a model here"})
        elif repo in self.state.repos:
            self._answer(409, {"error": "You already created this model repo"})
        else:
            self.state.repos[repo] = asked["visibility"] == "private"
            self.state.files[repo] = {}
            self._answer(200, {"url": f"{self.state.url}/{repo}"})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for each in asked["objects"]:
            upload = {"href": f"{self.state.url}/objects/{each['oid']}", "header": {}}
            objects.append({**each, "actions": {"upload": upload}})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _repository(self, path: str, body: bytes) -> None:
        organization, name, *rest = path.split("/")
        repo, what = f"{organization}/{name}", "/".join(rest)
        if repo not in self.state.repos:
            self._answer(404, {"error": "Repository not found"}, "RepoNotFound")
        elif what.startswith("preupload"):
            names = [each["path"] for each in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": _mode(name), "shouldIgnore": False} for name in names]
            self._answer(200, {"files": modes})
        elif what.startswith("commit/"):
            self._commit(repo, body)
            self._answer(200, {"success": True, "commitOid": "a" * 40, "commitUrl": f"{self.state.url}/{repo}"})
        elif what.startswith("paths-info/"):
            self._answer(200, [_info(name, content) for name, content in self.state.files[repo].items()])
        else:
            self._answer(200, {"id": repo, "private": self.state.repos[repo], "sha": "a" * 40, "siblings": []})

    def _commit(self, repo: str, body: bytes) -> None:
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                content = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                content = self.state.objects[value["oid"]]
            else:
                continue
            if self.state.damages and value["path"].endswith(self.state.damages):
                content = content[:-1] + b"?"
            self.state.files[repo][value["path"]] = content

    def _answer(self, status: int, content: Any, code: str = "") -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _mode(name: str) -> str:
    return "lfs" if name.endswith(LARGE) else "regular"


def _info(name: str, content: bytes) -> dict[str, Any]:
    git = hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
    info = {"type": "file", "path": name, "size": len(content), "oid": git}
    if _mode(name) == "lfs":
        info["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 100}
    return info
