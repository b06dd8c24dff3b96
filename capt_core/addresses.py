"""Addresses of remote files, also as paths, and what of them may be shown or kept.

An address is ``s3://bucket/key``, ``gs://bucket/key`` or ``https://host/name``; as a path it is
``s3:/bucket/key``, so that it joins and travels as any other path does; below a folder, such as
that of a table which lists addresses, it counts from its scheme on. User names, passwords and
queries, which hold signatures, are never part of such a path: `remember` keeps them in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from capt_core.errors import CaptError, cut

WEB = ("http", "https")
STORES = ("s3", "gs", "file", "memory")
"""Schemes whose folders can be listed; the last two are of fsspec's own for this machine."""
FROM_LISTS = ("s3", "gs", *WEB)
"""Schemes that a table may name: one from elsewhere must not lead to files of this machine."""
SCHEMES = (*WEB, *STORES)

_SCHEME = re.compile(rf"({'|'.join(SCHEMES)}):/+", re.I)
_ANY_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:/", re.I)
_ANY = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>)]+", re.I)
_PARTS = frozenset(f"{scheme}:" for scheme in SCHEMES)
_private: dict[str, str] = {}


def is_address(text: str) -> bool:
    """Whether a text begins as an address does; a path of one counts, too."""
    return _SCHEME.match(text) is not None


def address_of(path: Path | str) -> str | None:
    """The address that a path stands for; None for a file of this machine."""
    text = str(path)
    if ":/" not in text:
        return None
    parts = text.split("/")
    last = max((at for at, part in enumerate(parts) if part.lower() in _PARTS), default=None)
    if last is None:
        return None
    rest = "/".join(parts[last + 1 :]).lstrip("/")
    slash = "/" if parts[last].lower() in ("file:", "memory:") else ""
    return f"{parts[last].lower()}//{slash}{rest}"


def is_remote(path: Path | str) -> bool:
    """Whether a path stands for an address."""
    return address_of(path) is not None


def absence(path: Path | str) -> str:
    """What there is to say of a path that nothing is at: it may be an address of another kind."""
    none = "no such file or folder"
    if _ANY_SCHEME.match(str(path)) is None:
        return none
    return f"{none}, nor an address that can be read ({', '.join(SCHEMES[:4])})"


def public(address: str) -> str:
    """An address without user name, password, query and fragment, any of which may be secret."""
    scheme, found, rest = address.partition("://")
    if not found:
        return re.split(r"[?#]", address, maxsplit=1)[0]
    if scheme.lower() not in WEB:
        # Keys of object stores may hold ? and #; what would be credentials has no meaning there.
        host, slash, key = rest.partition("/")
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{key}"
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, name = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{name}"


def without_secrets(text: str) -> str:
    """A text, such as the message of another library, in which all addresses are `public`."""
    return _ANY.sub(lambda found: public(found[0]), text)


def remember(address: str) -> str:
    """The public form of an address, from which `private` finds the whole again.

    Raises:
        CaptError: an address that cannot be used.
    """
    shown = usable(public(address))
    if shown != address:
        _private[shown] = address
    return shown


def private(address: str) -> str:
    """The whole of an address that was remembered; others as they are."""
    return _private.get(address, address)


def ambiguous(addresses: Iterable[str]) -> str | None:
    """The public form that two different addresses share, or None."""
    known: dict[str, str] = {}
    for address in addresses:
        shown = public(address)
        if known.setdefault(shown, address) != address:
            return shown
    return None


def usable(address: str) -> str:
    """An address in public form, its scheme in lower case.

    Raises:
        CaptError: no host or bucket, a part that leads upwards or is empty, an unknown scheme.
    """
    found = _SCHEME.match(address)
    shown = cut(public(address), 200)
    if found is None:
        raise CaptError(f"{shown}: expected an address of {', '.join(SCHEMES[:4])}")
    scheme = found[1].lower()
    rest = address[found.end() :].rstrip("/")
    parts = rest.split("/")
    if not parts[0] or (scheme in WEB and not _has_host(f"{scheme}://{rest}")):
        raise CaptError(f"{shown}: an address without a host or bucket; correct it")
    if any(part in ("", ".", "..") for part in parts) or any(ord(each) < 32 for each in rest):
        raise CaptError(
            f"{shown}: an address with empty parts (//), dots or control characters, which no path "
            "can keep; give the files other names"
        )
    return f"{scheme}://{'/' if scheme in ('file', 'memory') else ''}{rest}"


def _has_host(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def without_credentials(address: str) -> str:
    """An address of the settings, which are kept in files, unchanged.

    Raises:
        ValueError: it holds a user name, a password or a query.
    """
    whole = address_of(address) if is_address(address) else None
    if whole is not None and public(whole) != whole:
        raise ValueError(
            f"{cut(public(whole), 200)} was given with a user name, password or query; leave them "
            "out: credentials come from the environment"
        )
    return address
