"""Small pictures for a page, as large as a number of bytes allows."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from capt_core.data.decoding import BadImageError, to_rgb
from capt_core.data.images import opened_image
from capt_core.errors import CaptError
from capt_core.reporter import active

LEVELS = ((112, 60), (96, 56), (80, 52), (64, 48), (56, 45), (48, 42))
"""Sides in pixels with the WebP quality that suits them, best first."""

_SAMPLE = 64
_MARGIN = 1.03  # the sample's mean length may be a little below that of all
_BATCH = 64


@dataclass(frozen=True)
class Pictures:
    """Thumbnails of image files.

    Attributes:
        encoded: base64 of a WebP image by file.
        side: pixels of their longer side, or less where the file has less.
        unreadable: files that are missing or damaged.
        left_out: files for which there was no room.
    """

    encoded: Mapping[Path, str]
    side: int
    unreadable: int
    left_out: int


def thumbnails(paths: Sequence[Path], budget: int) -> Pictures:
    """Thumbnails of all files, smaller ones where there are many; the first ones where too many.

    Args:
        paths: of image files, no two the same, those that matter most first.
        budget: characters of base64 that all may take.

    Returns:
        The same for the same files. A file that cannot be read is counted, never an error.
    """
    with (
        ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool,
        active().progress("Thumbnails", len(paths)) as advance,
    ):
        side, quality = _level(paths, budget, pool)
        encoded: dict[Path, str] = {}
        unreadable = used = seen = 0
        for start in range(0, len(paths), _BATCH):
            batch = paths[start : start + _BATCH]
            found = pool.map(lambda path: _encoded(path, side, quality), batch)
            for path, text in zip(batch, found, strict=True):
                if text is None:
                    unreadable += 1
                elif used + len(text) <= budget:
                    encoded[path] = text
                    used += len(text)
                else:
                    return Pictures(encoded, side, unreadable, len(paths) - seen)
                seen += 1
            advance(len(batch))
    return Pictures(encoded, side, unreadable, 0)


def _level(paths: Sequence[Path], budget: int, pool: ThreadPoolExecutor) -> tuple[int, int]:
    """The largest side at which all files should fit, judged by some of them; else the least."""
    sample = paths[:: -(-len(paths) // _SAMPLE)] if paths else ()
    for side, quality in LEVELS[:-1]:
        lengths = list(_lengths(sample, side, quality, pool))
        if not lengths or sum(lengths) / len(lengths) * len(paths) * _MARGIN <= budget:
            return side, quality
    return LEVELS[-1]


def _lengths(
    paths: Sequence[Path], side: int, quality: int, pool: ThreadPoolExecutor
) -> Iterator[int]:
    for text in pool.map(lambda path: _encoded(path, side, quality), paths):
        if text is not None:
            yield len(text)


def _encoded(path: Path, side: int, quality: int) -> str | None:
    """Base64 of the image as WebP within a square of that side; None where it cannot be read."""
    try:
        with opened_image(path) as (image, _):
            # A JPEG is decoded at a fraction of its size, far faster.
            image.draft("RGB", (2 * side, 2 * side))
            small = to_rgb(image)
    except (BadImageError, CaptError, OSError, ValueError):
        return None
    return base64.b64encode(webp(small, side, quality)).decode("ascii")


def webp(image: Image.Image, side: int, quality: int) -> bytes:
    """An RGB image as WebP, made smaller where it does not fit into a square of that side."""
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    image.save(buffer, format="WEBP", quality=quality, method=4)
    return buffer.getvalue()
