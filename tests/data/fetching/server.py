"""A local HTTP server that misbehaves on request, and archives to serve."""

from __future__ import annotations

import hashlib
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

from capt_core.data.registry import RemoteFile


class Hostile:
    """Files by path, how each is served, and what was asked for.

    Behaviours: `plain` knows no ranges; `ranges` does; `drops` breaks off each answer after a
    third of the file; `drops_once` only the first; `stuck` always breaks off at the same byte
    and knows no ranges; `longer` sends more than it should; `html` answers with a page; `busy`
    answers 503 twice; a number is an answer of that status; `to PATH` redirects; `wrong_range`
    answers another range than asked for; `unsized` gives no length; `insistent` sends the range
    asked for though the file has changed; `forgets` breaks off, and has no ranges the next time;
    `dead` never answers and `trickles` sends a byte now and then, both until `released`; `signed`
    wants the query ``key=SECRET``.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.behaviour: dict[str, str] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.headers: list[dict[str, str]] = []
        self.released = threading.Event()
        self.address = ""

    def put(self, name: str, content: bytes, behaviour: str = "ranges") -> str:
        self.files[name], self.behaviour[name] = content, behaviour
        return f"{self.address}/{name}"

    def ranges(self, name: str) -> list[str | None]:
        """The Range headers of the requests for a file."""
        return [asked for path, asked in self.asked if path == name]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hostile: Hostile

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        name = self.path.partition("?")[0].lstrip("/")
        content = self.hostile.files.get(name)
        if content is None or self.hostile.behaviour[name].isdecimal():
            self._answer(404, b"", {})
            return
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        self.send_response(200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.close_connection = True

    def do_GET(self) -> None:
        self.hostile.headers.append(dict(self.headers))
        path, _, query = self.path.partition("?")
        name = path.lstrip("/")
        asked = self.headers.get("Range")
        self.hostile.asked.append((name, asked))
        behaviour = self.hostile.behaviour.get(name, "404")
        content = self.hostile.files.get(name, b"")
        times = len(self.hostile.ranges(name))
        if behaviour.isdecimal() or (behaviour == "busy" and times <= 2):
            self._answer(503 if behaviour == "busy" else int(behaviour), b"no", {})
        elif behaviour == "signed" and query != "key=SECRET":
            self._answer(403, b"no", {})
        elif behaviour == "dead":
            self.hostile.released.wait(10)
            self.close_connection = True
        elif behaviour == "trickles":
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(OSError):
                for at in range(len(content)):
                    self.wfile.write(content[at : at + 1])
                    if self.hostile.released.wait(0.02):
                        return
        elif behaviour.startswith("to "):
            self._answer(302, b"", {"Location": behaviour.removeprefix("to ")})
        elif behaviour == "html":
            self._answer(200, b"<!DOCTYPE html><p>Sign in</p>", {"Content-Type": "text/html"})
        else:
            self._serve(content, behaviour, asked, times)

    def _serve(self, content: bytes, behaviour: str, asked: str | None, times: int) -> None:
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        start, status = 0, 200
        headers = {"ETag": tag, "Content-Length": str(len(content))}
        fits = self.headers.get("If-Range") in (None, tag) or behaviour == "insistent"
        if asked and behaviour == "forgets":
            self._answer(416, b"", {})
            return
        if asked and fits and behaviour not in ("plain", "stuck"):
            first_byte, _, last_byte = asked.removeprefix("bytes=").partition("-")
            start, status = int(first_byte), 206
            if last_byte:
                content = content[: int(last_byte) + 1]
            if start >= len(content):
                self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            first = 0 if behaviour == "wrong_range" else start
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            headers["Content-Length"] = str(len(content) - start)
        third = len(content) // 3
        ends = {"drops": start + third, "stuck": third, "forgets": third}
        if times == 1:
            ends["drops_once"] = third
        body = content[start : ends.get(behaviour, len(content))]
        if behaviour == "longer":
            headers["Content-Length"] = str(len(content) + 1000)
            body += b"x" * 1000
        if behaviour == "unsized":
            del headers["Content-Length"]
            headers["Connection"] = "close"
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True


@contextmanager
def serving() -> Iterator[Hostile]:
    """A server on the loopback address for the time of a test."""
    hostile = Hostile()
    handler = type("Handler", (_Handler,), {"hostile": hostile})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hostile.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hostile
    finally:
        hostile.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def remote(name: str, content: bytes, **changes: Any) -> RemoteFile:
    """What the registry would declare of a file with this content."""
    facts: dict[str, Any] = {
        "name": name,
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return RemoteFile.model_validate({**facts, **changes})


def tar_of(files: Mapping[str, bytes], mode: str = "w:gz", **links: str) -> bytes:
    """A tar archive of these files and symbolic links."""
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
        for name, target in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return stream.getvalue()


def zip_of(files: Mapping[str, bytes]) -> bytes:
    """A zip archive of these files."""
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()
