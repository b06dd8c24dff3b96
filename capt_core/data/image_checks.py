"""Looking at image files: what cannot be used, and what is used differently than it looks."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Literal

from PIL import Image, UnidentifiedImageError

from capt_core.data.images import to_rgb
from capt_core.data.parquet_images import in_table, read_row
from capt_core.data.scan import CAMERA_ENDINGS
from capt_core.errors import one_line

ImageLook = Literal["decode", "exists", "none"]

# What is remarkable about a readable image: how it is used, and what mends it.
REMARKS = {
    "EXIF-rotated": (
        "used without its rotation, as the field's code does",
        "mogrify -auto-orient FILE",
    ),
    "animated": ("its first frame is used", "convert 'FILE[0]' FILE"),
    "transparent": (
        "its transparency is dropped",
        "mogrify -background white -alpha remove FILE",
    ),
    "CMYK": ("converted to RGB without its colour profile", "mogrify -colorspace sRGB FILE"),
    "16-bit": ("reduced to 8 bits", "nothing, unless its values are not spread over 16 bits"),
    "palette": ("converted to RGB", "nothing"),
    "grey": ("converted to RGB", "nothing"),
}
# Those that can change what a class looks like.
TELLING = ("EXIF-rotated", "animated", "transparent", "CMYK")
_ORIENTATION = 0x0112
_CHUNK = 1024


@dataclass(frozen=True)
class ImageCheck:
    """What was found of an image file.

    Attributes:
        problem: why it cannot be used; None if it can.
        digest: SHA-256 of its bytes; its size where only that was looked at.
        remarks: keys of `REMARKS`.
    """

    problem: str | None
    digest: str
    remarks: tuple[str, ...] = ()


def check_image(path: Path, look: ImageLook) -> ImageCheck:
    """Look at one image file.

    Args:
        path: the file, or a row of a Parquet file.
        look: `decode` reads all pixels and digests all bytes, `exists` takes the file's size for
            its digest, `none` does not touch the file.
    """
    if look == "none":
        return ImageCheck(None, "")
    try:
        if in_table(path):
            content = read_row(path)
            if look == "exists":
                return ImageCheck(None, str(len(content)))
        else:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                return ImageCheck("unreadable: not a file", "")
            if status.st_size == 0:
                return ImageCheck("unreadable: empty, 0 bytes", "")
            if look == "exists":
                return ImageCheck(None, str(status.st_size))
            content = path.read_bytes()
        with Image.open(BytesIO(content)) as image:
            remarks = remarks_on(image)
            to_rgb(image)
    except FileNotFoundError:
        return ImageCheck("missing", "")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return ImageCheck(f"unreadable: {_reason(path, error)}", "")
    return ImageCheck(None, hashlib.sha256(content).hexdigest(), remarks)


def remarks_on(image: Image.Image) -> tuple[str, ...]:
    """Keys of `REMARKS` that hold for an opened image; its pixels are not read for it."""
    found = {
        "EXIF-rotated": image.getexif().get(_ORIENTATION, 1) not in (0, 1),
        # A JPEG of several pictures (MPO) is an ordinary photograph with previews.
        "animated": image.format != "MPO" and bool(getattr(image, "is_animated", False)),
        "transparent": image.has_transparency_data,
        "CMYK": image.mode == "CMYK",
        "16-bit": image.mode.startswith("I;16"),
        "palette": image.mode in ("P", "PA"),
        "grey": image.mode in ("1", "L", "LA"),
    }
    return tuple(name for name, holds in found.items() if holds)


def check_images(paths: Iterable[Path], look: ImageLook, workers: int) -> Iterator[ImageCheck]:
    """`check_image` of many files in order, by several threads."""
    if look == "none":  # threads would take most of the time of listing a million images
        yield from (ImageCheck(None, "") for _ in paths)
        return
    upcoming = iter(paths)
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        while chunk := list(islice(upcoming, _CHUNK)):
            yield from pool.map(lambda path: check_image(path, look), chunk)


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        # Pillow's message quotes the address of the buffer.
        camera = path.suffix.lower() in CAMERA_ENDINGS
        return f"{path.suffix} files are not supported, save as JPEG" if camera else "not an image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(str(error))
