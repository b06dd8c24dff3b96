"""The user's own images as a CSV or Parquet table lists them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import polars as pl

from capt_core.data.readers.listing import SPLIT_WORDS, Listing, listing_rows
from capt_core.errors import CaptError

TEXT_ENDINGS = (".csv", ".tsv")
PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "image_path", "image")
LABEL_COLUMNS = ("label", "class", "class_name", "category", "target")
SPLIT_COLUMNS = ("split", "set", "subset", "partition")


def read_tables(files: Sequence[Path], root: Path) -> Listing:
    """List the images that tables name: a path and a label per row, a split if there is one.

    Paths are relative to the table's folder; those below it may be absolute. Several tables are
    splits, named for them.

    Raises:
        CaptError: not a readable table, a column is missing, an unknown split.
    """
    frames = [_read(path, root, split) for path, split in file_splits(files).items()]
    return Listing(pl.concat(frames))


def file_splits(files: Sequence[Path]) -> dict[Path, str | None]:
    """Each file's split by its name (``train.csv``, ``test-00000-of-00002.parquet``), or None.

    Raises:
        CaptError: several files, but not all of them named for a split.
    """
    splits = {path: split_of_name(path) for path in sorted(files)}
    if None in splits.values() and len(files) > 1 and set(splits.values()) != {None}:
        odd = next(path for path, split in splits.items() if split is None)
        raise CaptError(
            f"{odd}: other tables beside it are named for splits, this one is not; "
            "choose one with --set data.table=FILE"
        )
    return splits


def split_of_name(path: Path) -> str | None:
    """The split that a file's name begins with, or None."""
    word = path.name.split(".")[0].split("-")[0].split("_")[0]
    return SPLIT_WORDS.get(word.lower())


def column_named(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """The first column whose name, in any case, is one of `names`; None if there is none."""
    lower = {column.lower().strip(): column for column in reversed(columns)}
    return next((lower[name] for name in names if name in lower), None)


def _read(path: Path, root: Path, split: str | None) -> pl.DataFrame:
    try:
        if path.suffix.lower() in TEXT_ENDINGS:
            frame = pl.read_csv(path, infer_schema=False, separator=_separator(path))
        else:
            frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        # What follows is advice to callers of polars.
        reason = " ".join(str(error).split()).partition(" Consider ")[0][:160]
        advice = "; save it as UTF-8" if "utf-8" in reason else ""
        raise CaptError(f"{path}: not a readable table ({reason}){advice}") from error
    names = column_named(frame.columns, PATH_COLUMNS)
    labels = column_named(frame.columns, LABEL_COLUMNS)
    for column, wanted in ((names, PATH_COLUMNS), (labels, LABEL_COLUMNS)):
        if column is None:
            raise CaptError(
                f"{path}: no column {wanted[0]} (or {', '.join(wanted[1:])}); its columns are "
                f"{', '.join(frame.columns)} (data.layout=class_folders uses no table)"
            )
    assert names is not None
    assert labels is not None
    splits = column_named(frame.columns, SPLIT_COLUMNS) if split is None else None
    below = _relative_folder(path, root)
    return listing_rows(
        [_relative(str(name or ""), path, root, below) for name in frame[names].to_list()],
        [None if label is None else str(label) for label in frame[labels].to_list()],
        _splits(frame, splits, path) if splits else [split] * len(frame),
    )


def _separator(path: Path) -> str:
    """Tab, semicolon or comma: whichever stands in the first line most often."""
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        header = lines.readline()
    return max(",;\t", key=header.count)


def _relative_folder(path: Path, root: Path) -> str:
    folder = path.parent.relative_to(root).as_posix()
    return "" if folder == "." else f"{folder}/"


def _relative(name: str, table: Path, root: Path, below: str) -> str:
    if "\\" in name and not (table.parent / name).exists():
        name = name.replace("\\", "/")  # a table written on Windows
    if "//" in name or "./" in name:
        name = PurePosixPath(name).as_posix()  # one file, one spelling: it may be listed twice
    if not name.startswith("/"):
        return f"{below}{name}" if name else ""
    for folder in (root, root.resolve()):
        if Path(name).is_relative_to(folder):
            return Path(name).relative_to(folder).as_posix()
    return name


def _splits(frame: pl.DataFrame, column: str, path: Path) -> list[str]:
    splits = []
    for row, word in enumerate(frame[column].to_list(), start=1):
        split = SPLIT_WORDS.get(str(word).strip().lower())
        if split is None:
            raise CaptError(
                f"{path}: row {row}: column {column} holds {word!r}, expected train, val or test"
            )
        splits.append(split)
    return splits
