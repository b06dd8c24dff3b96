"""Example images as data URIs."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from capt_core.data.images import open_image
from capt_core.reporting.html import data_uri

LARGEST_SIDE = 160
_PIXEL_ART_SIDE = 96


@dataclass(frozen=True)
class Thumbnail:
    """A square image ready for an ``<img>``.

    Attributes:
        uri: the whole image as a ``data:`` URI.
        side: its width and height in pixels.
        pixelated: so small that it should be enlarged without smoothing.
    """

    uri: str
    side: int
    pixelated: bool


def thumbnail(path: Path) -> Thumbnail:
    """Centre square of an image (what the model sees of it), at most 160 pixels a side.

    Raises:
        CaptError: the image is missing or not readable.
    """
    image = open_image(path)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    if side <= _PIXEL_ART_SIDE:
        return Thumbnail(_encode(square, "png"), side, True)
    shown = min(side, LARGEST_SIDE)
    small = square.resize((shown, shown), Image.Resampling.LANCZOS)
    return Thumbnail(_encode(small, "jpeg"), shown, False)


def _encode(image: Image.Image, kind: str) -> str:
    buffer = BytesIO()
    if kind == "png":
        image.save(buffer, format="PNG", optimize=True)
    else:
        image.save(buffer, format="JPEG", quality=82, optimize=True)
    return data_uri(buffer.getvalue(), f"image/{kind}")
