"""What clients of stores answer: in which order they take arguments, and what their errors mean."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from capt_core.data.decoding import BadImageError
from capt_core.data.remote import stores
from capt_core.data.remote.opening import read_elsewhere
from capt_core.data.remote.patience import RemoteError


class HttpError(Exception):
    """As of gcsfs, which has no message of a server that sends none."""

    code = 416


class ProfileNotFoundError(Exception):
    """As of botocore."""


class Client(MemoryFileSystem):  # type: ignore[misc]
    """Takes arguments in the order of s3fs, and refuses what S3 and Google Cloud Storage refuse."""

    cachable = False
    store: ClassVar[dict[str, Any]] = {}

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)
        self.attempts = 0

    def cat_file(
        self, path: str, version_id: str | None = None, start: int = 0, end: int | None = None
    ) -> bytes:
        self.attempts += 1
        if self.errors:
            raise self.errors[0] if len(self.errors) == 1 else self.errors.pop(0)
        assert version_id is None
        content: bytes = self.store[path].getvalue()
        if start >= len(content):
            raise OSError(22, "The requested range is not satisfiable")
        return content[start:end]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    found = Client()
    found.pipe("/bucket/a.jpg", b"0123456789")
    found.pipe("/bucket/empty.jpg", b"")
    monkeypatch.setattr(stores, "_file_system", lambda scheme: found)
    return found


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(
    ("start", "stop", "found"),
    [
        (0, None, b"0123456789"),
        (2, 5, b"234"),
        (8, 50, b"89"),
        (5, 5, b""),
        (10, 12, b""),
        (99, None, b""),
    ],
)
def test_bytes_that_are_wanted(start: int, stop: int | None, found: bytes) -> None:
    assert stores.read("memory://bucket/a.jpg", start, stop) == found


@pytest.mark.usefixtures("client")
def test_an_empty_image_is_named_as_such() -> None:
    with pytest.raises(BadImageError, match="empty, 0 bytes"):
        read_elsewhere(Path("memory://bucket/empty.jpg"))


def test_what_is_asked_again(client: Client) -> None:
    client.errors = [HttpError(", 416")]
    assert stores.read("memory://bucket/a.jpg", 3) == b""
    for error in (OSError(22, "Bad request"), ProfileNotFoundError("none of that name")):
        client.errors, client.attempts = [error], 0
        with pytest.raises(RemoteError, match=type(error).__name__):
            stores.read("memory://bucket/a.jpg")
        assert client.attempts == 1
    busy = OSError(16, "slow down")
    client.errors, client.attempts = [busy], 0
    with pytest.raises(RemoteError, match=r"slow down.*3 attempts"):
        stores.read("memory://bucket/a.jpg")
    assert client.attempts == 3
    client.errors, client.attempts = [busy], 0
    with pytest.raises(RemoteError, match=r"slow down$"):
        stores.read("gs://bucket/a.jpg")  # whose client makes attempts itself
    assert client.attempts == 1


def test_clients_neither_multiply_attempts_nor_report_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "")
    monkeypatch.delenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT")
    logger = logging.getLogger("gcsfs")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", False)
    made = Client()
    with patch("fsspec.filesystem", return_value=made) as filesystem:
        for scheme in ("s3", "gs"):
            stores._file_system.__wrapped__(scheme)
    assert made.retries == 1
    assert filesystem.mock_calls[0].kwargs["config_kwargs"]["retries"] == {"total_max_attempts": 1}
    assert os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] == "false"
    logger.warning("attempt 1 failed")
    assert capsys.readouterr().err == ""
