"""Finding the image files below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from capt_core.errors import CaptError

_READABLE = {".apng", ".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".pbm"}
_READABLE |= {".pgm", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
# Photographs that Pillow does not open: listed, so that they are named instead of passed over.
CAMERA_ENDINGS = frozenset(
    {".arw", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".jxl", ".nef", ".orf", ".raf", ".rw2"}
)
IMAGE_ENDINGS = _READABLE | CAMERA_ENDINGS


@dataclass
class Found:
    """Files below a folder, relative to it, with forward slashes.

    Attributes:
        images: by their ending, in the order of their names' code points.
        others: files with other endings.
        problems: what cannot be listed, with the reason.
    """

    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones and archive leftovers left out.

    Raises:
        CaptError: the folder cannot be read.
    """
    return sorted(entry.name for entry in _entries(folder) if _is_dir(entry))


def find_images(folder: Path) -> Found:
    """List all files below a folder, following links to folders; hidden files are left out.

    Raises:
        CaptError: a folder cannot be read.
    """
    found = Found()
    _walk(folder, "", found, ())
    found.images.sort()
    return found


def is_image_name(name: str) -> bool:
    """Whether a file's ending says that it is an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_ENDINGS


def is_utf8(name: str) -> bool:
    """Whether a name can be stored as text; file names may hold any bytes."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _walk(folder: Path, prefix: str, found: Found, above: tuple[tuple[int, int], ...]) -> None:
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        found.problems.append((prefix.rstrip("/"), "a link that leads back to a folder above it"))
        return
    for entry in _entries(folder):
        name = f"{prefix}{entry.name}"
        if _is_dir(entry):
            _walk(folder / entry.name, f"{name}/", found, (*above, here))
        elif not is_utf8(entry.name):
            found.problems.append((name, "a file name that is not valid UTF-8"))
        elif is_image_name(entry.name):
            found.images.append(name)
        else:
            found.others.append(name)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.name not in ("__MACOSX", "Thumbs.db"):
                    yield entry
    except OSError as error:
        raise CaptError(
            f"{folder}: cannot be listed ({error.strerror}); check its permissions"
        ) from error


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False
