"""Pages that need nothing but themselves: their templates, and images as data URIs."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from PIL import Image

from capt_core.data.images import open_image

LARGEST_SIDE = 160
_PIXEL_ART_SIDE = 96


def page_template(name: str, **filters: Callable[..., object]) -> Template:
    """A packaged template; `svg_uri` and the given filters can be used in it."""
    environment = Environment(
        loader=PackageLoader("capt_core.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg_uri"] = lambda svg: data_uri(svg, "image/svg+xml")
    environment.filters.update(filters)
    return environment.get_template(name)


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as a ``data:`` URI of the given media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


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
