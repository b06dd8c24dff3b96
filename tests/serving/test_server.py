"""What the server does below the application: sockets, slow and malformed requests."""

from __future__ import annotations

import json
import socket
from urllib.parse import urlsplit

import pytest
from starlette.types import ASGIApp

from capt_core.serving import server
from capt_core.serving.access import LOOPBACK, Hosts
from capt_core.serving.answers import Answerer
from capt_core.serving.app import build_app
from capt_core.serving.server import listening, url_of
from capt_core.serving.uploads import Limits
from tests.refusals import refusal
from tests.serving.conftest import MOST, listening_on, png


def exchange(url: str, *parts: bytes) -> tuple[int, dict[str, object]]:
    """Send bytes, wait until the server closes the connection; status and JSON of its answer."""
    address = urlsplit(url)
    assert address.hostname is not None
    with socket.create_connection((address.hostname, address.port or 0)) as connection:
        for part in parts:
            connection.sendall(part)
        reply = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = reply.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def post(length: int, *headers: str) -> bytes:
    lines = ("POST /predict HTTP/1.1", "Host: localhost", "Content-Type: image/png")
    ends = (f"Content-Length: {length}", "Connection: close", *headers)
    return "\r\n".join((*lines, *ends, "", "")).encode()


def test_what_is_no_http_is_refused_in_json(app: ASGIApp) -> None:
    with listening_on(app) as url:
        for words in (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"):
            assert exchange(url, words) == (400, {"error": "not a valid HTTP request"})
        any_path = b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert exchange(url, any_path)[0] == 404
        endless = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + bytes(b"a" * 400_000)
        status, answer = exchange(url, endless)
        assert (status, set(answer)) == (431, {"error"})


def test_slow_requests_are_ended(app: ASGIApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.3)
    with listening_on(app) as url:
        for part in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\n"):
            status, answer = exchange(url, part)
            assert (status, set(answer)) == (408, {"error"})
        # Headers in time; the body is not, by the application's own limit.
        status, answer = exchange(url, post(1000), b"abc")
        assert status == 408
        assert "send it again" in str(answer["error"])
        assert exchange(url, post(len(png())), png())[0] == 200


def test_a_client_that_goes_away_takes_no_place(answerer: Answerer, log: list[str]) -> None:
    # Places are not given back by the limit of time, which a busy machine may reach first.
    patient = build_app(answerer, Hosts(LOOPBACK), Limits(MOST, seconds=600), log.append)
    with listening_on(patient) as url:
        address = urlsplit(url)
        for _ in range(40):
            with socket.create_connection((str(address.hostname), address.port or 0)) as gone:
                gone.sendall(post(1000) + b"abc")
        # It may take a moment until all of them are found to be gone.
        statuses = (exchange(url, post(len(png())), png())[0] for _ in range(1000))
        assert next(status for status in statuses if status != 503) == 200
    gone_lines = [line for line in log if line.endswith("the client has gone")]
    assert gone_lines
    assert all(line.startswith("POST /predict no answer") for line in gone_lines)


def test_a_client_that_sends_too_much_reads_why(app: ASGIApp) -> None:
    with listening_on(app) as url:
        status, answer = exchange(url, post(3_000_000), bytes(3_000_000))
        assert status == 413
        assert "MB" in str(answer["error"])
        assert exchange(url, post(3_000_000, "Expect: 100-continue"))[0] == 413


def test_addresses_that_cannot_be_had() -> None:
    with listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert url_of(taken) == f"http://127.0.0.1:{port}"
        told = refusal(listening, "127.0.0.1", port)
        assert told == f"--port {port}: taken by another program; " + told.partition("; ")[2]
        assert "--port 0" in told
    assert "--host" in refusal(listening, "192.0.2.1", 0)
    assert "--host" in refusal(listening, "no such host", 0)
    assert "--host" in refusal(listening, "a" * 300, 0)
