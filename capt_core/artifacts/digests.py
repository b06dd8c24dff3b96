"""A file carries the digest of its own content, so that its reader notices one changed bit.

The digest stands in the file's metadata, as text of fixed length. It is XXH3 of 128 bits over all
bytes of the file, with zeros where the digest itself stands. It tells damage and which of two files
is which, no forgery: whoever can write a file can seal it. Features of millions of images are
gigabytes that every stage checks, and XXH3 takes no longer than copying them.
"""

from __future__ import annotations

import re
from io import BufferedIOBase
from pathlib import Path

from xxhash import xxh3_128

from capt_core.artifacts.files import file_digest

_MARK = "content-xxh3:"
_LENGTH = 32
_SEALED = re.compile(f"{_MARK}([0-9a-f]{{{_LENGTH}}})".encode())
_WINDOW = 1 << 16  # bytes at either end that hold the metadata's first entries or its last
_CHUNK = 1 << 18  # bytes read at once; they stay in the processor's cache until digested

PLACEHOLDER = _MARK + "0" * _LENGTH
"""What a writer puts into the metadata for `seal` to fill in."""


def seal(path: Path) -> None:
    """Replace the placeholder in a file by the digest of its content.

    Raises:
        OSError: the file cannot be read or written.
        ValueError: it holds no placeholder.
    """
    with path.open("r+b") as stream:
        found = _find(stream)
        if found is None:
            raise ValueError(f"{path}: holds no place for a digest")
        digest = _digest(stream, found[0])
        stream.seek(found[0])
        stream.write(digest)


def is_intact(path: Path) -> bool | None:
    """Whether a file's content is what its digest says; None for a file that carries none.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        found = _find(stream)
        return None if found is None else _digest(stream, found[0]) == found[1]


def content_digest(path: Path) -> str:
    """First 12 hex digits of the digest a file carries, or of its SHA-256 if it carries none.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        found = _find(stream)
    return file_digest(path) if found is None else found[1].decode()[:12]


def _find(stream: BufferedIOBase) -> tuple[int, bytes] | None:
    """Where the digest stands in a file, and its digits; None if there is none.

    Safetensors files begin with their metadata, Parquet files end with them.
    """
    size = stream.seek(0, 2)
    for start in (0, max(0, size - _WINDOW)):
        stream.seek(start)
        found = _SEALED.search(stream.read(_WINDOW))
        if found is not None:
            return start + found.start(1), found[1]
    return None


def _digest(stream: BufferedIOBase, place: int) -> bytes:
    """Hex digits of XXH3 over a file, with zeros for the digits at `place`."""
    digest, chunk = xxh3_128(), bytearray(_CHUNK)
    stream.seek(0)
    position = 0
    while count := stream.readinto(chunk):
        first, last = max(place, position), min(place + _LENGTH, position + count)
        if first < last:
            chunk[first - position : last - position] = b"0" * (last - first)
        digest.update(memoryview(chunk)[:count])
        position += count
    return digest.hexdigest().encode()
