"""Tables beside folders of the user's own images: which of the two says what the classes are.

A table is read where the folders give no classes, or where it lists every image and its labels are
those of the folders, but for their names. It is left out where it has no column of paths or labels,
or does not list all images. Where it lists all of them under other labels, the user has to choose.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from capt_core.data.column_files import TABLE_ENDINGS
from capt_core.data.parquet_images import holds_images
from capt_core.data.readers.folders import read_folders
from capt_core.data.readers.layouts import Folders, count_images, listed
from capt_core.data.readers.listing import SPLIT_WORDS, Listing
from capt_core.data.readers.tables import lists_images, read_tables
from capt_core.data.scan import holds_images as has_image_files
from capt_core.data.scan import subfolders
from capt_core.data.splits import SPLITS, Rejects
from capt_core.errors import CaptError
from capt_core.params import Data
from capt_core.text import normal
from capt_core.text_file import read_text


@dataclass(frozen=True)
class Choice:
    """Whether the tables are read, and the line that says so."""

    tables: bool
    note: str


def usable(path: Path, data: Data) -> bool:
    """Whether a file beside class folders can say what is in them; unreadable ones cannot."""
    try:
        if path.suffix.lower() == ".json":
            document = json.loads(read_text(path))
            return isinstance(document, dict) and all(split in document for split in SPLITS)
        return _with_images(path) or lists_images(path, data)
    except (OSError, ValueError, RecursionError, CaptError):
        return False


def lacks_columns(path: Path, data: Data) -> bool:
    """Whether a readable table has no column of images or none of labels."""
    if path.suffix.lower() == ".json":
        return False
    try:
        return not (_with_images(path) or lists_images(path, data))
    except (OSError, CaptError):
        return False  # what is damaged is named when it is read


def choose(files: Sequence[Path], root: Path, folders: Folders, data: Data) -> Choice:
    """Choose between usable tables and class folders.

    Raises:
        CaptError: both may be meant; or a table is damaged.
    """
    names = listed(path.relative_to(root).as_posix() for path in files)
    layout = folders.layout
    by_folders = read_folders(root, folders, Rejects(True))
    if files[0].suffix.lower() == ".json":
        return Choice(True, f"read as split_json: {names}; --set data.layout={layout} uses none")
    if _with_images(files[0]):
        raise CaptError(
            f"{root}: {names} holds images, and class folders are beside it; choose with --set "
            f"data.layout=image_table or --set data.layout={layout}"
        )
    by_table = read_tables(files, root, data, Rejects(True))
    common = _common(by_table, by_folders)
    total = len(by_folders.rows)
    if len(common) < total:
        return Choice(
            False,
            f"read as {layout}; left out: {names}, which lists {len(common)} of the {total} images "
            "in the class folders (--set data.layout=table reads it)",
        )
    pairs = common.select("label", "label_right").unique()
    if pairs["label"].n_unique() < len(pairs) or pairs["label_right"].n_unique() < len(pairs):
        raise CaptError(
            f"{root}: {names} lists the images of the class folders under other labels "
            f"({listed(sorted(pairs['label_right'].drop_nulls().unique()), 3)}); choose with --set "
            f"data.layout=table or --set data.layout={layout}"
        )
    if layout == "split_folders" and by_table.rows["split"].null_count():
        return Choice(False, f"read as {layout}; left out: {names}, which says nothing of splits")
    return Choice(
        True, f"read as table: {names}, which agrees with the class folders (data.layout={layout})"
    )


def split_paths_notes(rows: pl.DataFrame) -> list[str]:
    """What to say where a table has no splits, but its paths lead through folders of some."""
    if rows["split"].null_count() < len(rows):
        return []
    folders = rows["path"].drop_nulls().str.extract(r"^(.*)/[^/]*$").drop_nulls().unique()
    parts = {part for folder in folders.to_list() for part in folder.split("/")}
    words = sorted(part for part in parts if part.lower() in SPLIT_WORDS)
    if len({SPLIT_WORDS[word.lower()] for word in words}) < 2:
        return []
    return [
        f"the table has no column split: splits are drawn anew, whatever {listed(words)} in its "
        "paths say; add the column to keep them"
    ]


def _with_images(path: Path) -> bool:
    return path.suffix.lower() in TABLE_ENDINGS and holds_images(path)


def unlisted_folders(root: Path, rows: pl.DataFrame) -> list[str]:
    """A line on folders beside a table that hold images, none of which it lists."""
    tops = rows["path"].str.extract(r"^([^/]+)/").drop_nulls().unique().to_list()
    named = {normal(top) for top in tops}
    left = [
        f"{name} ({count_images(root / name)})"
        for name in subfolders(root)
        if normal(name) not in named and has_image_files(root / name)
    ]
    return [f"left out: {listed(left)}, of which the table lists nothing"] if left else []


def _common(by_table: Listing, by_folders: Listing) -> pl.DataFrame:
    """Images that both list, with the folders' label and the table's (`label_right`)."""
    key = pl.col("path").map_elements(normal, return_dtype=pl.String).alias("key")
    left = by_folders.rows.select(key, "label")
    right = by_table.rows.filter(pl.col("path").is_not_null()).select(key, "label")
    return left.join(right.unique("key"), on="key", how="inner")
