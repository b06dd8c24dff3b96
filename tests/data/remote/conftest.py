"""A server, a store in memory, and a cache folder of the test's own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from capt_core import addresses
from capt_core.data.remote import patience, shards, signatures, windows
from capt_core.data.remote.patience import Patience
from tests.data.fetching.server import Hostile, serving

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered of other tests, and no attempt waits long."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(patience, "PATIENCE", Patience(attempts=3, pause=0.001, timeout=5.0))
    monkeypatch.setattr(addresses, "_private", {})
    monkeypatch.setattr(signatures, "_unread", [])
    monkeypatch.setattr(windows, "_WINDOWS", windows._Windows())
    shards._opened.clear()


@pytest.fixture
def server() -> Iterator[Hostile]:
    with serving() as hostile:
        yield hostile


class Bucket:
    """A folder of fsspec's file system in memory."""

    def __init__(self) -> None:
        self.name = f"bucket{next(_numbers)}"
        self.address = f"memory://{self.name}"
        self._store: Any = fsspec.filesystem("memory")

    def put(self, name: str, content: bytes) -> str:
        self._store.pipe(f"/{self.name}/{name}", content)
        return f"{self.address}/{name}"

    def put_folder(self, folder: Path) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(path.relative_to(folder).as_posix(), path.read_bytes())


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()
