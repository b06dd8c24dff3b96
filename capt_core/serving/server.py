"""Listening on an address: the socket, the HTTP protocol's own limits, and the end."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import socket
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from capt_core.errors import CaptError, reason, shown
from capt_core.serving.access import HEADER_BYTES, LARGE_HEADERS

HEADER_SECONDS = 10.0
"""Until the headers of a request must be there, from its connection or the answer before it."""
_LINGER = 2.0  # seconds in which what a refused client still sends is taken
_GRACE = 3  # seconds in which requests that have begun may end


def listening(host: str, port: int) -> socket.socket:
    """A socket that takes connections, which wait until `serve` runs.

    Args:
        host: address or host name.
        port: 0 takes a free one.

    Raises:
        CaptError: the address is taken, not allowed, or none of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:
        raise CaptError(_why(host, port, error)) from error


def _why(host: str, port: int, error: OSError | UnicodeError) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EADDRINUSE:
        return f"--port {port}: taken by another program; choose another, or --port 0 for any free"
    if number in (errno.EACCES, errno.EPERM):
        return f"--port {port}: not allowed to this user; choose one from 1024"
    told = error.strerror if isinstance(error, OSError) and error.strerror else reason(error)
    return f"--host {shown(host)}: not an address of this machine ({told}); leave it out"


def url_of(listener: socket.socket) -> str:
    """Address of a listening socket as a browser takes it."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(app: ASGIApp, listener: socket.socket) -> None:
    """Answer requests until SIGINT or SIGTERM, which is raised again when all has ended.

    Requests that have begun are answered first, for a few seconds.
    """
    server_of(app).run(sockets=[listener])


def server_of(app: ASGIApp) -> uvicorn.Server:
    """A server that prints nothing; its `run` takes the sockets."""
    # What the application raises is logged by its guard, in one line.
    for name in ("uvicorn.error", "asyncio", "python_multipart"):
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_graceful_shutdown=_GRACE,
    )
    return uvicorn.Server(config)


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol, which also bounds how long headers may take, and refuses in JSON."""

    _waiting: asyncio.TimerHandle | None = None
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._watch()

    def send_400_response(self, msg: str) -> None:
        pending, _ = self.conn.trailing_data
        if len(pending) > HEADER_BYTES:
            self._refuse(431, LARGE_HEADERS)
        else:
            self._refuse(400, "not a valid HTTP request")

    def _watch(self) -> None:
        """Run the clock from the connection to the end of the headers."""
        idle = self.conn.their_state is h11.IDLE and not self.transport.is_closing()
        if idle and self._waiting is None:
            self._waiting = self.loop.call_later(HEADER_SECONDS, self._too_slow)
        elif not idle and self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _too_slow(self) -> None:
        if not self.transport.is_closing() and self.conn.our_state is h11.IDLE:
            self._refuse(408, f"no request after {HEADER_SECONDS:.0f} seconds")

    def _refuse(self, status: int, error: str) -> None:
        body = json.dumps({"error": error}).encode()
        headers: list[tuple[str, str]] = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        events: list[Any] = [
            h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status]),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ]
        if self.conn.our_state is h11.IDLE or self.conn.our_state is h11.SEND_RESPONSE:
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
        # Closed at once, a connection on which more is coming is reset, and the answer is lost.
        self._refused = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(_LINGER, self.transport.close)
