"""Unpacking archives: nothing is written outside the folder, and all files appear or none."""

from __future__ import annotations

import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from capt_core.data.fetching.download import RESERVE, check_room, writing
from capt_core.errors import CaptError, reason, shown

_CHUNK = 1 << 20
_BROKEN_FORMAT = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
# An encrypted or oddly compressed member of a zip file is a RuntimeError.
_BROKEN = (*_BROKEN_FORMAT, EOFError, OSError, RuntimeError)

# Images are compressed already: what unpacks to many times its size is meant to fill a disk.
BOMB_RATIO = 100
_ALWAYS_ALLOWED = 64 * 1024**2

# Name of a member, and a function that opens its content.
Member = tuple[str, Callable[[], IO[bytes]]]


def unpack(
    archive: Path,
    folder: Path,
    places: Mapping[str, str],
    advance: Callable[[int], None] = lambda _: None,
) -> int:
    """Unpack the members below some prefixes of a tar or zip archive.

    All of them are first unpacked into a folder next to their destination. Files that exist are
    replaced, other files stay.

    Args:
        archive: .tar, .tar.gz, .tgz or .zip.
        folder: the data set's folder.
        places: prefix of members to what takes its place below `folder`.
        advance: called with 1 for each file.

    Returns:
        How many files were unpacked.

    Raises:
        CaptError: a damaged archive, a member that would leave the folder or is not a regular
            file, no member below a prefix, or no room.
    """
    count = 0
    with _staging(folder, archive) as staging, _reading(archive):
        for name, opened in _members(archive, folder):
            place = _place(name, places)
            if place is not None:
                staging.write(opened, place)
                count += 1
                advance(1)
        if not count:
            raise CaptError(
                f"{archive}: holds nothing below {' or '.join(map(repr, places))}; it is another "
                "archive than the one expected"
            )
        _move(staging.path, folder)
    return count


def unpack_class_archives(
    archive: Path, folder: Path, place: str, advance: Callable[[int], None] = lambda _: None
) -> int:
    """Unpack an archive of archives, one per class: ImageNet's training images.

    Args:
        archive: a tar file of ``<class>.tar`` files.
        folder: the data set's folder.
        place: folder below it that takes one folder per class.
        advance: called with 1 for each file.

    Returns:
        How many files were unpacked.

    Raises:
        CaptError: as `unpack`.
    """
    count = 0
    with _staging(folder, archive) as staging, _reading(archive):
        for name, opened in _members(archive, folder):
            if not name.endswith(".tar"):
                continue
            with opened() as stream, tarfile.open(fileobj=stream, mode="r:") as inner:
                for image, opened_image in _tar_members(inner, archive):
                    target = _checked_name(f"{Path(name).stem}/{image}", archive)
                    staging.write(opened_image, f"{place}/{target}")
                    count += 1
                    advance(1)
        if not count:
            raise CaptError(f"{archive}: holds no class archives; it is another archive")
        _move(staging.path, folder)
    return count


def _members(archive: Path, folder: Path) -> Iterator[Member]:
    """Regular files of an archive in its order."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            check_room(folder, sum(info.file_size for info in opened.infolist()), archive.name)
            for info in opened.infolist():
                name = _checked_name(info.filename, archive)
                if (info.external_attr >> 16) & 0o170000 == 0o120000:
                    raise CaptError(f"{archive}: member {shown(info.filename)} is a link; refused")
                if not info.is_dir():
                    yield name, lambda info=info: opened.open(info)  # type: ignore[misc]
        return
    check_room(folder, archive.stat().st_size, archive.name)
    with tarfile.open(archive) as opened_tar:
        yield from _tar_members(opened_tar, archive)
        # tarfile does not notice a file that was cut off between two members.
        stream = opened_tar.fileobj
        assert stream is not None
        stream.seek(opened_tar.offset)
        if len(stream.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
            raise CaptError(f"{archive}: ends without its end mark; delete it and get it again")


def _tar_members(opened: tarfile.TarFile, archive: Path) -> Iterator[Member]:
    for member in opened:
        name = _checked_name(member.name, archive)
        if member.isdir():
            continue
        if not (member.isreg() or member.islnk() or member.issym()):
            raise CaptError(
                f"{archive}: member {shown(member.name)} is not a regular file; refused"
            )
        # The content of a link is that of the member it points to; anything else is refused.
        yield name, lambda m=member: _content(opened, m, archive)  # type: ignore[misc]


def _content(opened: tarfile.TarFile, member: tarfile.TarInfo, archive: Path) -> IO[bytes]:
    try:
        stream = opened.extractfile(member)
    except (KeyError, RecursionError):
        stream = None
    if stream is None:
        raise CaptError(
            f"{archive}: member {shown(member.name)} links to {shown(member.linkname)}, which is "
            "not in the archive; refused"
        )
    return stream


def _checked_name(name: str, archive: Path) -> str:
    """A member's name without empty and `.` parts: ``a//b`` below ``a/`` would be absolute."""
    parts = name.replace("\\", "/").split("/")
    drive = len(parts[0]) == 2 and parts[0].endswith(":")
    if name.startswith(("/", "\\")) or ".." in parts or drive or "\0" in name:
        raise CaptError(
            f"{archive}: member {shown(name)} would leave the folder; nothing was unpacked, "
            "do not use this archive"
        )
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _place(name: str, places: Mapping[str, str]) -> str | None:
    """Where a member goes, by the longest prefix; None if it is not wanted."""
    for prefix in sorted(places, key=len, reverse=True):
        if name == prefix:
            return places[prefix]
        if name.startswith(prefix) and (not prefix or prefix.endswith("/")):
            return places[prefix] + name[len(prefix) :]
    return None


class _Staging:
    """A folder next to the destination that holds members until all of them are unpacked."""

    def __init__(self, folder: Path, archive: Path) -> None:
        self.path = folder / f".{archive.name}.unpacking"
        self._archive = archive
        self._left = max(_ALWAYS_ALLOWED, BOMB_RATIO * archive.stat().st_size)

    def write(self, opened: Callable[[], IO[bytes]], place: str) -> None:
        target = self.path / place
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened() as source, target.open("wb") as sink:
            while data := source.read(_CHUNK):
                self._left -= len(data)
                if self._left < 0:
                    raise CaptError(
                        f"{self._archive}: unpacks to more than {BOMB_RATIO} times its size, as no "
                        "archive of images does; nothing was unpacked, do not use it"
                    )
                if shutil.disk_usage(self.path).free < RESERVE + len(data):
                    raise CaptError(
                        f"{self.path.parent}: no room left to unpack {self._archive.name}; free "
                        "some space"
                    )
                sink.write(data)


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise CaptError(
            f"{archive}: cannot be unpacked ({reason(error)}); delete it if damaged, then run "
            "the same command again"
        ) from error


@contextmanager
def _staging(folder: Path, archive: Path) -> Iterator[_Staging]:
    staging = _Staging(folder, archive)
    shutil.rmtree(staging.path, ignore_errors=True)
    with writing(staging.path):
        staging.path.mkdir(parents=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging.path, ignore_errors=True)


def _move(source: Path, target: Path) -> None:
    """Move a folder's content into another: a new subfolder in one step."""
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            _move(entry, place)
        elif place.is_dir():
            raise CaptError(f"{place}: a folder is where a file belongs; move it away")
        else:
            entry.replace(place)
