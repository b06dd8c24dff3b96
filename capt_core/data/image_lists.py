"""Lists of unlabelled images: files, folders, and tables that name or hold images."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from capt_core.addresses import absence, address_of, ambiguous, is_remote, public, remember
from capt_core.data.column_files import TABLE_ENDINGS, open_table
from capt_core.data.parquet_images import image_columns, row_path
from capt_core.data.readers.columns import (
    PATH_COLUMNS,
    column_named,
    column_names,
    columns_of,
    refuse_twice,
)
from capt_core.data.readers.layouts import listed
from capt_core.data.readers.text_tables import TEXT_ENDINGS, read_text_columns, text_columns
from capt_core.data.remote import stores
from capt_core.data.remote.braces import expanded, is_pattern
from capt_core.data.remote.listed import listed_address, looks_like_address
from capt_core.data.remote.shards import is_shard, open_shard
from capt_core.data.remote.tree import original, remote_tree
from capt_core.data.remote.windows import stat_of
from capt_core.data.scan import as_text, find_images, is_image_name, is_system_folder, is_utf8
from capt_core.errors import CaptError
from capt_core.reporter import active
from capt_core.user_paths import brief, naming_files

_NOT_UTF8 = "a file name that is not valid UTF-8"
_NO_PATH = "the row names no image"
_CHUNK = 100_000


class Listed(NamedTuple):
    """An image of a list.

    Attributes:
        path: as tables show it; None for a row that names none.
        file: to open.
        problem: why there is nothing to open; None if there is.
        versioned: whether the list's digest changes with the image's content.
    """

    path: str | None
    file: Path
    problem: str | None
    versioned: bool = False


@dataclass(frozen=True)
class Source:
    """Images of one file, folder or table; a million names take about 0.1 GB.

    Attributes:
        folder: that the names are relative to.
        names: of the images, null where a row names none.
        shown: what stands before a name where it is shown; None shows the name alone.
        problems: what is wrong with names, by position.
        stamp: what else tells the images from others, such as the size of a table that holds them.
    """

    folder: Path
    names: pl.Series
    shown: Path | None = None
    problems: Mapping[int, str] = field(default_factory=dict)
    stamp: str = ""

    def image(self, position: int) -> Listed:
        """One of the images."""
        name = self.names[position]
        if name is None:
            return Listed(None, self.folder, _NO_PATH)
        shown = None if self.shown is None else self.shown / name
        path = name if shown is None else as_text(address_of(shown) or str(shown))
        problem = self.problems.get(position)
        return Listed(path, self.folder / name, problem, bool(self.stamp))


class ImageList:
    """Images of several sources, in order."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._starts = [0, *accumulate(len(source.names) for source in sources)]

    def __len__(self) -> int:
        return self._starts[-1]

    def block(self, start: int, stop: int) -> list[Listed]:
        """The images from one position up to another."""
        found = []
        for position in range(start, min(stop, len(self))):
            place = bisect_right(self._starts, position) - 1
            found.append(self._sources[place].image(position - self._starts[place]))
        return found

    def digest(self) -> str:
        """SHA-256 over all names and where they are, as hex digits."""
        digest = hashlib.sha256()
        for source in self._sources:
            head = (str(source.folder.absolute()), str(source.shown), source.stamp)
            digest.update(ascii((head, sorted(source.problems.items()))).encode())
            for chunk in source.names.to_frame().iter_slices(_CHUNK):
                digest.update(ascii(chunk.to_series().to_list()).encode())
        return digest.hexdigest()


def list_images(given: Sequence[Path], root: Path | None = None) -> ImageList:
    """The images that paths stand for.

    A table is a CSV, TSV, JSON-lines, Parquet or Arrow file: its column `path` (or one that data
    sets use for it, such as `file_name`) names images, or a column of Parquet or Arrow holds them.

    Args:
        given: image files, folders, tables and shards, here or behind addresses.
        root: folder that the paths in tables are relative to; None takes the table's own.

    Raises:
        CaptError: something does not exist, a folder or table holds no images, or `root` is given
            without a table that it is for.
    """
    sources: list[Source] = []
    used, files = False, list[Path]()

    def flush() -> None:
        if files:
            sources.append(_files(files))
            files.clear()

    for path in given:
        ending = path.suffix.lower()
        if is_remote(path) or is_shard(path) or is_pattern(str(path)):
            flush()
            found = list(_elsewhere(path, root))
            used |= any(not source.stamp for source in found)
            sources += found
        elif _kind(path) == "folder":
            flush()
            sources.append(_folder(path))
        elif ending in (*TEXT_ENDINGS, *TABLE_ENDINGS):
            flush()
            source = _table(path, root)
            used |= not source.stamp
            sources.append(source)
        else:
            files.append(path)
    flush()
    if root is not None and not used:
        raise CaptError("--root: there is no table whose paths it could be for; leave it out")
    return ImageList(sources)


def _elsewhere(path: Path, root: Path | None) -> Iterator[Source]:
    """Images of shards, or behind an address: a folder, a table, or an image itself.

    Raises:
        CaptError: it cannot be listed or read, or holds no images.
    """
    given = address_of(path)
    try:
        if is_shard(public(given or str(path))):
            names = expanded(given or str(path))
            for name in names:
                yield _shard(Path(remember(name)) if given else Path(name))
            return
        address = remember(str(given))
        ending = Path(address).suffix.lower()
        if ending in (*TEXT_ENDINGS, *TABLE_ENDINGS):
            with remote_tree(address) as table:
                folder = original(table.parent) if root is None else root
                yield replace(_table(table, None), folder=folder)
        elif stores.is_folder(address):
            yield _remote_folder(address)
        else:
            yield Source(Path(), _texts([address]))
    except OSError as error:
        why = "missing" if isinstance(error, FileNotFoundError) else error.strerror or error
        raise CaptError(
            f"{brief(public(given or str(path)))}: cannot be read ({why}); check the address, and "
            "the credentials in the environment"
        ) from None


def _shard(path: Path) -> Source:
    found = open_shard(path)
    if found.cut:
        raise CaptError(f"{brief(path)}: {found.cut}: it is cut off; get it again")
    bad = dict(found.problems)
    names = [*found.images, *(name for name in bad if name not in found.images)]
    if not names:
        raise CaptError(f"{brief(path)}: no images in this shard; give another")
    problems = {at: bad[name] for at, name in enumerate(names) if at >= len(found.images)}
    return Source(path, _texts(names), path, problems, stat_of(path).stamp)


def _remote_folder(address: str) -> Source:
    names, versions = [], hashlib.sha256()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        for entry in stores.entries(f"{address}/{below}".rstrip("/")):
            name = f"{below}{entry.name}"
            if entry.is_folder:
                waiting += [] if is_system_folder(entry.name) else [f"{name}/"]
            elif is_image_name(name) and not entry.name.startswith("."):
                names.append(name)
                versions.update(f"{name} {entry.stat.stamp}\n".encode("utf-8", "replace"))
    if not names:
        raise CaptError(f"{address}: no images in this folder; give another")
    folder = Path(address)
    return Source(folder, _texts(sorted(names)), folder, stamp=versions.hexdigest())


@naming_files("IMAGES")
def _kind(path: Path) -> str:
    if path.is_dir():
        return "folder"
    if path.is_file():
        return "file"
    kind = "neither a file nor a folder" if path.exists() else absence(path)
    raise CaptError(f"{brief(path)}: {kind}")


def _files(paths: Sequence[Path]) -> Source:
    names = [str(path) for path in paths]
    unfit = {at: _NOT_UTF8 for at, name in enumerate(names) if not is_utf8(name)}
    return Source(Path(), _texts(names), problems=unfit)


@naming_files("IMAGES")
def _folder(folder: Path) -> Source:
    found = find_images(folder)
    if found.system:
        active().say(f"{folder}: left out: {listed(found.system)}, folders of the system or tools")
    bad = dict(found.problems)
    names = sorted([*found.images, *bad]) if bad else found.images
    if not names:
        raise CaptError(
            f"{folder}: no images in this folder; give image files, a table or another folder"
        )
    problems = {at: bad[name] for at, name in enumerate(names) if name in bad}
    return Source(folder, _texts(names), folder, problems)


def _texts(names: Iterable[str]) -> pl.Series:
    return pl.Series("name", list(map(as_text, names)), dtype=pl.String)


@naming_files("IMAGES")
def _table(path: Path, root: Path | None) -> Source:
    if path.suffix.lower() in TEXT_ENDINGS:
        column = _path_column(path, text_columns(path))
        (cells,), _ = read_text_columns(path, [column])
    else:
        table = open_table(path)
        holding = [name for name in image_columns(table) if not table.without_bytes(name)]
        if holding:
            return _rows(path, holding, sum(table.sizes()))
        column = _path_column(path, [str(name) for name in table.schema.names])
        cells = table.values(column)
    if not cells:
        raise CaptError(f"{path}: a table without rows")
    texts = [_named(cell) for cell in cells]
    listed = [text for text in texts if text is not None and looks_like_address(text)]
    if (twice := ambiguous(listed)) is not None:
        raise CaptError(
            f"{path}: several addresses differ from {brief(twice)} only behind the ?, which may be "
            "secret and is never kept; give the images addresses of their own"
        )
    problems = {}
    for at, text in enumerate(texts):
        if text is not None and looks_like_address(text):
            try:
                texts[at] = listed_address(text, path)
            except CaptError as error:
                texts[at], problems[at] = public(text), str(error)
    names = pl.Series("name", texts, dtype=pl.String)
    return Source(path.parent if root is None else root, names, problems=problems)


def _path_column(path: Path, columns: Sequence[str]) -> str:
    column = column_named(columns, PATH_COLUMNS)
    if column is None:
        raise CaptError(
            f"{path}: no column path with the image files; {columns_of(columns)}; rename the one "
            "that holds them"
        )
    refuse_twice(columns, column, path)
    return column


def _named(cell: Any) -> str | None:
    if isinstance(cell, Mapping):
        cell = cell.get("path")
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "backslashreplace")
    return None if cell is None or cell != cell or not str(cell).strip() else str(cell)


def _rows(path: Path, columns: Sequence[str], count: int) -> Source:
    """The rows of a table that holds images."""
    if len(columns) > 1:
        raise CaptError(
            f"{path}: columns {column_names(columns)} hold images; leave one of them in the table"
        )
    if not count:
        raise CaptError(f"{path}: a table without rows")
    first = row_path(path.name, 0)
    width = len(first) - len(path.name) - 1
    rows = pl.int_range(count, eager=True).cast(pl.String).str.zfill(width)
    status = path.stat()
    stamp = f"{status.st_size} {status.st_mtime_ns}"
    return Source(path, rows.alias("name"), path, stamp=stamp)
