"""Object stores and other file systems of fsspec, and http(s), behind three functions."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from typing import Any

from capt_core.addresses import STORES, WEB
from capt_core.data.remote import web
from capt_core.data.remote.patience import Patience, RemoteError, TemporaryError, patiently, told
from capt_core.data.remote.stat import Entry, Stat
from capt_core.errors import CaptError

_CONNECT, _SILENCE = 20, 30  # seconds until a client gives up, without a byte at last
_SLOWEST_READ = 600.0  # seconds of one request to a store, whatever its size
_OF_SETTINGS = re.compile("Credential|Profile|Config|Token")
_OUT_OF_RANGE = re.compile(r"range .*satisf", re.I)
# Names that stores have for what changes with the content, and for the time of the last change.
_VERSIONS = ("ETag", "etag", "e_tag", "generation", "md5Hash")
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created")


class _BehindTheEndError(RemoteError):
    """The first byte that was asked for is behind the last one, which stores refuse."""


def read(
    address: str, start: int = 0, stop: int | None = None, patience: Patience | None = None
) -> bytes:
    """Bytes of a remote file from `start` up to `stop` (None: its end), or fewer if it is shorter.

    Raises:
        RemoteError: it cannot be read, after several attempts where that may help.
        FileNotFoundError, PermissionError: as the store says.
        CaptError: the store's client is not installed.
    """
    if _scheme(address) in WEB:
        return web.read(address, start, stop, patience)
    if stop is not None and stop <= start:
        return b""
    given = {"start": start, "end": stop}
    try:
        content = _asked(address, "cat_file", patience=patience, slowest=_SLOWEST_READ, **given)
    except _BehindTheEndError:
        return b""
    return bytes(content)


def stat(address: str, patience: Patience | None = None) -> Stat:
    """Size and version of a remote file.

    Raises:
        see `read`.
    """
    if _scheme(address) in WEB:
        return web.stat(address, patience)
    return _stat(_asked(address, "info", patience=patience))


def entries(address: str, patience: Patience | None = None) -> Iterator[Entry]:
    """What lies in a remote folder itself, in the order of the names' code points.

    Raises:
        see `read`; CaptError: http(s), which lists no folders.
    """
    if _scheme(address) in WEB:
        raise CaptError(
            f"{address}: https lists no folders; name a table of images (.../labels.csv), a split "
            "file (.../split_x.json) or shards (.../train-{000..009}.tar)"
        )
    found = {}
    folder = _file_system(_scheme(address))._strip_protocol(address).strip("/")
    for entry in _asked(address, "ls", patience=patience, detail=True):
        name = str(entry["name"]).rstrip("/")
        if name.strip("/") != folder:  # a key of no bytes that stands for the folder
            found[name.rpartition("/")[2]] = entry
    for name in sorted(found):
        yield Entry(name, found[name]["type"] == "directory", _stat(found[name]))


def is_folder(address: str) -> bool:
    """Whether an address is a folder of a store that can list it; http(s) has none.

    Raises:
        see `read`.
    """
    if _scheme(address) in WEB:
        return False
    return bool(_asked(address, "isdir"))


def _scheme(address: str) -> str:
    return address.partition(":")[0]


def _asked(
    address: str,
    what: str,
    *,
    patience: Patience | None = None,
    slowest: float | None = None,
    **given: Any,
) -> Any:
    """What a method of the store's file system returns for an address.

    File systems agree on the names of what is `given`, not on its order.
    """
    store = _file_system(_scheme(address))
    path = store._strip_protocol(address)

    def attempt(patience: Patience) -> Any:
        try:
            if store.async_impl:
                from fsspec.asyn import sync

                limit = slowest or patience.timeout
                return sync(store.loop, getattr(store, f"_{what}"), path, timeout=limit, **given)
            return getattr(store, what)(path, **given)
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError("missing") from None
        except IsADirectoryError:
            raise RemoteError("a folder, not a file") from None
        except PermissionError as error:
            raise PermissionError(f"no permission ({told(error)})") from None
        except Exception as error:  # the clients' own errors share no type
            raise _refusal(error) from None

    # Google's client makes six attempts itself, each a longer while after the last.
    return patiently(attempt, patience, once=_scheme(address) == "gs")


def _refusal(error: Exception) -> RemoteError:
    """What the error of a store's client means: whether another attempt may help."""
    kind = type(error).__name__
    said = told(error)
    text = f"{kind}: {said}" if said != kind else kind
    if getattr(error, "code", None) == 416 or _OUT_OF_RANGE.search(str(error)):
        return _BehindTheEndError(text)
    final = _OF_SETTINGS.search(kind) or isinstance(error, ValueError | TypeError)
    if final or getattr(error, "errno", None) == errno.EINVAL:  # a request that is none
        return RemoteError(text)
    return TemporaryError(text)


@cache
def _file_system(scheme: str) -> Any:
    """fsspec's file system; what it needs to log in it takes from the environment.

    Raises:
        CaptError: no such store, or its client is not installed.
    """
    import fsspec

    if scheme not in STORES:
        raise CaptError(f"{scheme}: no store that is read; known: {', '.join((*WEB, *STORES))}")
    try:
        store = fsspec.filesystem(scheme, **_options(scheme))
        if scheme == "s3":
            store.retries = 1
        return store
    except ImportError as error:
        raise CaptError(
            f"{scheme}:// needs the extra [remote], pip install 'capt-stage[remote]' "
            f"({told(error)})"
        ) from error
    except Exception as error:  # of settings of the client in the environment
        raise CaptError(f"{scheme}:// cannot be used ({told(error)})") from None


def _options(scheme: str) -> dict[str, Any]:
    """Options of a store's client: it keeps no listings, and waits no longer than is said."""
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme == "s3":
        # Attempts are counted here; the client would multiply them.
        options["config_kwargs"] = {
            "connect_timeout": _CONNECT,
            "read_timeout": _SILENCE,
            "retries": {"total_max_attempts": 1},
        }
    if scheme == "gs":
        from aiohttp import ClientTimeout

        options["requests_timeout"] = ClientTimeout(sock_connect=_CONNECT, sock_read=_SILENCE)
        # Or else it asks before every request which kind the bucket is of, wherever it has not the
        # right to know, and reports that and each attempt that fails.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        logging.getLogger("gcsfs").addHandler(logging.NullHandler())
    return options


def _stat(entry: dict[str, Any]) -> Stat:
    size = entry.get("size")
    when = next((entry[name] for name in _TIMES if entry.get(name)), None)
    version = next((str(entry[name]) for name in _VERSIONS if entry.get(name)), "")
    return Stat(
        int(size) if size is not None else None, (version or str(when or ""))[:200], _seconds(when)
    )


def _seconds(when: Any) -> float | None:
    if isinstance(when, int | float):
        return float(when)
    if isinstance(when, str):
        try:
            when = datetime.fromisoformat(when)
        except ValueError:
            return None
    return when.timestamp() if isinstance(when, datetime) else None
