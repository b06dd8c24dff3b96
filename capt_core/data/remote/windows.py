"""Parts of large files: of this machine, or remote and read ahead where reading goes forward."""

from __future__ import annotations

import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO

from capt_core.addresses import address_of
from capt_core.data.remote import stores
from capt_core.data.remote.patience import RemoteError
from capt_core.data.remote.stat import Stat
from capt_core.data.remote.web import NoRangesError

AHEAD = 8 * 1024**2
"""Bytes asked for at once where reading goes forward."""
_NEAR = 1024**2
"""Bytes that may be passed over before reading no longer counts as going forward."""
_OPEN = 8
LARGEST_COPY = 8 * 1024**3
"""Bytes of a file whose server sends it as a whole only, and that is copied to a temporary file."""

Read = Callable[[int, int], bytes]
"""From one byte up to another, or fewer at the end of the file."""


class Window:
    """Reads parts of one remote file; those that follow each other come from few requests.

    Args:
        read: asks for a part.
    """

    def __init__(self, read: Read) -> None:
        self._ask = read
        self._lock = threading.Lock()
        self._start, self._data = 0, b""
        self._end = -1

    def read(self, start: int, stop: int) -> bytes:
        with self._lock:
            if not (self._start <= start and stop <= self._start + len(self._data)):
                forward = 0 <= start - self._end <= _NEAR
                self._data = self._ask(start, max(stop, start + AHEAD) if forward else stop)
                self._start = start
            self._end = stop
            return self._data[start - self._start : stop - self._start]


def read_part(path: Path, start: int, stop: int) -> bytes:
    """Bytes of a file from `start` up to `stop`, or fewer at its end.

    Args:
        path: of a file of this machine, or one that stands for an address.
        start: first byte.
        stop: one behind the last.

    Raises:
        OSError: it cannot be read.
    """
    address = address_of(path)
    if address is None:
        with path.open("rb") as stream:
            return os.pread(stream.fileno(), stop - start, start)
    return _WINDOWS.of(address).read(start, stop)


def stat_of(path: Path) -> Stat:
    """Size and version of a file, here or elsewhere.

    Raises:
        OSError: it cannot be looked up.
    """
    address = address_of(path)
    if address is not None:
        return stores.stat(address)
    status = path.stat()
    return Stat(status.st_size, str(status.st_mtime_ns), status.st_mtime)


class _Windows:
    """Windows of the files that were read last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Window] = OrderedDict()

    def of(self, address: str) -> Window:
        with self._lock:
            if address not in self._kept:
                self._kept[address] = Window(_Parts(address).read)
            self._kept.move_to_end(address)
            while len(self._kept) > _OPEN:
                self._kept.popitem(last=False)
            return self._kept[address]


class _Parts:
    """Parts of a remote file; from a copy where its server sends none."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._copy: IO[bytes] | None = None

    def read(self, start: int, stop: int) -> bytes:
        if self._copy is None:
            try:
                return stores.read(self._address, start, stop)
            except NoRangesError:
                self._copy = _copied(self._address)
        return os.pread(self._copy.fileno(), stop - start, start)


def _copied(address: str) -> IO[bytes]:
    """A temporary file, removed when it is closed, with the content of a remote one."""
    from capt_core.data.remote.web import copy

    stream: IO[bytes] = tempfile.TemporaryFile(prefix="capt-")  # noqa: SIM115
    try:
        copy(address, stream, LARGEST_COPY)
    except OSError as error:
        stream.close()
        raise RemoteError(
            f"the server sends no parts of files, and no copy could be made ({error})"
        ) from None
    return stream


_WINDOWS = _Windows()
