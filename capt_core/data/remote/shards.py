"""Tar files of images in the layout of WebDataset: what they hold, and the bytes of an image.

A sample is all members whose names agree up to the first point of the file's name: ``0001.jpg``
with ``0001.cls``, ``0001.txt`` or ``0001.json``. The path of an image is ``<shard>.tar/<member>``.
A shard is read once to see where its members are; this is kept in the user's cache folder under
the version of the shard, since a remote one has to be fetched for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tarfile
import threading
from collections import OrderedDict
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from capt_core.addresses import address_of
from capt_core.artifacts.files import write_text
from capt_core.data.decoding import LARGEST_FILE, BadImageError
from capt_core.data.remote.windows import read_part, stat_of
from capt_core.data.scan import is_image_name, is_utf8
from capt_core.errors import CaptError, shown

ENDING = ".tar"
LABELS = ("cls", "txt", "json")
"""Endings of members that say what a sample is."""
_LARGEST_LABEL = 1024**2
_LONGEST_VALUE = 400
_LARGEST_HEADER = 1024**2  # of a long name; anything more in one read is no header
_BLOCK = 512
_KEPT = 32
_VERSION = 1


@dataclass
class Shard:
    """What a shard holds.

    Attributes:
        images: member to where its bytes begin and how many there are, in the shard's order.
        labels: key of a sample to its texts by ending; of JSON, its plain values by name.
        problems: members that are not used, with the reason.
        cut: how the shard ends before its end, or None.
    """

    images: dict[str, tuple[int, int]] = field(default_factory=dict)
    labels: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    cut: str | None = None


def is_shard(path: Path | str) -> bool:
    """Whether a name is that of a shard."""
    return os.path.splitext(str(path))[1].lower() == ENDING


def key_of(member: str) -> tuple[str, str]:
    """The key of a member's sample, and the rest of its name: ``a/1.x.png`` gives a/1, x.png."""
    folder, slash, name = member.rpartition("/")
    key, _, ending = name.partition(".")
    return f"{folder}{slash}{key}", ending.lower()


def place_of(path: Path) -> tuple[Path, str] | None:
    """The shard and member of an image's path, or None for another path."""
    if ENDING not in str(path).lower():
        return None
    for shard in path.parents:
        if shard.suffix.lower() == ENDING and (address_of(shard) or os.path.isfile(shard)):
            return shard, path.relative_to(shard).as_posix()
    return None


def read_member(shard: Path, member: str) -> bytes:
    """Bytes of an image of a shard.

    Raises:
        FileNotFoundError: the shard has no such image.
        OSError, CaptError: the shard cannot be read.
        BadImageError: its size is out of bounds.
    """
    found = open_shard(shard).images.get(member)
    if found is None:
        raise FileNotFoundError("missing")
    start, size = found
    content = read_part(shard, start, start + size)
    if len(content) < size:
        raise BadImageError("its shard ends before it does; get the shard again")
    return content


def open_shard(path: Path) -> Shard:
    """What a shard holds, as it is kept or by reading it.

    Raises:
        CaptError: no tar file; the message names it.
        OSError: it cannot be read.
    """
    with _lock:
        if path in _opened:
            _opened.move_to_end(path)
            return _opened[path]
    status = stat_of(path)
    kept = _cache_file(path, status.stamp) if status.version else None
    found = _kept(kept) if kept else None
    if found is None:
        found = _scanned(path, status.size)
        if kept and found.cut is None:
            with contextlib.suppress(CaptError, OSError):
                write_text(kept, json.dumps({"version": _VERSION, **asdict(found)}))
    with _lock:
        _opened[path] = found
        while len(_opened) > _KEPT:
            _opened.popitem(last=False)
    return found


_lock = threading.Lock()
_opened: OrderedDict[Path, Shard] = OrderedDict()


def _cache_file(path: Path, stamp: str) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    where = address_of(path) or str(path.absolute())
    name = hashlib.sha256(f"{_VERSION} {where} {stamp}".encode("utf-8", "surrogateescape"))
    return Path(base) / "capt-stage" / "shards" / f"{name.hexdigest()[:32]}.json"


def _kept(path: Path) -> Shard | None:
    """What was kept of a shard; None if nothing usable was."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.pop("version") != _VERSION:
            return None
        images = {
            name: (int(start), int(size)) for name, (start, size) in document["images"].items()
        }
        problems = [(str(name), str(why)) for name, why in document["problems"]]
        return Shard(images, dict(document["labels"]), problems)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


class _Bytes(io.RawIOBase):
    """A file that `tarfile` can look through, of which headers only are read."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END or offset < 0:
            raise tarfile.ReadError("a header leads out of the file")
        self._at = offset if whence == os.SEEK_SET else self._at + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise tarfile.ReadError("a header of impossible size")
        content = read_part(self._path, self._at, self._at + size)
        self._at += len(content)
        return content


def _scanned(path: Path, size: int | None) -> Shard:
    found, seen = Shard(), set[str]()
    end = 0
    try:
        # Compressed files have no places to go to; "r:" refuses them.
        with tarfile.open(fileobj=_Bytes(path), mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # kept, which nothing here asks for
                data_end = member.offset_data + member.size
                if member.size < 0 or data_end < end:
                    raise tarfile.ReadError("a header of impossible size")
                if size is not None and data_end > size:
                    found.cut = f"it ends within {shown(member.name)}"
                    return found
                _note(found, seen, path, member)
                end = data_end + -data_end % _BLOCK
        if any(read_part(path, end, end + _BLOCK)) or not seen:
            found.cut = "what follows is no tar header" if seen else "it holds nothing"
        elif len(read_part(path, end, end + _BLOCK)) < _BLOCK:
            found.cut = "it ends without its end mark"
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        if not seen:
            raise CaptError(
                f"{address_of(path) or path}: no tar file that can be read "
                f"({str(error)[:100] or type(error).__name__}); shards are plain tar files, unpack "
                "a compressed one"
            ) from error
        found.cut = f"a damaged header ({str(error)[:100]})"
    return found


def _note(found: Shard, seen: set[str], path: Path, member: tarfile.TarInfo) -> None:
    """Take a member up, or note why it is not."""
    if member.isdir():
        seen.add(member.name)
        return
    name = member.name[2:] if member.name.startswith("./") else member.name
    problem = _problem(name, member)
    if problem is None and name in seen:
        problem = "a second member of this name"
    seen.add(name)
    key, ending = key_of(name)
    if PurePosixPath(name).name.startswith("."):
        return
    if is_image_name(name) and problem is None:
        found.images[name] = (member.offset_data, member.size)
    elif ending in LABELS and problem is None:
        if member.size > _LARGEST_LABEL:
            found.problems.append((name, f"a label of {member.size} bytes"))
            return
        start = member.offset_data
        content = read_part(path, start, start + member.size)
        found.labels.setdefault(key, {}).update(_label(ending, content))
    elif problem is not None:
        found.problems.append((name.encode("utf-8", "backslashreplace").decode(), problem))


def _problem(name: str, member: tarfile.TarInfo) -> str | None:
    parts = name.split("/")
    if member.issym() or member.islnk():
        return "a link, which is not followed"
    if not member.isreg():
        return "a device, pipe or member of another kind"
    if member.issparse():
        return "a sparse file"
    if name.startswith("/") or ".." in parts or "\0" in name or "" in parts or "." in parts:
        return "a name that leads out of the shard, or has empty parts"
    if not is_utf8(name):
        return "a name that is not valid UTF-8"
    if len(name) > 1000:
        return "a name of more than 1000 characters"
    if member.size > LARGEST_FILE:
        return f"{member.size / 1e9:.1f} GB, more than an image may take"
    return None


def _label(ending: str, content: bytes) -> dict[str, Any]:
    """Texts of a label by the name it can be asked for."""
    text = content.decode("utf-8", "replace").strip()
    if ending != "json":
        return {ending: text[:_LONGEST_VALUE]}
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        document = {"label": document}
    plain = {
        str(name): value
        for name, value in document.items()
        if isinstance(value, str | int) and not isinstance(value, bool)
    }
    return {"json": {name: str(value)[:_LONGEST_VALUE] for name, value in plain.items()}}
