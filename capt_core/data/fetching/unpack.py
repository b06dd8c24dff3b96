"""Unpacking archives: nothing leaves the folder, and it is all there or not at all."""

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

from capt_core.data.fetching.download import RESERVE, check_room
from capt_core.errors import CaptError

_CHUNK = 1 << 20
_BROKEN_FORMAT = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
# An encrypted or oddly compressed member of a zip file is a RuntimeError.
_BROKEN = (*_BROKEN_FORMAT, EOFError, OSError, RuntimeError)

# Name of a member, and a function that opens its content.
Member = tuple[str, Callable[[], IO[bytes]]]


def unpack(
    archive: Path,
    folder: Path,
    places: Mapping[str, str],
    advance: Callable[[int], None] = lambda _: None,
) -> int:
    """Unpack the members below some prefixes of a tar or zip archive.

    All of them are first unpacked beside their destination. Files that are there already are
    replaced, other files stay.

    Args:
        archive: .tar, .tar.gz, .tgz or .zip.
        folder: the data set's folder.
        places: prefix of members to what takes its place below `folder`.
        advance: told 1 per file.

    Returns:
        How many files were unpacked.

    Raises:
        CaptError: a damaged archive, a member that would leave the folder or is no plain file, no
            member below a prefix, or no room.
    """
    count = 0
    with _staging(folder, archive.name) as staging, _reading(archive):
        for name, opened in _members(archive, folder):
            place = _place(name, places)
            if place is not None:
                _write(opened, staging / place, folder, archive)
                count += 1
                advance(1)
        if not count:
            raise CaptError(
                f"{archive}: holds nothing below {' or '.join(map(repr, places))}; it is another "
                "archive than the one expected"
            )
        _move(staging, folder)
    return count


def unpack_class_archives(
    archive: Path, folder: Path, place: str, advance: Callable[[int], None] = lambda _: None
) -> int:
    """Unpack an archive of archives, one per class: ImageNet's training images.

    Args:
        archive: a tar file of ``<class>.tar`` files.
        folder: the data set's folder.
        place: folder below it that takes one folder per class.
        advance: told 1 per file.

    Returns:
        How many files were unpacked.

    Raises:
        CaptError: as `unpack`.
    """
    count = 0
    with _staging(folder, archive.name) as staging, _reading(archive):
        for name, opened in _members(archive, folder):
            if not name.endswith(".tar"):
                continue
            with opened() as stream, tarfile.open(fileobj=stream, mode="r:") as inner:
                for image, opened_image in _tar_members(inner, archive):
                    target = staging / place / Path(name).stem / image
                    _write(opened_image, target, folder, archive)
                    count += 1
                    advance(1)
        if not count:
            raise CaptError(f"{archive}: holds no class archives; it is another archive")
        _move(staging, folder)
    return count


def _members(archive: Path, folder: Path) -> Iterator[Member]:
    """Plain files of an archive in its order."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            check_room(folder, sum(info.file_size for info in opened.infolist()), archive.name)
            for info in opened.infolist():
                _check_name(info.filename, archive)
                if (info.external_attr >> 16) & 0o170000 == 0o120000:
                    raise CaptError(f"{archive}: member {info.filename!r} is a link; refused")
                if not info.is_dir():
                    yield info.filename, lambda info=info: opened.open(info)  # type: ignore[misc]
        return
    check_room(folder, archive.stat().st_size, archive.name)
    with tarfile.open(archive) as opened_tar:
        yield from _tar_members(opened_tar, archive)
        # tarfile takes a file that was cut off between two members for a whole one.
        stream = opened_tar.fileobj
        assert stream is not None
        stream.seek(opened_tar.offset)
        if len(stream.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
            raise CaptError(f"{archive}: ends without its end mark; delete it and get it anew")


def _tar_members(opened: tarfile.TarFile, archive: Path) -> Iterator[Member]:
    for member in opened:
        _check_name(member.name, archive)
        if member.isdir():
            continue
        if not (member.isreg() or member.islnk() or member.issym()):
            raise CaptError(f"{archive}: member {member.name!r} is no plain file; refused")
        # The content of a link is that of the member it points to; anything else is refused.
        yield member.name.removeprefix("./"), lambda m=member: _content(opened, m, archive)  # type: ignore[misc]


def _content(opened: tarfile.TarFile, member: tarfile.TarInfo, archive: Path) -> IO[bytes]:
    try:
        stream = opened.extractfile(member)
    except (KeyError, RecursionError):
        stream = None
    if stream is None:
        raise CaptError(
            f"{archive}: member {member.name!r} links to {member.linkname!r}, which is not in the "
            "archive; refused"
        )
    return stream


def _check_name(name: str, archive: Path) -> None:
    parts = name.replace("\\", "/").split("/")
    drive = len(parts[0]) == 2 and parts[0].endswith(":")
    if name.startswith(("/", "\\")) or ".." in parts or drive or "\0" in name:
        raise CaptError(
            f"{archive}: member {name!r} would leave the folder; nothing was unpacked, do not use "
            "this archive"
        )


def _place(name: str, places: Mapping[str, str]) -> str | None:
    """Where a member goes, by the longest prefix; None if it is not wanted."""
    for prefix in sorted(places, key=len, reverse=True):
        if name == prefix:
            return places[prefix]
        if name.startswith(prefix) and (not prefix or prefix.endswith("/")):
            return places[prefix] + name[len(prefix) :]
    return None


def _write(opened: Callable[[], IO[bytes]], target: Path, folder: Path, archive: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with opened() as source, target.open("wb") as sink:
        while data := source.read(_CHUNK):
            if shutil.disk_usage(folder).free < RESERVE + len(data):
                raise CaptError(f"{folder}: no room left to unpack {archive.name}; free some space")
            sink.write(data)


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        reason = " ".join(str(error).split())
        raise CaptError(
            f"{archive}: cannot be unpacked ({reason}); delete it if it is damaged, then run the "
            "same command again"
        ) from error


@contextmanager
def _staging(folder: Path, name: str) -> Iterator[Path]:
    staging = folder / f".{name}.unpacking"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move(source: Path, target: Path) -> None:
    """Move a folder's content into another: whole folders at once where they are new."""
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            _move(entry, place)
        else:
            entry.replace(place)
