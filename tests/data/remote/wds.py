"""Tar shards as WebDataset writes them, and as nobody should."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable

from tests.data.own_images import photo_bytes


def shard(first: int, count: int, labels: str = "cls") -> bytes:
    """A shard of samples numbered from `first`: an image, and the class 0 or 1 in turn."""
    names = ("even one", "odd one")
    return tar(
        (f"{number:04d}.{ending}", content)
        for number in range(first, first + count)
        for ending, content in (
            ("png", photo_bytes(number)),
            *([("cls", str(number % 2).encode())] if "cls" in labels else []),
            *([("txt", names[number % 2].encode())] if "txt" in labels else []),
            *([("json", b'{"label": "%d!"}' % (number % 2))] if "json" in labels else []),
        )
    )


def tar(members: Iterable[tuple[str, bytes] | tarfile.TarInfo]) -> bytes:
    """A tar file of members given as names with contents, or as headers alone."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            header = tarfile.TarInfo(member[0])
            header.size = len(member[1])
            archive.addfile(header, io.BytesIO(member[1]))
    return stream.getvalue()
