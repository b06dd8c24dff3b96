"""Downloads from a server that breaks off, lies, redirects and is busy."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from capt_core.data.fetching import download as module
from capt_core.data.fetching.download import Patience, download, web_address
from capt_core.data.registry import RemoteFile
from capt_core.errors import CaptError
from tests.data.fetching.server import Hostile, remote
from tests.processes import python
from tests.refusals import refusal

QUICK = Patience(attempts=4, pause=0.0, timeout=5.0)
CONTENT = b"content" + bytes(range(256)) * 400


def get(
    server: Hostile, folder: Path, behaviour: str, content: bytes = CONTENT, **changes: object
) -> Path:
    """Download a file that is served in some manner."""
    url = server.put("file.bin", content, behaviour)
    file = remote("file.bin", CONTENT, **changes)
    download(file, url, folder / "file.bin", QUICK)
    return folder / "file.bin"


def refused(server: Hostile, folder: Path, *served: Any, **changes: object) -> str:
    message = refusal(get, server, folder, *served, **changes)
    assert not (folder / "file.bin").exists()
    return message


@pytest.mark.parametrize(
    ("behaviour", "requests"),
    [("plain", 1), ("ranges", 1), ("drops", 4), ("drops_once", 2), ("busy", 3), ("unsized", 1)],
)
def test_a_file_arrives_whole(
    server: Hostile, tmp_path: Path, behaviour: str, requests: int
) -> None:
    assert get(server, tmp_path, behaviour).read_bytes() == CONTENT
    assert len(server.asked) == requests
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


def test_an_interrupted_download_goes_on(server: Hostile, tmp_path: Path) -> None:
    message = refused(server, tmp_path, "stuck")
    third = len(CONTENT) // 3
    assert f"the connection ended after {third} of {len(CONTENT)} bytes (4 attempts)" in message
    assert f"it goes on after {third} bytes" in message
    server.asked.clear()
    get(server, tmp_path, "ranges")
    assert server.ranges("file.bin") == [f"bytes={third}-"]


def test_progress_counts_what_was_there_and_what_is_thrown_away(
    server: Hostile, tmp_path: Path
) -> None:
    refused(server, tmp_path, "stuck")
    told: list[int] = []
    url = server.put("file.bin", CONTENT, "plain")  # sends all of it again
    download(remote("file.bin", CONTENT), url, tmp_path / "file.bin", QUICK, told.append)
    assert sum(told) == len(CONTENT)
    assert min(told) < 0


def test_a_part_of_another_version_is_thrown_away(server: Hostile, tmp_path: Path) -> None:
    refused(server, tmp_path, "stuck", b"old" * 30000, size=90000)
    assert (tmp_path / "file.bin.part").stat().st_size == 30000
    # The server's ETag is not that of the part, so it sends the whole file.
    assert get(server, tmp_path, "ranges").read_bytes() == CONTENT


def test_the_rest_of_another_version_is_not_appended(server: Hostile, tmp_path: Path) -> None:
    refused(server, tmp_path, "stuck", b"old" * 30000, size=None, sha256=None)
    # No checksum would notice: only the ETag says that the server's file has changed.
    found = get(server, tmp_path, "insistent", size=None, sha256=None)
    assert found.read_bytes() == CONTENT


def test_a_server_that_breaks_off_and_forgets_in_turn_is_given_up(
    server: Hostile, tmp_path: Path
) -> None:
    assert "(4 attempts)" in refused(server, tmp_path, "forgets")


def test_a_part_that_came_from_elsewhere_is_tried_once_and_then_anew(
    server: Hostile, tmp_path: Path
) -> None:
    (tmp_path / "file.bin.part").write_bytes(b"?" * 1000)
    assert get(server, tmp_path, "ranges").read_bytes() == CONTENT
    assert server.ranges("file.bin") == ["bytes=1000-", None]


@pytest.mark.parametrize("length", [len(CONTENT), len(CONTENT) + 10])
@pytest.mark.parametrize("declared", [True, False])
def test_a_part_that_is_whole_or_too_long(
    server: Hostile, tmp_path: Path, length: int, declared: bool
) -> None:
    (tmp_path / "file.bin.part").write_bytes((CONTENT + b"?" * 10)[:length])
    size = len(CONTENT) if declared else None
    assert get(server, tmp_path, "ranges", size=size).read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_nothing_kept(server: Hostile, tmp_path: Path) -> None:
    message = refused(server, tmp_path, "ranges", CONTENT[:-1] + b"!")
    assert "its sha256 is" in message
    assert list(tmp_path.iterdir()) == []
    message = refused(server, tmp_path, "ranges", sha256=None, md5="0" * 32)
    assert "its md5 is" in message


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("404", "the server answers 404"),
        ("403", "the server answers 403"),
        ("500", "the server answers 500 Internal Server Error (4 attempts)"),
        ("longer", "the server has 103407 bytes, expected 102407: another file"),
        ("html", "29 bytes, expected 102407: another file"),
        ("to ftp://127.0.0.1/x", "redirects to ftp://127.0.0.1/x; not followed"),
        ("to file:///etc/passwd", "Redirection to url 'file:///etc/passwd' is not allowed"),
        ("to http://[::1/x", "not a usable address"),
        ("to http://x:y/", "not a usable address"),
        ("to http://a b/", "not a usable address"),
        ("to /" + "x" * 9000, "the server answers 404"),
        ("to /file.bin", "redirect error that would lead to an infinite loop; get the file"),
    ],
)
def test_what_a_server_must_not_do(
    server: Hostile, tmp_path: Path, behaviour: str, message: str
) -> None:
    said = refused(server, tmp_path, behaviour)
    assert message in said
    assert len(said) < 400


@pytest.mark.parametrize(
    "url",
    ["http://[::1/x", "http://127.0.0.1:port/x", "http://a..b/x", "http://x/a b", "http://é/ü"],
)
def test_an_address_that_cannot_be_used(tmp_path: Path, url: str) -> None:
    message = refusal(download, RemoteFile(name="x"), url, tmp_path / "x", QUICK)
    assert "not a usable address" in message or "no connection" in message


@pytest.mark.parametrize("name", ["file.bin", "file.bin.part"])
def test_what_is_no_file_is_not_replaced(server: Hostile, tmp_path: Path, name: str) -> None:
    url, file = server.put("file.bin", CONTENT), remote("file.bin", CONTENT)
    for make in (os.mkdir, os.mkfifo):  # opening a pipe would wait for ever
        folder = tmp_path / make.__name__
        folder.mkdir()
        make(folder / name)
        message = refusal(download, file, url, folder / "file.bin", QUICK)
        assert message.startswith(f"{folder / name}: a file belongs here, and something else is")
    assert server.asked == []


def test_more_bytes_than_declared_are_not_taken(server: Hostile, tmp_path: Path) -> None:
    message = refused(server, tmp_path, "unsized", CONTENT + b"more")
    assert "sends more than 102407 bytes" in message
    assert list(tmp_path.iterdir()) == []


def test_a_page_in_place_of_a_file_without_checksum(server: Hostile, tmp_path: Path) -> None:
    message = refused(server, tmp_path, "html", size=None, sha256=None)
    assert "a web page instead of the file" in message


def test_an_empty_file_without_checksum(server: Hostile, tmp_path: Path) -> None:
    url = server.put("file.bin", b"")
    with pytest.raises(CaptError, match="it is empty"):
        download(RemoteFile(name="file.bin"), url, tmp_path / "file.bin", QUICK)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_unknown_size_and_checksum_still_arrives(server: Hostile, tmp_path: Path) -> None:
    assert get(server, tmp_path, "drops", size=None, sha256=None).read_bytes() == CONTENT


def test_a_server_that_answers_another_range(server: Hostile, tmp_path: Path) -> None:
    refused(server, tmp_path, "stuck")
    assert get(server, tmp_path, "wrong_range").read_bytes() == CONTENT


def test_redirections_are_followed(server: Hostile, tmp_path: Path) -> None:
    server.put("there", CONTENT, "drops_once")
    assert get(server, tmp_path, "to /there").read_bytes() == CONTENT


def test_nobody_answers(tmp_path: Path) -> None:
    url = "http://user:secret@127.0.0.1:9/x?key=secret"
    with pytest.raises(CaptError, match=r"no connection .*\(4 attempts\)") as caught:
        download(RemoteFile(name="x"), url, tmp_path / "x", QUICK)
    assert "secret" not in str(caught.value)


def test_a_silent_server_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        patience = Patience(attempts=2, pause=0.0, timeout=0.05)
        with pytest.raises(CaptError, match=r"timed out.*\(2 attempts\)"):
            download(RemoteFile(name="x"), url, tmp_path / "x", patience)


def test_room_is_looked_for_first(
    server: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESERVE", 10**18)
    assert "free some space" in refused(server, tmp_path, "ranges")
    assert (tmp_path / "file.bin.part").stat().st_size == 0


def test_addresses() -> None:
    assert web_address("drive:abc").startswith(
        "https://drive.usercontent.google.com/download?id=abc"
    )
    for url in ("file:///etc/passwd", "ftp://x/y", "x"):
        assert "expected an address" in refusal(web_address, url)


def test_every_module_is_imported_where_there_is_no_fcntl() -> None:
    code = (
        "import sys; sys.modules['fcntl'] = None\n"
        "import importlib, pkgutil, capt_core\n"
        "for module in pkgutil.walk_packages(capt_core.__path__, 'capt_core.'):\n"
        "    if module.name != 'capt_core.__main__':\n"
        "        importlib.import_module(module.name)\n"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr[-500:]
