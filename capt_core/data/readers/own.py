"""A data set of the user's own: which of the known layouts it has, and what it lists."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl

from capt_core.data.parquet_images import TABLE_ENDINGS, holds_images
from capt_core.data.readers.folders import (
    read_class_folders,
    read_split_folders,
    split_folders,
)
from capt_core.data.readers.foreign import foreign_layout
from capt_core.data.readers.hub import hub_tables, is_one_set, metadata_tables
from capt_core.data.readers.image_tables import read_image_tables
from capt_core.data.readers.listing import to_split
from capt_core.data.readers.split_json import read_split_json
from capt_core.data.readers.tables import lists_images, read_tables, tables_in
from capt_core.data.readers.text_tables import TEXT_ENDINGS
from capt_core.data.scan import is_image_name, subfolders
from capt_core.data.splits import Rejects, SplitData
from capt_core.errors import CaptError
from capt_core.params import Data

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
    root = source if source.is_dir() else source.parent
    files = [source] if source.is_file() else _tables(root, data)
    layout = _layout(root, files) if data.layout == "auto" else data.layout
    where = str(files[0] if len(files) == 1 else source)
    if layout == "class_folders":
        listing, where = read_class_folders(root, rejects), str(source)
    elif layout == "split_folders":
        listing, where = read_split_folders(root, rejects), str(source)
    elif not files:
        raise CaptError(
            f"{source}: data.layout={layout}, but there is no such file; set data.table"
        )
    elif layout == "split_json":
        return _with_image_folder(read_split_json(files[0], rejects), root, files[0]), where
    elif layout == "image_table":
        listing = read_image_tables(files, root, data, rejects)
    else:
        listing = read_tables(files, root, data, rejects)
    return to_split(listing, where, data, rejects), where


def _tables(root: Path, data: Data) -> list[Path]:
    """The tables or the split file that describe a folder, if any do.

    Raises:
        CaptError: the settings name one that is not there; or several that belong not together.
    """
    if data.table is not None:
        path = root / data.table
        if not path.is_file():
            raise CaptError(f"data.table: {path} does not exist")
        return [path]
    if data.layout in ("class_folders", "split_folders"):
        return []
    splits = sorted(root.glob("split*.json"))
    tables = [
        path
        for folder in (root, root / "data")
        if folder.is_dir()
        for path in tables_in(folder, _TABLE_ENDINGS)
    ]
    if not tables and not splits:
        listed = [path for path in metadata_tables(root) if lists_images(path, data)]
        return listed or hub_tables(root)
    found = splits if data.layout == "split_json" or (splits and not tables) else tables
    if len(found) > 1 and not is_one_set(found):
        raise CaptError(
            f"{root}: several tables ({', '.join(path.name for path in found[:4])}); choose one "
            "with --set data.table=FILE, or set data.layout=class_folders to use none"
        )
    return found


def _layout(root: Path, files: list[Path]) -> str:
    if files:
        ending = files[0].suffix.lower()
        if ending == ".json":
            return "split_json"
        if ending not in _TABLE_ENDINGS:
            raise CaptError(
                f"{files[0]}: expected a folder, or a file ending in .csv, .tsv, .jsonl, .parquet "
                "or .json"
            )
        return "image_table" if ending in TABLE_ENDINGS and holds_images(files[0]) else "table"
    foreign = foreign_layout(root)
    if foreign is not None:
        raise CaptError(f"{root}: {foreign}")
    if split_folders(root):
        return "split_folders"
    folders = subfolders(root)
    if len(folders) == 1 and subfolders(root / folders[0]):
        raise CaptError(
            f"{root}: holds the single folder {folders[0]!r}; set data.root to "
            f"{root / folders[0]}, or data.layout=class_folders if that is your only class"
        )
    if folders:
        return "class_folders"
    if any(is_image_name(path.name) for path in root.iterdir()):
        raise CaptError(
            f"{root}: images without class folders; put each into a folder named for its class, "
            "or list them in a table with the columns path and label"
        )
    raise CaptError(
        f"{root}: neither class folders (<class>/<image>) nor a table (.csv, .parquet) were found; "
        'the README describes the layouts ("Your own images")'
    )


def _with_image_folder(data: SplitData, root: Path, split: Path) -> SplitData:
    """Paths of a split file made relative to `root`: it may mean a folder below it."""
    first = data.samples["path"].head(20).to_list()
    choices = ["", *(f"{folder}/" for folder in subfolders(root))]
    for choice in choices:
        if not first or any((root / f"{choice}{path}").exists() for path in first):
            paths = pl.lit(choice) + pl.col("path")
            return replace(data, samples=data.samples.with_columns(paths.alias("path")))
    raise CaptError(
        f"{split}: none of its first images ({', '.join(first[:1])}, ...) is below {root} or one "
        "of its folders; put the split file beside the image folder"
    )
