"""Unpacking archives: nothing is written outside the folder, and all files appear or none."""

from __future__ import annotations

import filecmp
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

from capt_core.data.fetching.download import RESERVE, check_room, writing
from capt_core.errors import CaptError, reason, shown

_CHUNK = 1 << 20
# Bytes of a header that says more about the next one: long names, extended attributes.
_LARGEST_EXTENSION = 1 << 15
_AGAIN = "nothing was unpacked; delete it, then run the same command again to get it anew"

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
        CaptError: an archive that is damaged anywhere, a member that would leave the folder or is
            not a regular file, two members in one place, no member below a prefix, or no room.
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
                f"{archive}: holds nothing below {' or '.join(map(shown, places))}; it is another "
                "archive than the one expected"
            )
        staging.arrange()
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
            with opened() as stream, _open_tar(fileobj=stream, mode="r:") as inner:
                for image, opened_image in _tar_members(inner, archive):
                    target = _checked_name(f"{Path(name).stem}/{image}", archive)
                    staging.write(opened_image, f"{place}/{target}")
                    count += 1
                    advance(1)
        if not count:
            raise CaptError(f"{archive}: holds no class archives; it is another archive")
        staging.arrange()
    return count


def _members(archive: Path, folder: Path) -> Iterator[Member]:
    """Regular files of an archive in its order; its end is checked after the last one."""
    with archive.open("rb") as stream:
        zipped = stream.read(2) == b"PK"  # a tar file may hold a zip file's end
    if zipped:
        with zipfile.ZipFile(archive) as opened:
            yield from _zip_members(opened, archive, folder)
    else:
        check_room(folder, archive.stat().st_size, archive.name)
        with _open_tar(archive) as opened_tar:
            yield from _tar_members(opened_tar, archive)


def _zip_members(opened: zipfile.ZipFile, archive: Path, folder: Path) -> Iterator[Member]:
    members = opened.infolist()
    if min((info.header_offset for info in members), default=0):
        # The last of several files in one: its directory does not list what is in the others.
        raise CaptError(f"{archive}: cannot be unpacked (begins with another file); {_AGAIN}")
    check_room(folder, sum(info.file_size for info in members), archive.name)
    for info in members:
        name = _checked_name(info.filename, archive)
        if stat.S_ISLNK(info.external_attr >> 16):
            raise CaptError(f"{archive}: member {shown(name)} is a link; refused")
        if not info.is_dir():
            yield name, lambda info=info: opened.open(info)  # type: ignore[misc]


class _Header(tarfile.TarInfo):
    """A tar header that is refused if reading on by it would go astray."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        header = super().frombuf(buf, encoding, errors)
        extension = header.type in _EXTENSIONS
        if header.size < 0 or (extension and header.size > _LARGEST_EXTENSION):
            raise tarfile.ReadError(f"a header that declares {header.size} bytes")
        return header


_EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


def _open_tar(
    archive: Path | None = None, mode: Literal["r", "r:"] = "r", fileobj: IO[bytes] | None = None
) -> tarfile.TarFile:
    try:
        return tarfile.open(archive, mode, fileobj, tarinfo=_Header)
    except tarfile.ReadError as error:
        # tarfile lists what each of its decompressors said.
        raise tarfile.ReadError("neither a zip nor a tar archive, or damaged at once") from error


def _tar_members(opened: tarfile.TarFile, archive: Path) -> Iterator[Member]:
    for member in _headers(opened):
        name = _checked_name(member.name, archive)
        if member.isdir():
            continue
        if not name:  # the name stands in an extended header, which has no checksum
            raise tarfile.ReadError(f"a file without a name at byte {member.offset}")
        if not (member.isreg() or member.islnk() or member.issym()):
            raise CaptError(f"{archive}: member {shown(name)} is not a regular file; refused")
        # The content of a link is that of the member it points to; anything else is refused.
        yield name, lambda m=member: _content(opened, m, archive)  # type: ignore[misc]
    _check_end(opened, archive)


def _headers(opened: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Members in order, each behind the one before: extended headers can lead back."""
    furthest = -1
    for member in opened:
        if member.size < 0 or member.offset <= furthest:
            raise tarfile.ReadError("a header that leads back")
        furthest = member.offset
        yield member


def _check_end(opened: tarfile.TarFile, archive: Path) -> None:
    """Refuse an archive that goes on where its members end, or ends where it should go on.

    tarfile takes a header that it cannot read for the end.
    """
    stream, at = opened.fileobj, opened.offset
    assert stream is not None
    stream.seek(at)
    block = stream.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        problem = "ends without its end mark"
    elif any(block):
        problem = f"damaged header at byte {at}"
    else:
        problem = ""
        while not problem and (block := stream.read(_CHUNK)):
            at += len(block)
            if any(block):
                problem = "goes on after its end mark"
            elif at - opened.offset > _ALWAYS_ALLOWED:
                problem = "endless zero bytes after its end mark"
    if problem:
        raise CaptError(f"{archive}: cannot be unpacked ({problem}); {_AGAIN}")


def _content(opened: tarfile.TarFile, member: tarfile.TarInfo, archive: Path) -> IO[bytes]:
    try:
        if not member.isreg():
            for _ in _headers(opened):  # tarfile would read all of them, wherever they lead
                pass
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
            f"{archive}: member {shown(name)} would leave the folder; nothing was unpacked, do not "
            "use this archive"
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
        self._folder = folder
        self._archive = archive
        self._left = max(_ALWAYS_ALLOWED, BOMB_RATIO * archive.stat().st_size)

    def write(self, opened: Callable[[], IO[bytes]], place: str) -> None:
        """Write a member's content; the same content may come twice, other content may not."""
        target, second = self.path / place, self.path.with_name(f"{self.path.name}.second")
        self._spend(tarfile.BLOCKSIZE)  # also empty files fill a disk
        with _reading(self._archive):
            source = opened()
        with source, self._writing(place):
            target.parent.mkdir(parents=True, exist_ok=True)
            # By the file system's idea of equal names: case may not matter to it.
            taken = target.exists()
            with (second if taken else target).open("wb") as sink:
                for data in self._chunks(source):
                    sink.write(data)
            if taken:
                same = filecmp.cmp(target, second, shallow=False)
                second.unlink()
                if not same:
                    raise self._two(place, "two files")

    def arrange(self) -> None:
        """Move everything to its place, unless something else is in the way."""
        _check_way(self.path, self._folder)
        with writing(self._folder):
            _move(self.path, self._folder)

    def _chunks(self, source: IO[bytes]) -> Iterator[bytes]:
        while True:
            with _reading(self._archive):
                data = source.read(_CHUNK)
            if not data:
                return
            self._spend(len(data))
            if shutil.disk_usage(self.path).free < RESERVE + len(data):
                raise CaptError(
                    f"{self._folder}: no room left to unpack {self._archive.name}; free some space"
                )
            yield data

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise CaptError(
                f"{self._archive}: unpacks to more than {BOMB_RATIO} times its size, as no "
                "archive of images does; nothing was unpacked, do not use it"
            )

    @contextmanager
    def _writing(self, place: str) -> Iterator[None]:
        with writing(self.path):
            try:
                yield
            except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
                raise self._two(place, "a file and a folder") from error

    def _two(self, place: str, what: str) -> CaptError:
        return CaptError(
            f"{self._archive}: holds {what} that would both be {shown(place)}; nothing was unpacked"
        )


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    try:
        yield
    except CaptError:
        raise
    except Exception as error:
        # Damaged bytes make tarfile, zipfile and the decompressors raise nearly everything.
        raise CaptError(f"{archive}: cannot be unpacked ({reason(error)}); {_AGAIN}") from error


@contextmanager
def _staging(folder: Path, archive: Path) -> Iterator[_Staging]:
    with writing(archive):
        staging = _Staging(folder, archive)
    shutil.rmtree(staging.path, ignore_errors=True)
    with writing(staging.path):
        staging.path.mkdir(parents=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging.path, ignore_errors=True)


def _check_way(source: Path, target: Path) -> None:
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if place.is_dir() != entry.is_dir() and place.exists():
            kind, other = ("folder", "file") if place.is_dir() else ("file", "folder")
            raise CaptError(f"{place}: a {kind} is where a {other} belongs; move it away")
        if entry.is_dir() and place.is_dir():
            _check_way(entry, place)


def _move(source: Path, target: Path) -> None:
    """Move a folder's content into another: a new subfolder in one step."""
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            _move(entry, place)
        else:
            entry.replace(place)
