"""Reading over http: failures, ranges, redirections, credentials."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from capt_core.addresses import remember
from capt_core.data.remote import stores, web
from capt_core.data.remote.patience import Patience, RemoteError
from tests.data.fetching.server import Hostile

CONTENT = bytes(range(256)) * 40


@pytest.mark.parametrize("behaviour", ["ranges", "plain", "drops_once", "busy", "unsized"])
def test_a_file_is_read_whole(server: Hostile, behaviour: str) -> None:
    assert stores.read(server.put("a.bin", CONTENT, behaviour)) == CONTENT


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [("drops", r"connection ended.*\(3 attempts"), ("503", r"answers 503 \(3"), ("418", "418$")],
)
def test_what_does_not_get_better_ends_in_a_line(
    server: Hostile, behaviour: str, message: str
) -> None:
    with pytest.raises(RemoteError, match=message):
        stores.read(server.put("a.bin", CONTENT, behaviour))
    assert len(server.asked) == (1 if behaviour == "418" else 3)


@pytest.mark.parametrize("behaviour", ["dead", "trickles"])
def test_slow_servers_are_given_up(server: Hostile, behaviour: str) -> None:
    patience = Patience(attempts=1, pause=0.0, timeout=0.1, slowest=10_000.0)
    with pytest.raises(RemoteError, match=r"timed out|sent \d+ bytes in"):
        stores.read(server.put("a.bin", CONTENT, behaviour), patience=patience)


def test_no_server() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(RemoteError, match=r"no answer \(.*refused.*\(3 attempts\)"):
            stores.read(f"http://127.0.0.1:{port}/a.jpg")


def test_parts(server: Hostile) -> None:
    address = server.put("a.bin", CONTENT)
    assert stores.read(address, 300, 310) == CONTENT[300:310]
    assert stores.read(address, len(CONTENT) - 2, len(CONTENT) + 9) == CONTENT[-2:]
    assert stores.stat(address).size == len(CONTENT)
    with pytest.raises(web.NoRangesError):
        stores.read(server.put("b.bin", CONTENT, "plain"), 300, 310)


def test_redirections(server: Hostile) -> None:
    server.put("a.bin", CONTENT)
    assert stores.read(server.put("here", b"", f"to {server.address}/a.bin")) == CONTENT
    port = server.address.rpartition(":")[2]
    for target, why in (
        ("file:///etc/hostname", "not followed"),
        ("ftp://127.0.0.1/a.bin", "no http address"),
        (f"http://localhost:{port}/a.bin", "private net"),
        ("http://127.0.0.1:9/a.bin", "private net"),
        ("http://169.254.169.254/latest", "private net"),
        ("http://[::1]:80/x", "private net"),
    ):
        before = len(server.asked)
        with pytest.raises(RemoteError, match=why):
            stores.read(server.put("away", b"", f"to {target}"))
        assert len(server.asked) == before + 1
    with pytest.raises(RemoteError):
        stores.read(server.put("round", b"", f"to {server.address}/round"))


def test_queries_are_sent_and_not_shown(server: Hostile) -> None:
    address = server.put("a.jpg", CONTENT, "signed")
    with pytest.raises(PermissionError, match="403: no permission"):
        stores.read(address)
    assert stores.read(remember(f"{address}?key=SECRET")) == CONTENT


def test_passwords_come_from_netrc_and_stay_with_their_host(
    server: Hostile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password SECRET\n")
    server.put("a.bin", CONTENT)
    stores.read(server.put("here", b"", f"to {server.address}/a.bin"))
    assert [("Authorization" in each) for each in server.headers] == [True, False]


def test_a_folder_is_not_listed(server: Hostile) -> None:
    with pytest.raises(Exception, match="https lists no folders; name a table"):
        list(stores.entries(server.address))
