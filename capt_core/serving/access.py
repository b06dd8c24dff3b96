"""Who may ask: the Host and Origin of a request, and what every answer carries.

A service on the loopback address is within reach of every web page that its user visits. A page of
another site that sends a form is refused by its Origin; one whose name is made to resolve to
127.0.0.1 (DNS rebinding) by its Host.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
import socket
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from capt_core.errors import cut, reason

HEADER_BYTES = 2**15
"""Of the address and headers of a request: several times what browsers send."""
LARGE_HEADERS = f"address and headers of more than {HEADER_BYTES // 1024} kB"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(:[0-9]{1,5})?", re.IGNORECASE)
_READING = ("GET", "HEAD", "OPTIONS")


class RefusedError(Exception):
    """A request that is not answered.

    Args:
        status: HTTP status code.
        error: why, and what to do, in one line without a path of this machine.
        headers: further headers of the answer.
    """

    def __init__(self, status: int, error: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(error)
        self.status, self.error, self.headers = status, error, dict(headers or {})

    def response(self) -> JSONResponse:
        return JSONResponse({"error": self.error}, self.status, self.headers)


@dataclass(frozen=True)
class Hosts:
    """Which Host headers are answered.

    Attributes:
        names: lower-case names and addresses, IPv6 ones in brackets.
        addresses: whether any IP address is, too: no page can rebind one.
    """

    names: Collection[str]
    addresses: bool = False

    def admits(self, header: str) -> bool:
        """Whether a Host header, perhaps with a port, is one of them."""
        found = _HOST.fullmatch(header)
        if not found:
            return False
        host = found[1].lower()
        return host in self.names or (self.addresses and _is_address(host))


def hosts_of(address: str) -> Hosts:
    """The hosts of a service that listens on an address or host name.

    Only the loopback ones, unless the address is another.
    """
    if is_loopback(address):
        return Hosts(LOOPBACK)
    name = f"[{address}]" if ":" in address else address
    return Hosts({*LOOPBACK, name.lower(), socket.gethostname().lower()}, addresses=True)


def is_loopback(address: str) -> bool:
    """Whether nothing outside this machine reaches an address."""
    if address.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def is_foreign(headers: Mapping[str, str]) -> bool:
    """Whether a browser sends a request for a page of another origin.

    Programs that are no browsers send neither header.
    """
    if headers.get("sec-fetch-site", "none").lower() not in ("same-origin", "none"):
        return True
    host = headers.get("host", "").lower()
    own = (f"http://{host}", f"https://{host}")
    return "origin" in headers and headers["origin"].lower() not in own


class Guard:
    """Checks a request before the application sees it, and keeps faults out of the answer.

    Args:
        app: the application.
        hosts: that are answered.
        headers: of every answer.
        paths: first parts of paths that the log may name; the rest could hold anything.
        log: takes one line per request: method, path, status, milliseconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Hosts,
        headers: Mapping[str, str],
        paths: Collection[str],
        log: Callable[[str], None],
    ) -> None:
        self._app, self._hosts, self._headers = app, hosts, headers
        self._paths, self._log = paths, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        fault = ""
        try:
            refusal = self._refusal(scope)
            await (refusal.response() if refusal else self._app)(scope, receive, sending)
        except ClientDisconnect:
            status, fault = 0, ", the client has gone"
        except Exception as error:
            # The application has answered it before it raised it.
            fault = f", a fault of the service: {type(error).__name__}: {reason(error)}"
        finally:
            head = "/" + scope["path"].removeprefix("/").partition("/")[0]
            path = head if head in self._paths else "(another path)"
            passed = 1000 * (time.perf_counter() - started)
            method = cut(scope["method"], 10)
            self._log(f"{method} {path} {status or 'no answer'} {passed:.0f} ms{fault}")

    def _refusal(self, scope: Scope) -> RefusedError | None:
        headers = Headers(scope=scope)
        parts = itertools.chain((scope["raw_path"], scope["query_string"]), *headers.raw)
        if sum(map(len, parts)) > HEADER_BYTES:
            return RefusedError(431, LARGE_HEADERS)
        if len(headers.getlist("host")) != 1 or not self._hosts.admits(headers["host"]):
            return RefusedError(
                400, "this Host is not served here; use http://localhost and the port"
            )
        if scope["method"] not in _READING and is_foreign(headers):
            return RefusedError(
                403, "a page of another origin may not ask here; open the page itself"
            )
        return None
