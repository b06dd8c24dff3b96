"""Downloading one file: resumed, verified, and in place only when it is complete."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from capt_core.data.registry import RemoteFile
from capt_core.errors import CaptError, reason

# Google Drive's address for files of any size, without its page about virus scans.
_DRIVE = "https://drive.usercontent.google.com/download?id={id}&export=download&confirm=t"
_CHUNK = 1 << 20
# Bytes kept free in addition to what a download or archive needs.
RESERVE = 256 * 1024**2
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Patience:
    """How often a server is asked again, and how long it is waited for.

    Attributes:
        attempts: give up after so many in a row that bring nothing new.
        pause: seconds before the second attempt; doubled after each.
        timeout: seconds without any byte before an attempt is given up.
    """

    attempts: int = 5
    pause: float = 1.0
    timeout: float = 60.0


def download(
    file: RemoteFile,
    url: str,
    target: Path,
    patience: Patience | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Download a file to `target`, resuming where an earlier attempt stopped.

    What has arrived is kept in ``<target>.part`` until its size and checksum are right. It is
    discarded if the server has another version by now. The caller keeps other processes away,
    see `exclusive`.

    Args:
        file: expected size and checksums.
        url: http(s) address, or ``drive:ID``.
        target: where the file goes.
        patience: how often to try again.
        advance: called with the number of bytes received; negative when they are discarded.

    Raises:
        CaptError: the server refuses or cannot be reached, the content is not the expected one,
            something is in the way, or the disk is full.
    """
    path = target.with_name(f"{target.name}.part")
    for place in (target, path):
        with reading(place):
            if place.exists() and not place.is_file():
                raise CaptError(
                    f"{place}: a file belongs here, and something else is; move it away"
                )
    with writing(path), path.open("ab") as stream:
        part = _Part(file, web_address(url), path, stream, patience or Patience(), advance)
        resumed = part.size > 0
        advance(part.size)
        part.receive()
        problem = content_problem(file, path)
        if problem and resumed:
            # What an earlier run left may be of another version.
            part.restart(None)
            part.receive()
            problem = content_problem(file, path)
        if problem:
            part.discard()
            raise CaptError(
                f"{_public(url)}: {problem}; run the same command again, or get {file.name} "
                f"elsewhere and put it at {target}"
            )
        part.finish(target)


def content_problem(file: RemoteFile, path: Path) -> str | None:
    """How a file differs from what is expected, or None."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        page = stream.read(512).lstrip().lower().startswith(_PAGES)
    instead = " (a web page instead of the file)" if page else ""
    if file.size is not None and size != file.size:
        return f"{size} bytes, expected {file.size}{instead}"
    for name, expected in (("sha256", file.sha256), ("md5", file.md5)):
        if expected is not None:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, name).hexdigest()
            wrong = f"its {name} is {found}, expected {expected}{instead}"
            return None if found == expected else wrong
    if not size and file.size is None:
        return "it is empty"
    return "a web page instead of the file" if page else None


_PAGES = (b"<!doctype html", b"<html")


def check_room(folder: Path, needed: int, what: str) -> None:
    """Refuse to start what the disk has no room for.

    Raises:
        CaptError: less than `needed` bytes and a reserve are free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed + RESERVE:
        raise CaptError(
            f"{folder}: {what} needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; free "
            "some space or choose another --root"
        )


def web_address(url: str) -> str:
    """The http(s) address behind ``drive:ID``; other addresses as they are.

    Raises:
        CaptError: neither http(s) nor Google Drive.
    """
    if url.startswith("drive:"):
        return _DRIVE.format(id=url.removeprefix("drive:"))
    if not url.lower().startswith(("http://", "https://")):
        raise CaptError(f"{_public(url)}: expected an address that begins with http:// or https://")
    return url


class _TemporaryError(Exception):
    """A failure that another attempt may not meet."""


@dataclass
class _Part:
    """A file being received, and a note on the version that the server said it sends."""

    file: RemoteFile
    url: str
    path: Path
    stream: BinaryIO
    patience: Patience
    advance: Callable[[int], None]

    @property
    def size(self) -> int:
        return os.fstat(self.stream.fileno()).st_size

    @property
    def version(self) -> str | None:
        """ETag or date of what has arrived, if that is known."""
        try:
            version = json.loads(self._note.read_text(encoding="utf-8")).get("version")
        except (OSError, ValueError, AttributeError, RecursionError):
            return None
        return version if isinstance(version, str) else None

    @property
    def _note(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def restart(self, version: str | None) -> None:
        self.advance(-self.size)
        self.stream.truncate(0)
        self._note.write_text(json.dumps({"version": version}), encoding="utf-8")

    def discard(self) -> None:
        self.stream.close()  # Windows deletes and renames no open file
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        os.fsync(self.stream.fileno())
        self.stream.close()
        self.path.replace(target)
        self._note.unlink(missing_ok=True)

    def receive(self) -> None:
        """Attempt until the file is complete; attempts that bring something are not counted."""
        failures, furthest = 0, self.size
        while True:
            try:
                self._attempt()
                return
            except _TemporaryError as error:
                # Bytes that come again after a part was discarded are nothing new: a server that
                # breaks off and forgets in turn would be asked for ever.
                failures = 1 if self.size > furthest else failures + 1
                furthest = max(furthest, self.size)
                if failures >= self.patience.attempts:
                    raise CaptError(
                        f"{_public(self.url)}: {error} ({failures} attempts); run the same command "
                        f"again later, it goes on after {self.size} bytes"
                    ) from error
            time.sleep(self.patience.pause * 2 ** (failures - 1))

    def _attempt(self) -> None:
        """Ask for what is missing and take what comes.

        Raises:
            _TemporaryError: the connection broke, or the server is busy.
            CaptError: the server will not give this file.
        """
        expected = self.file.size
        if expected is not None and self.size == expected:
            return
        if expected is not None and self.size > expected:
            self.restart(None)
        try:
            answer = self._open()
        except urllib.error.HTTPError as error:
            # urllib's own reason about redirections takes three lines.
            why = str(error.reason).partition("\n")[0].rstrip(".")[:100]
            if error.code == 416 and self.size:
                # Nothing after what has arrived: it is complete, or of another version.
                if _total(error.headers) == self.size:
                    return
                self.restart(None)
                raise _TemporaryError(
                    "the server no longer has the version that was begun"
                ) from error
            if error.code in _TEMPORARY:
                raise _TemporaryError(f"the server answers {error.code} {why}") from error
            self._refuse(f"the server answers {error.code} {why}", error)
        except (ValueError, http.client.InvalidURL) as error:
            # Of the address, or of one that the server redirects to.
            self._refuse(f"not a usable address ({reason(error)})", error)
        except (http.client.HTTPException, OSError) as error:
            raise _TemporaryError(f"no connection ({_reason(error)})") from error
        with answer:
            self._take(answer, self._prepare(answer))

    def _open(self) -> Any:
        headers = {"User-Agent": "capt-stage", "Accept-Encoding": "identity"}
        if self.size:
            headers["Range"] = f"bytes={self.size}-"
            version = self.version
            if version is not None and not version.startswith("W/"):
                headers["If-Range"] = version
        request = urllib.request.Request(self.url, headers=headers)
        return _OPENER.open(request, timeout=self.patience.timeout)

    def _prepare(self, answer: Any) -> int | None:
        """Check that an answer fits what is expected and what has arrived; the full size."""
        headers, expected = answer.headers, self.file.size
        version = headers.get("ETag") or headers.get("Last-Modified")
        if answer.status == 206 and _first_byte(headers) != self.size:
            self.restart(None)
            raise _TemporaryError("the server sends another range than the one asked for")
        if answer.status == 206 and self.version and version and version != self.version:
            # Not every server heeds If-Range: the rest of another version must not be appended.
            self.restart(None)
            raise _TemporaryError("the server has another version than the one that was begun")
        length = _number(headers.get("Content-Length", ""))
        total = _total(headers) if answer.status == 206 else length
        if expected is not None and total is not None and total != expected:
            self._refuse(f"the server has {total} bytes, expected {expected}: another file")
        if answer.status != 206:
            self.restart(version)
        wanted = total if expected is None else expected
        if wanted is not None:
            check_room(self.path.parent, wanted - self.size, self.file.name)
        return wanted

    def _take(self, answer: Any, limit: int | None) -> None:
        while data := _read(answer):
            if limit is None:
                check_room(self.path.parent, len(data), self.file.name)
            elif self.size + len(data) > limit:
                self.discard()
                self._refuse(f"the server sends more than {limit} bytes")
            self.stream.seek(0, os.SEEK_END)
            self.stream.write(data)
            self.stream.flush()
            self.advance(len(data))
        if limit is not None and self.size < limit:
            raise _TemporaryError(f"the connection ended after {self.size} of {limit} bytes")

    def _refuse(self, what: str, cause: BaseException | None = None) -> NoReturn:
        raise CaptError(
            f"{_public(self.url)}: {what}; get the file elsewhere and put it in place, or name "
            "another source with --mirror"
        ) from cause


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Let one process at a time fetch into a folder.

    Raises:
        CaptError: another process is fetching into it, or it cannot be written to.
    """
    lock = FileLock(folder / ".fetch.lock", timeout=0)
    with writing(folder):
        try:
            lock.acquire()
        except Timeout as error:
            raise CaptError(
                f"{folder}: another fetch is writing to it; wait for it to end, then run the same "
                "command again"
            ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of the file system into a line for the user."""
    try:
        yield
    except OSError as error:
        raise CaptError(
            f"{path}: cannot write ({error.strerror or error}); check permissions and free space, "
            "then run the same command again"
        ) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors of the file system into a line for the user."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise CaptError(
            f"{path}: cannot be read ({reason(error)}); check its name and permissions, then run "
            "the same command again"
        ) from error


def _read(answer: Any) -> bytes:
    try:
        data: bytes = answer.read1(_CHUNK)
    except (http.client.HTTPException, OSError) as error:
        raise _TemporaryError(f"the connection broke ({_reason(error)})") from error
    return data


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirections to http(s) alone, and none from https to http."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        source, target = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if target not in ("http", "https") or (source == "https" and target == "http"):
            raise CaptError(
                f"{_public(req.full_url)}: redirects to {_public(newurl)}; not followed"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_WebOnly)


def _first_byte(headers: Any) -> int | None:
    """Where the range of an answer starts: ``bytes 100-199/200``."""
    return _number(str(headers.get("Content-Range", "")).removeprefix("bytes ").partition("-")[0])


def _total(headers: Any) -> int | None:
    return _number(str(headers.get("Content-Range", "")).rpartition("/")[2])


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 19 else None


def _public(url: str) -> str:
    """An address without user name, password and query, which may hold secrets."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an address that cannot be read"
    text = f"{parts.scheme}://{host}{port}{parts.path}" if parts.netloc else url
    return f"{text[:150]}{'?...' if parts.query and parts.netloc else ''}"


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", None)
    return reason(inner if isinstance(inner, BaseException) else error)
