"""Finding the image files below a folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from capt_core.errors import CaptError
from capt_core.text import normal

_READABLE = {".apng", ".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".pbm"}
_READABLE |= {".pgm", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
# Photographs that Pillow does not open: listed, so that they are named instead of passed over.
CAMERA_ENDINGS = frozenset(
    {".arw", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".jxl", ".nef", ".orf", ".raf", ".rw2"}
)
IMAGE_ENDINGS = _READABLE | CAMERA_ENDINGS
# Folders of systems and tools begin with one of these, or have one of the names: .git, @eaDir,
# #recycle, $RECYCLE.BIN, ~snapshot, __MACOSX, _unlabeled.
SYSTEM_MARKS = (".", "_", "@", "#", "$", "~")
_SYSTEM_NAMES = {"found.000", "lost+found", "network trash folder", "recycled", "recycler"}
_SYSTEM_NAMES |= {"system volume information", "temporary items"}

BROKEN_LINK = "a link to something that does not exist"


@dataclass
class Found:
    """Files below a folder, relative to it, with forward slashes.

    Attributes:
        images: by their ending, in the order of their names' code points.
        others: files with other endings.
        problems: what cannot be listed, with the reason.
        system: folders of the system and of tools, which are not looked into.
        hidden: hidden files with the ending of an image, such as ``._x.jpg``.
    """

    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    system: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)


def is_system_folder(name: str) -> bool:
    """Whether a folder's name says that it is of the system or of a tool, and no class."""
    return name.startswith(SYSTEM_MARKS) or name.lower() in _SYSTEM_NAMES


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; those of the system and of tools left out.

    Raises:
        CaptError: the folder cannot be read.
    """
    return sorted(
        entry.name
        for entry in _entries(folder)
        if _is_dir(entry) and not is_system_folder(entry.name)
    )


def system_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder that are of the system or of tools, sorted.

    Raises:
        CaptError: the folder cannot be read.
    """
    return sorted(
        entry.name for entry in _entries(folder) if _is_dir(entry) and is_system_folder(entry.name)
    )


def broken_links(folder: Path) -> list[str]:
    """Names of the links in a folder that lead nowhere, sorted; hidden ones left out.

    Nothing says whether such a link stood for a file or for a folder of images.

    Raises:
        CaptError: the folder cannot be read.
    """
    return sorted(
        entry.name
        for entry in _entries(folder)
        if not is_system_folder(entry.name) and _leads_nowhere(entry)
    )


def find_images(folder: Path) -> Found:
    """List all files below a folder, following links to folders.

    Hidden files are left out, and so are folders of the system and of tools.

    Raises:
        CaptError: a folder cannot be read.
    """
    found = Found()
    _walk(folder, "", found, ())
    found.images.sort()
    return found


def files_in(folder: Path) -> list[str]:
    """Names of the files that lie in a folder itself, sorted; hidden ones left out.

    Raises:
        CaptError: the folder cannot be read, or holds a pipe, whose reader would wait for ever.
    """
    names = []
    for entry in _entries(folder):
        if entry.name.startswith(".") or _is_dir(entry):
            continue
        if _is_special(entry):
            raise CaptError(
                f"{folder / entry.name}: a pipe, socket or device, not a file; move it away"
            )
        names.append(entry.name)
    return sorted(names)


def own_images(folder: Path) -> list[str]:
    """Names of the images that lie in a folder itself, sorted.

    Raises:
        CaptError: the folder cannot be read.
    """
    return [name for name in files_in(folder) if is_image_name(name)]


def holds_images(folder: Path) -> bool:
    """Whether an image lies in a folder or below it.

    Raises:
        CaptError: a folder cannot be read.
    """
    return _holds_images(folder, set())


def _holds_images(folder: Path, seen: set[tuple[int, int]]) -> bool:
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in seen:
        return False
    seen.add(here)
    below = []
    for entry in _entries(folder):
        if _is_dir(entry):
            below += [] if is_system_folder(entry.name) else [entry.name]
        elif is_image_name(entry.name) and not entry.name.startswith("."):
            return True
    return any(_holds_images(folder / name, seen) for name in sorted(below))


def spelled_on_disk(root: Path, path: str, known: dict[str, dict[str, str]]) -> str:
    """A path below a folder as the file system spells it, where it writes letters otherwise.

    Args:
        root: the folder.
        path: relative to it, with forward slashes.
        known: names of folders that were looked into; filled by calls with the same root.

    Returns:
        The path of the file with the same name in Unicode's normal form; `path` if there is none.
    """
    if path.isascii() or os.path.exists(root / path):
        return path
    spelled = ""
    for part in path.split("/"):
        if spelled not in known:
            try:
                names = sorted(os.listdir(root / spelled))
            except OSError:
                return path
            known[spelled] = {normal(name): name for name in names}
        found = known[spelled].get(normal(part))
        if found is None:
            return path
        spelled = f"{spelled}/{found}" if spelled else found
    return spelled


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


def as_text(name: str) -> str:
    """A name as text that can be stored: bytes that are no UTF-8 are escaped."""
    return name if is_utf8(name) else os.fsencode(name).decode("utf-8", "backslashreplace")


def _walk(folder: Path, prefix: str, found: Found, above: tuple[tuple[int, int], ...]) -> None:
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        found.problems.append((prefix.rstrip("/"), "a link that leads back to a folder above it"))
        return
    for entry in _entries(folder):
        name = f"{prefix}{entry.name}"
        if _is_dir(entry):
            if is_system_folder(entry.name):
                found.system.append(name)
            elif not is_utf8(entry.name):
                found.problems.append((name, "a folder name that is not valid UTF-8"))
            else:
                _walk(folder / entry.name, f"{name}/", found, (*above, here))
        elif entry.name.startswith("."):
            if is_image_name(entry.name):
                found.hidden.append(name)
        elif not is_utf8(entry.name):
            found.problems.append((name, "a file name that is not valid UTF-8"))
        elif is_image_name(entry.name):
            found.images.append(name)
        elif _leads_nowhere(entry):
            found.problems.append((name, BROKEN_LINK))
        else:
            found.others.append(name)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.lower() not in ("thumbs.db", "desktop.ini"):
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


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def _is_special(entry: os.DirEntry[str]) -> bool:
    try:
        mode = entry.stat().st_mode
    except OSError:  # a link that leads nowhere
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
