"""A data set of the user's own: which of the known layouts it has, and what it lists."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

import polars as pl

from capt_core.data.column_files import TABLE_ENDINGS
from capt_core.data.parquet_images import holds_images
from capt_core.data.readers import beside
from capt_core.data.readers.annotations import find_annotations
from capt_core.data.readers.folders import read_folders
from capt_core.data.readers.foreign import foreign_layout
from capt_core.data.readers.hub import hub_tables, metadata_tables, unread_tables
from capt_core.data.readers.image_tables import read_image_tables
from capt_core.data.readers.layouts import (
    Folders,
    every_folder,
    find_folders,
    listed,
    split_folders,
)
from capt_core.data.readers.listing import to_split
from capt_core.data.readers.shards import read_shards
from capt_core.data.readers.split_json import read_split_json
from capt_core.data.readers.table_files import is_one_set, missing_parts, split_of_file
from capt_core.data.readers.tables import lists_images, read_tables
from capt_core.data.readers.text_tables import TEXT_ENDINGS
from capt_core.data.remote.braces import is_pattern, shards_of
from capt_core.data.remote.shards import is_shard
from capt_core.data.scan import files_in, own_images, subfolders
from capt_core.data.scan import holds_images as has_images
from capt_core.data.splits import Rejects, SplitData
from capt_core.errors import CaptError, shown
from capt_core.params import Data

_WRAPPED = 8  # folders within each other that are looked into
_TABLE_ENDINGS = (*TEXT_ENDINGS, *TABLE_ENDINGS)


def read_own(source: Path, data: Data, rejects: Rejects) -> tuple[SplitData, str]:
    """List the images of a folder or table; returns what errors call it, too.

    Args:
        source: `data.root`: a folder, or a table or split file.
        data: the layout, or `auto` to find it; shares and seed of splits that are not given.
        rejects: takes what is left out.

    Raises:
        CaptError: no known layout, or what the layout's reader refuses.
    """
    shards = shards_of(str(source)) if is_pattern(str(source)) else []
    root = shards[0].parent if shards else source if source.is_dir() else source.parent
    reading = _reading(source, root, data)
    files = shards or list(reading.files)
    if source.is_dir() and data.table is None:
        reading = replace(reading, notes=[*reading.notes, *missing_parts(files)])
    where = str(files[0]) if len(files) == 1 else str(source)
    if reading.folders is not None:
        listing = read_folders(root, reading.folders, rejects)
        if not len(listing.rows) and (tables := hub_tables(root)):
            name = tables[0].relative_to(root).as_posix()
            raise CaptError(
                f"{root}: no image files, but tables that hold images ({name}, ...); read them "
                "with --set data.layout=auto"
            )
    elif not files:
        raise CaptError(
            f"{source}: data.layout={reading.layout}, but there is no such file; set data.table"
        )
    elif reading.layout == "split_json":
        split = _with_image_folder(read_split_json(files[0], rejects), root, files[0])
        return replace(split, notes=[*reading.notes, *split.notes]), where
    elif reading.layout == "shards":
        listing = read_shards(files, root, data, rejects)
    elif reading.layout == "image_table":
        listing = read_image_tables(files, root, data, rejects)
        unread = unread_tables(root, files) if data.table is None and source.is_dir() else []
        if unread:
            notes = [
                *reading.notes,
                f"left out: {listed(unread)} (data.table or data.root names it)",
            ]
            reading = replace(reading, notes=notes)
    else:
        listing = read_tables(files, root, data, rejects)
        reading = replace(reading, notes=[*reading.notes, *beside.split_paths_notes(listing.rows)])
    # Shards that are named hold all of their images: what lies beside them is no concern.
    named_shards = reading.layout == "shards" and not source.is_dir()
    if reading.folders is None and data.layout == "auto" and not named_shards:
        reading = replace(
            reading, notes=[*reading.notes, *beside.unlisted_folders(root, listing.rows)]
        )
    listing = replace(listing, notes=[*reading.notes, *listing.notes])
    return to_split(listing, where, data, rejects), where


@dataclass(frozen=True)
class _Reading:
    """What is read: folders, or the files of a table or split; with notes for the user."""

    layout: str
    folders: Folders | None = None
    files: Sequence[Path] = ()
    notes: Sequence[str] = ()


def _reading(source: Path, root: Path, data: Data) -> _Reading:
    """What the settings ask for, or else what the folder holds.

    Raises:
        CaptError: neither folders nor tables fit a layout, or both do and disagree.
    """
    if data.layout == "class_folders":
        return _Reading(data.layout, every_folder(root))
    if data.layout == "split_folders":
        return _Reading(data.layout, split_folders(root))
    if is_pattern(str(source)) or (source.is_file() and is_shard(source)):
        return _Reading("shards", None, [source])
    shards = _shards(root) if data.layout in ("auto", "shards") and data.table is None else []
    if shards and source.is_dir() and (data.layout == "shards" or not has_images(root)):
        return _Reading("shards", None, shards)
    files = [source] if source.is_file() else _tables(root, data)
    if data.layout != "auto":
        _check_one_set(root, files)
        return _Reading(data.layout, None, files)
    if source.is_file() or data.table is not None:
        return _Reading(_layout_of(files[0], data), None, files)
    foreign = None if files else foreign_layout(root)
    if foreign is not None:
        raise CaptError(f"{root}: {foreign}")
    if files and find_annotations(root) is not None:
        # The folders are those of another tool, the table was made of its annotations.
        return _by_tables(root, files, data)
    try:
        folders: Folders | None = find_folders(root)
    except CaptError as error:
        if not files:
            raise CaptError(f"{error}{_tables_within(root, data)}") from error
        folders = None
    if folders is None or (files and not _has_classes(root, folders)):
        return _by_tables(root, files, data)
    return _beside_folders(root, folders, files, data)


def _shards(root: Path) -> list[Path]:
    """Tar files in a folder, or in the folders in it."""
    folders = [root, *(root / name for name in subfolders(root))]
    return [folder / name for folder in folders for name in files_in(folder) if is_shard(name)]


def _by_tables(root: Path, files: Sequence[Path], data: Data) -> _Reading:
    """Tables, without those among several that list no images or no labels."""
    lists = [path for path in files if not beside.lacks_columns(path, data)] or list(files)
    left = listed(str(path.relative_to(root)) for path in files if path not in lists)
    _check_one_set(root, lists)
    notes = [f"left out: {left} (no list of images and labels)"] if left else []
    return _Reading(_layout_of(lists[0], data), None, lists, notes)


def _beside_folders(root: Path, folders: Folders, files: Sequence[Path], data: Data) -> _Reading:
    """Class folders, or tables beside them, see `beside`."""
    useful = [path for path in files if beside.usable(path, data)]
    useless = listed(path.name for path in files if path not in useful)
    notes = [f"left out: {useless} (no list of images and labels)"] if useless else []
    if not useful:
        return _Reading(folders.layout, folders, notes=notes)
    _check_one_set(root, useful)
    choice = beside.choose(useful, root, folders, data)
    if choice.tables:
        return _Reading(_layout_of(useful[0], data), None, useful, [choice.note, *notes])
    return _Reading(folders.layout, folders, notes=[choice.note, *notes])


def _has_classes(root: Path, folders: Folders) -> bool:
    """Whether there are several class folders; one may as well hold the images of a table."""
    return folders.layout == "split_folders" or any(
        sum(has_images(root / part / name) for name in subfolders(root / part)) > 1
        for part in folders.parts
    )


def _tables(root: Path, data: Data) -> list[Path]:
    """The tables or the split file that describe a folder, if any do.

    Raises:
        CaptError: the settings name one that is not there.
    """
    if data.table is not None:
        path = root / data.table
        if not path.is_relative_to(root):
            raise CaptError(
                f"data.table: {path} is not below {root}; set data.root to a folder above both"
            )
        if not os.path.isfile(path):
            raise CaptError(f"data.table: {shown(data.table)[1:-1]} is no file in {root}")
        return [path]
    names = files_in(root)
    splits = [root / name for name in names if fnmatch(name, "split*.json")]
    folders = _table_folders(root)
    tables = [
        folder / name
        for folder in folders
        for name in (names if folder == root else files_in(folder))
        # cache-*.arrow: what `datasets` keeps beside the tables that `save_to_disk` wrote.
        if Path(name).suffix.lower() in _TABLE_ENDINGS and not fnmatch(name, "cache-*.arrow")
    ]
    if not tables and not splits:
        metadata = (path for folder in folders for path in metadata_tables(folder))
        listed_in = [path for path in metadata if lists_images(path, data)]
        return listed_in or hub_tables(root)
    if data.layout == "split_json" or not tables:
        return splits
    # A split file of images that class folders hold already says all that a table could.
    return [*splits, *tables] if data.layout == "auto" else tables


def _tables_within(root: Path, data: Data) -> str:
    """What to add to an error about folders, if one of them holds a list of images and labels."""
    for folder in subfolders(root):
        for name in files_in(root / folder):
            path = root / folder / name
            if path.suffix.lower() in _TABLE_ENDINGS and beside.usable(path, data):
                return f"; to read a table, --set {shlex.quote(f'data.table={folder}/{name}')}"
    return ""


def _table_folders(root: Path) -> list[Path]:
    """Folders that tables are looked for in: the root, those that wrap all else, and ``data``."""
    folders = [root]
    for _ in range(_WRAPPED):
        inside = subfolders(folders[-1])
        if len(inside) != 1 or own_images(folders[-1]):
            break
        folders.append(folders[-1] / inside[0])
    data = root / "data"
    return folders if data in folders or not data.is_dir() else [*folders, data]


def _check_one_set(root: Path, files: Sequence[Path]) -> None:
    """Refuse several tables that do not belong together."""
    if len(files) > 1 and not is_one_set(files, root):
        names = [path.relative_to(root).as_posix() for path in files]
        trained = (path for path in files if split_of_file(path, root) == "train")
        first = next(trained, files[0]).relative_to(root)
        choice = shlex.quote(f"data.table={first.as_posix()}")
        raise CaptError(
            f"{root}: several tables ({listed(names)}); choose one with --set {choice}, or move "
            "those to leave out to another folder"
            + (", or use none with --set data.layout=class_folders" if has_images(root) else "")
        )


def _layout_of(path: Path, data: Data) -> str:
    """The layout of a file."""
    ending = path.suffix.lower()
    if ending == ".json":
        return "split_json"
    if ending not in _TABLE_ENDINGS:
        raise CaptError(
            f"{path}: expected a folder, or a file ending in .csv, .tsv, .jsonl, .parquet, "
            ".json or .tar; unpack another archive, save a spreadsheet as CSV"
        )
    return (
        "image_table"
        if ending in TABLE_ENDINGS and holds_images(path, data.image_column)
        else "table"
    )


def _with_image_folder(data: SplitData, root: Path, split: Path) -> SplitData:
    """Paths of a split file made relative to `root`: it may mean a folder below it."""
    first = data.samples["path"].head(20).to_list()
    choices = ["", *(f"{folder}/" for folder in subfolders(root))]
    for choice in choices:
        if not first or any(os.path.exists(root / f"{choice}{path}") for path in first):
            paths = pl.lit(choice) + pl.col("path")
            return replace(data, samples=data.samples.with_columns(paths.alias("path")))
    raise CaptError(
        f"{split}: none of its first images ({', '.join(first[:1])}, ...) is below {root} or one "
        "of its folders; put the split file beside the image folder"
    )
