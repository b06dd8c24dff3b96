"""Decoding image files of unknown origin: bounded, silent, and named for what they are.

A decoder never sees more than `LARGEST_FILE` bytes or `LARGEST_PIXELS` pixels. What it prints or
raises becomes a `BadImageError`; its warnings concern what no pixel depends on (damaged EXIF
entries, palettes with transparency), and are dropped.
"""

from __future__ import annotations

import ctypes
import logging
import re
import stat
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError, _imaging

from capt_core.data.file_kinds import identified, unsupported
from capt_core.data.scan import CAMERA_ENDINGS
from capt_core.errors import CaptError, reason

LARGEST_FILE = 1024**3
"""Bytes of an image file: 100 megapixels in 16 bits take 600 MB."""
LARGEST_PIXELS = 178_956_970
"""What Pillow, too, refuses by default; cameras of 100 megapixels exist."""
LARGEST_RATIO = 100
"""Of the longer to the shorter side: the shorter one is resized to the model's image size."""
LARGE_FILE, LARGE_PIXELS = 64 * 1024**2, 2**26
"""Images above either are decoded one at a time, so that threads do not add up their memory."""
LARGEST_TILE = 2**24
"""Pixels of a TIFF tile, which is decoded whole however small its image; usual are 256 x 256."""

LARGEST_SCANS = 100
"""Passes of a progressive JPEG over its picture; usual are 10, and libtiff has this bound, too.

A pass takes 70 bytes and, at 50 megapixels, 0.06 s: 20 MB of them would take hours.
"""
# Marker, length and number of components, of which the length follows.
_SCAN = re.compile(rb"\xff\xda\x00(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")

# Pillow's other formats are left out: they hold no photographs, have no signature, or are handed to
# another program (EPS is run by Ghostscript).
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

_turn = threading.RLock()

# Both would reach the user without the image's name. An error that matters is raised as well.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())


def _silence_libtiff() -> None:
    """Stop Pillow's libtiff from printing its errors; Pillow raises those that matter."""
    try:
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)
    except (AttributeError, OSError, TypeError):
        return  # linked in a way that shows no such function


_silence_libtiff()


class BadImageError(CaptError):
    """An image that cannot be used; the message says why, without its name."""


def file_size(path: Path) -> int:
    """Size in bytes of an image file, which is not opened.

    Raises:
        BadImageError: no regular file, or its size is out of bounds.
        OSError: it cannot be looked up.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        # Opening a pipe would wait for ever.
        raise BadImageError("not a file")
    _check_bytes(status.st_size)
    return status.st_size


def read_file(path: Path) -> bytes:
    """The bytes of an image file, at most `LARGEST_FILE`.

    Raises:
        BadImageError: no regular file, or its size is out of bounds.
        OSError: it cannot be read.
    """
    file_size(path)
    with path.open("rb") as stream:
        content = stream.read(LARGEST_FILE + 1)
    _check_bytes(len(content))
    return content


def _check_bytes(size: int) -> None:
    if not size:
        raise BadImageError("empty, 0 bytes")
    if size > LARGEST_FILE:
        limit = f"{LARGEST_FILE / 1e9:.1f} GB"
        raise BadImageError(f"{size / 1e9:.1f} GB, more than the {limit} that an image may take")


@contextmanager
def opened(
    content: bytes, suffix: str = "", most_pixels: int = LARGEST_PIXELS
) -> Iterator[Image.Image]:
    """Open an image of which only the header has been read, and bound its pixels.

    Args:
        content: the file.
        suffix: of its name.
        most_pixels: that it may have.

    Raises:
        BadImageError: here or in the body: no image of the known formats, out of bounds, damaged.
    """
    _check_bytes(len(content))
    try:
        with Image.open(BytesIO(content), formats=_formats()) as image:
            check_sides(image.size, most_pixels)
            if image.format == "TIFF":
                _check_tiff(_tags(image), suffix)
            if image.format in ("JPEG", "MPO"):
                _check_scans(content)
            large = image.width * image.height > LARGE_PIXELS
            with _turn if large else nullcontext():
                yield image
    except CaptError:
        raise
    except Image.DecompressionBombError as error:
        # Raised before the sides are known here; its limit need not be the one in force.
        found = re.search(r"\d+ pixels", str(error))
        sides = f"{found[0]}: " if found else ""
        raise BadImageError(f"{sides}{_too_many(most_pixels)}") from error
    except UnidentifiedImageError as error:
        # Pillow's message quotes the address of the buffer.
        raise BadImageError(identified(content, suffix)) from error
    except Exception as error:
        # Damaged bytes make decoders raise nearly everything.
        raise BadImageError(problem_of(error)) from error


@contextmanager
def large_turn(size: int) -> Iterator[None]:
    """Wait for one's turn to hold a file of more than `LARGE_FILE` bytes."""
    with _turn if size > LARGE_FILE else nullcontext():
        yield


def check_sides(size: tuple[int, int], most_pixels: int = LARGEST_PIXELS) -> None:
    """Refuse an image by its width and height in pixels, or as larger than `most_pixels`.

    Raises:
        BadImageError: no pixels, too many, or a strip that resizing would blow up.
    """
    short, long = min(size), max(size)
    sides = f"{size[0]} x {size[1]} pixels"
    if short < 1:
        raise BadImageError(f"{sides}: no picture")
    if short * long > most_pixels:
        raise BadImageError(f"{sides}: {_too_many(most_pixels)}")
    if long > LARGEST_RATIO * short:
        raise BadImageError(f"{sides}: one side is more than {LARGEST_RATIO} times the other")


def _too_many(most: int) -> str:
    return f"more than the {most // 10**6} million pixels that an image may have"


def _check_scans(content: bytes) -> None:
    scans = sum(1 for _ in _SCAN.finditer(content))
    if scans > LARGEST_SCANS:
        raise BadImageError(
            f"a JPEG of {scans} passes, more than {LARGEST_SCANS}; save it anew as a usual JPEG"
        )


def is_deep(image: Image.Image) -> bool:
    """Whether an image holds grey values of up to 16 bits, from 0."""
    # Pillow spreads those of a PGM file over 16 bits.
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB; grey values of more than 8 bits keep their contrast.

    Raises:
        BadImageError: values whose range is not known (32 bits, signed).
    """
    mode, tags = image.mode, _tags(image)
    if is_deep(image):
        white = 2 ** int(tags.get(_BITS, (16,))[0]) - 1
        scaled = grey_levels(white, inverted=tags.get(_PHOTOMETRIC) == 0)[np.asarray(image)]
        return Image.fromarray(scaled).convert("RGB")
    if mode in ("I", "F") or 2 in tags.get(_SAMPLE_FORMAT, ()):
        what = "32-bit or signed" if mode == "I" else "floating-point" if mode == "F" else "signed"
        raise BadImageError(
            f"{what} pixels (mode {mode}), whose range is not known; save it with 8 or 16 bits"
        )
    if "transparency" in image.info:
        # Of no effect on RGB values, but Pillow warns of some forms. The copy spares the caller's.
        image = image.copy()
        del image.info["transparency"]
    if mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[mode])
    return image.convert("RGB")


_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _DNG_VERSION = 258, 262, 339, 50706
_TILE_SIDES = (322, 323)


@cache
def grey_levels(white: int, inverted: bool = False) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """8-bit grey for every 16-bit value v: floor(255 v / white), at most 255; [65536] uint8."""
    levels = np.minimum(np.arange(2**16) * 255 // white, 255).astype(np.uint8)
    return 255 - levels if inverted else levels


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """TIFF tags by number; none of other formats."""
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    return tags


def _check_tiff(tags: Mapping[int, Any], suffix: str) -> None:
    # Raw photographs are TIFF files whose first picture is a small preview.
    if suffix.lower() in CAMERA_ENDINGS:
        raise BadImageError(unsupported(suffix))
    if _DNG_VERSION in tags:
        raise BadImageError("a raw photograph (DNG), which is not supported, save as JPEG")
    width, height = (tags.get(key, 1) for key in _TILE_SIDES)
    if width * height > LARGEST_TILE:
        raise BadImageError(f"{width} x {height} pixels in one tile")


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def problem_of(error: BaseException) -> str:
    """Why an image cannot be used, by what reading or decoding it raised: one short line."""
    if isinstance(error, BadImageError):
        return str(error)
    if isinstance(error, MemoryError):
        return "takes more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, ValueError) and "null byte" in str(error):
        return "a file name with a NUL character"
    if not str(error):  # an assertion of a decoder
        return "damaged, so that its decoder fails"
    return reason(error)
