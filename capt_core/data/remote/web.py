"""Reading over http(s): bounded, with ranges, and led nowhere that was not asked for.

fsspec's own file system for http needs a further library and follows every redirection; the
standard library's client does.
"""

from __future__ import annotations

import email.utils
import http.client
import ipaddress
import netrc
import os
import re
import socket
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlsplit

from capt_core.addresses import private, public
from capt_core.data.remote.patience import Patience, RemoteError, TemporaryError, patiently, told
from capt_core.data.remote.stat import Stat

_CHUNK = 1 << 18
_SMALL = 1 << 25
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
_MISSING = frozenset({404, 410})


class NoRangesError(RemoteError):
    """The server sends a file as a whole only."""


def read(address: str, start: int, stop: int | None, patience: Patience | None = None) -> bytes:
    """Bytes of a file from `start` up to `stop`, or fewer if it is shorter.

    Args:
        address: of the file; one whose query is remembered is asked for with it.
        start: first byte.
        stop: one behind the last; None: to the end.
        patience: how often to try again.

    Raises:
        NoRangesError: a part was asked for, and the server has none.
        RemoteError: it cannot be read.
        FileNotFoundError, PermissionError: as the server says.
    """
    # A bound that is far off is kept while reading: some servers refuse ranges of empty files.
    part = start > 0 or (stop is not None and stop <= _SMALL)
    last = "" if stop is None else str(stop - 1)
    headers = {"Range": f"bytes={start}-{last}"} if part else {}

    def attempt(patience: Patience) -> bytes:
        with _opened(address, "GET", headers, patience) as answer:
            if start > 0 and answer.status != 206:
                raise NoRangesError("the server sends no parts of files")
            return b"".join(_parts(answer, None if stop is None else stop - start, patience))

    return patiently(attempt, patience)


def copy(address: str, stream: IO[bytes], most: int, patience: Patience | None = None) -> None:
    """Write a whole file to a stream.

    Raises:
        RemoteError: it cannot be read, or has more than `most` bytes.
        FileNotFoundError, PermissionError: as the server says.
    """

    def attempt(patience: Patience) -> None:
        stream.seek(0)
        stream.truncate()
        with _opened(address, "GET", {}, patience) as answer:
            size = 0
            for part in _parts(answer, None, patience):
                size += len(part)
                if size > most:
                    raise RemoteError(f"more than {most / 1e9:.1f} GB")
                stream.write(part)
        stream.flush()

    patiently(attempt, patience)


def stat(address: str, patience: Patience | None = None) -> Stat:
    """Size, version and time of a file, as far as the server tells.

    Raises:
        RemoteError, FileNotFoundError, PermissionError: it cannot be looked up.
    """

    def attempt(patience: Patience) -> Stat:
        with _opened(address, "HEAD", {}, patience) as answer:
            headers = answer.headers
        size = headers.get("Content-Length", "")
        modified = email.utils.parsedate_tz(headers.get("Last-Modified", ""))
        when = None if modified is None else float(email.utils.mktime_tz(modified))
        version = headers.get("ETag") or headers.get("Last-Modified") or ""
        return Stat(int(size) if size.isdecimal() else None, version[:200], when)

    return patiently(attempt, patience)


def _opened(address: str, method: str, headers: Mapping[str, str], patience: Patience) -> Any:
    whole = private(address)
    request = urllib.request.Request(
        _quoted(whole),
        method=method,
        headers={"User-Agent": "capt-stage", "Accept-Encoding": "identity", **headers},
    )
    for name, value in _authorization(whole).items():
        # Not sent to where a redirection leads.
        request.add_unredirected_header(name, value)
    try:
        return _OPENER.open(request, timeout=patience.timeout)
    except urllib.error.HTTPError as error:
        error.close()
        why = f"the server answers {error.code}"
        if error.code in _MISSING:
            raise FileNotFoundError(why) from None
        if error.code in (401, 403):
            raise PermissionError(f"{why}: no permission") from None
        if 300 <= error.code < 400:
            raise RemoteError(f"{why}, and where it redirects to is not followed") from None
        if error.code == 416:  # nothing so far behind: an empty file, or one that became shorter
            raise RemoteError(f"{why}: it is shorter than expected") from None
        raise (TemporaryError if error.code in _TEMPORARY else RemoteError)(why) from None
    except RemoteError:
        raise
    except (ValueError, http.client.InvalidURL):
        raise RemoteError("not a usable address") from None
    except (http.client.HTTPException, OSError) as error:
        raise TemporaryError(f"no answer ({told(error)})") from None


def _quoted(address: str) -> str:
    """An address with only such characters as a request may hold."""
    return quote(address, safe="%/:?#[]@!$&'()*+,;=~-._")


def _authorization(address: str) -> dict[str, str]:
    """A user name and password of the address itself, or of the host's entry in netrc."""
    parts = urlsplit(address)
    if parts.username is not None:
        return _basic(parts.username, parts.password or "")
    place = os.environ.get("NETRC") or str(Path.home() / ".netrc")
    try:
        found = netrc.netrc(place).authenticators(parts.hostname or "")
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return {}
    return {} if found is None else _basic(found[0], found[2] or "")


def _basic(user: str, password: str) -> dict[str, str]:
    word = b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {word}"}


def _parts(answer: Any, most: int | None, patience: Patience) -> Iterator[bytes]:
    """The body of an answer, or its first `most` bytes, as it arrives."""
    declared = answer.headers.get("Content-Length", "")
    wanted = int(declared) if declared.isdecimal() and len(declared) < 16 else None
    wanted = most if wanted is None else wanted if most is None else min(wanted, most)
    known, started = declared != "", time.monotonic()
    size = 0
    while wanted is None or size < wanted:
        try:
            left = _CHUNK if wanted is None else min(_CHUNK, wanted - size)
            part = answer.read1(left)
        except (http.client.HTTPException, OSError) as error:
            raise TemporaryError(f"the connection broke ({told(error)})") from None
        if not part:
            if known and wanted is not None:
                raise TemporaryError(f"the connection ended after {size} of {wanted} bytes")
            break
        yield part
        size += len(part)
        seconds = time.monotonic() - started
        if seconds > patience.timeout and size < patience.slowest * seconds:
            raise TemporaryError(f"the server sent {size} bytes in {seconds:.0f} s")


class _Followed(urllib.request.HTTPRedirectHandler):
    """Follows redirections to http(s) alone, none from https to http, none into a private net."""

    max_redirections = 5

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        target = public(newurl)[:150]
        if after.scheme not in ("http", "https"):
            raise RemoteError(f"it redirects to {target}, which is no http address; not followed")
        if before.scheme == "https" and after.scheme == "http":
            raise RemoteError(f"it redirects from https to {target}; not followed")
        if (before.hostname, before.port) != (after.hostname, after.port) and is_private(
            after.hostname or ""
        ):
            raise RemoteError(f"it redirects into a private net ({target}); not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@lru_cache(maxsize=4096)
def is_private(host: str) -> bool:
    """Whether a host, by its address or by any that its name has, is not of the public internet."""
    try:
        found = {str(each[4][0]) for each in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False  # connecting will fail, or a proxy knows the name
    return any(not _is_global(each) for each in found)


def _is_global(text: str) -> bool:
    number = ipaddress.ip_address(re.sub(r"%.*", "", text))
    inner = getattr(number, "ipv4_mapped", None)
    return bool((inner or number).is_global)


_OPENER = urllib.request.build_opener(_Followed)
