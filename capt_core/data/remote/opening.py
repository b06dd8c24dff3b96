"""The bytes of images that are not files of their own on this machine."""

from __future__ import annotations

from pathlib import Path

from capt_core.addresses import address_of
from capt_core.data.decoding import LARGEST_FILE, BadImageError
from capt_core.data.remote import stores
from capt_core.data.remote.shards import open_shard, place_of, read_member
from capt_core.data.remote.signatures import known_signature
from capt_core.data.remote.windows import stat_of

ASKED_AT_ONCE = 16
"""Images that servers and stores are asked about side by side."""
_CLOCKS_APART = 300.0  # seconds by which the clocks of servers may differ from this one


def is_elsewhere(path: Path) -> bool:
    """Whether a path stands for a remote image, or for a member of a shard."""
    return address_of(path) is not None or place_of(path) is not None


def read_elsewhere(path: Path) -> bytes:
    """Bytes of a remote image or of a member of a shard, at most `LARGEST_FILE`.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read; of a server, after several attempts.
        BadImageError: its size is out of bounds.
    """
    place = place_of(path)
    if place is not None:
        return read_member(*place)
    address = known_signature(str(address_of(path)))
    content = stores.read(address, 0, LARGEST_FILE + 1)
    if not content:
        raise BadImageError("empty, 0 bytes")
    return content


def version_of(path: Path) -> str:
    """What tells the content of an image from another one, without reading it, as its store says.

    Empty where nothing is told: the content itself has to be read.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be looked up.
    """
    place = place_of(path)
    if place is not None:
        shard, member = place
        span = open_shard(shard).images.get(member)
        if span is None:
            raise FileNotFoundError("missing")
        return f"{stat_of(shard).stamp} {span[0]} {span[1]}"
    found = stores.stat(known_signature(str(address_of(path))))
    return found.stamp if found.version else ""


def changed_before(path: Path) -> float | None:
    """A time by this machine's clock, in seconds, before which an image was changed last.

    None where nothing is told.

    Raises:
        OSError: it cannot be looked up.
    """
    when = modified(path)
    return None if when is None else when + _CLOCKS_APART


def modified(path: Path) -> float | None:
    """When a remote image or its shard was changed last, in seconds by its store's clock.

    None where nothing is told.

    Raises:
        OSError: it cannot be looked up.
    """
    place = place_of(path)
    if place is not None:
        return stat_of(place[0]).modified
    return stores.stat(known_signature(str(address_of(path)))).modified
