"""A small imitation of the Hub: it takes commits, and serves what it has."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """Its files by path, what it was asked, and how it answers.

    Attributes:
        files: of the one repository.
        asked: method, path and authorisation of every request.
        status: of every answer, where it is to fail.
        size: what it says of a file's length, where that is not the truth.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.status: int | None = None
        self.size: int | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        sent = {"Content-Length": str(len(body)), "Content-Type": "application/json"}
        for name, value in (sent | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _noted(self) -> bool:
        given = self.headers.get("Authorization", "")
        self.server.asked.append((self.command, self.path, given))
        if self.server.status is not None:
            # A careless service: it repeats the token.
            self._answer(self.server.status, json.dumps({"error": f"no: {given}"}).encode())
            return False
        return True

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._noted():
            return
        found: dict[str, Any] = {}
        if self.path.endswith("/repos/create"):
            found = {"url": f"{self.server.address}/me/mine"}
        elif "/preupload/" in self.path:
            given = json.loads(content)["files"]
            plain = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            found = {"files": [{"path": file["path"], **plain} for file in given]}
        elif "/commit/" in self.path:
            for line in content.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
            address = f"{self.server.address}/me/mine/commit/{COMMIT}"
            found = {"commitUrl": address, "commitOid": COMMIT, "success": True}
        self._answer(200, json.dumps(found).encode())

    def do_GET(self) -> None:
        if not self._noted():
            return
        name = self.path.partition("?")[0].rpartition("/")[2]
        if "/resolve/" not in self.path or name not in self.server.files:
            self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        body = self.server.files[name]
        told = {"X-Repo-Commit": COMMIT, "ETag": '"0123456789abcdef"'}
        if self.server.size is not None:
            told["X-Linked-Size"] = str(self.server.size)
        self._answer(200, body, told)

    def do_HEAD(self) -> None:
        self.do_GET()
