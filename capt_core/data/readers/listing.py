"""What a reader of the user's own data finds, and how it becomes a split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from capt_core.data.drawing import draw_splits
from capt_core.data.splits import Rejects, SplitData, in_split_order, path_problem
from capt_core.errors import CaptError, shown
from capt_core.params import Data

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_COLUMNS = {"path": pl.String, "label": pl.String, "split": pl.String}


@dataclass(frozen=True)
class Listing:
    """Images as a folder or table lists them.

    Attributes:
        rows: columns `path`, `label` (null: none given) and `split` (null: to be drawn).
        labels: all labels in class order; None orders those found (numbers by value).
        notes: lines that the user should read.
        place: what messages call a row (``labels.csv: line 3``); None: its number.
    """

    rows: pl.DataFrame
    labels: Sequence[str] | None = None
    notes: Sequence[str] = ()
    place: Callable[[int], str] | None = None


def listing_rows(
    paths: Sequence[str], labels: Sequence[str | None], splits: Sequence[str | None]
) -> pl.DataFrame:
    """The table of a `Listing`."""
    return pl.DataFrame({"path": paths, "label": labels, "split": splits}, schema=_COLUMNS)


def to_split(listing: Listing, where: str, data: Data, rejects: Rejects) -> SplitData:
    """Number the classes, leave out what cannot be used, draw the splits that are not given.

    Raises:
        CaptError: no images, no training images, or (unless quarantined) rows without a label, a
            file named twice or outside the folder, a class without images or with too few.
    """
    rows = _usable(listing, where, rejects)
    if not len(rows):
        raise _nothing_listed(listing, where, rejects)
    labels = listing.labels if listing.labels is not None else sorted_labels(rows["label"].unique())
    counts = dict(rows.group_by("label").len().iter_rows())
    missing = {"val", "test"} - set(rows["split"].drop_nulls().unique())
    kept = []
    for label in labels:
        if label not in counts:
            row = (label, None, label, "")
            rejects.add(where, row, f"class {shown(label)} has no images", "add some or remove it")
        elif counts[label] == 1 and "test" in missing and data.test_share > 0:
            path, _, split = rows.filter(pl.col("label") == label).row(0)
            reason = f"class {shown(label)} has a single image; training and test need one each"
            rejects.add(where, (path, None, label, split or ""), reason, "add more")
        else:
            kept.append(label)
    if len(kept) < len(counts):
        rows = rows.filter(pl.col("label").is_in(kept))
    shares = {"val": data.val_share, "test": data.test_share}
    drawn = {split: share for split, share in shares.items() if split in missing}
    notes = list(listing.notes)
    if drawn:
        rows = draw_splits(rows, drawn, data.split_seed)
        notes.append(_drawn_note(rows, drawn, data.split_seed))
    ids = {label: class_id for class_id, label in enumerate(kept)}
    samples = rows.select(
        "path",
        pl.col("label").replace_strict(ids, return_dtype=pl.Int64).alias("class_id"),
        "split",
    )
    if not (samples["split"] == "train").any():
        raise CaptError(f"{where}: no training images; name a split train, or give no splits")
    return SplitData(in_split_order(samples), kept, notes=notes)


def _nothing_listed(listing: Listing, where: str, rejects: Rejects) -> CaptError:
    left_out = rejects.frame()
    if len(left_out):
        first = left_out["reason"][0]
        return CaptError(
            f"{where}: no images are left: all {len(left_out)} are left out, the first as {first}"
        )
    if listing.place is not None:
        return CaptError(f"{where}: a table without rows; give it one per image")
    return CaptError(f"{where}: no images found; known endings are .jpg, .png, .webp and others")


def sorted_labels(labels: Iterable[str]) -> list[str]:
    """Labels in class order: whole numbers by value, anything else by code points."""
    found = sorted(labels)
    plain = all(label.isdecimal() and str(int(label)) == label for label in found)
    return sorted(found, key=int) if plain else found


def _drawn_note(rows: pl.DataFrame, drawn: dict[str, float], seed: int) -> str:
    counts = dict(rows.group_by("split").len().iter_rows())
    parts = " and ".join(f"{split} ({counts.get(split, 0)} images)" for split in sorted(drawn))
    return f"drawn from the training images with data.split_seed={seed}: {parts}"


def _usable(listing: Listing, where: str, rejects: Rejects) -> pl.DataFrame:
    """Rows with a label and a path of their own."""
    rows = listing.rows.with_row_index("row")
    twice = ~pl.col("path").is_first_distinct()
    suspect = rows.filter(
        twice
        | pl.col("label").is_null()
        | pl.col("path").is_null()
        | pl.col("path").str.contains(r"^$|^/|\x00|(^|/)\.\.(/|$)")
    )
    if not len(suspect):
        return rows.drop("row")
    for row, path, label, split in suspect.iter_rows():
        reason = path_problem(path or "")
        if reason is None and label is None:
            reason = f"{shown(path)} has no label"
        if reason is None:
            reason = f"{shown(path)} is listed a second time"
        place = listing.place(row) if listing.place else f"{where}: row {row + 1}"
        rejects.add(place, (path or "", None, label or "", split or ""), reason, "correct it")
    return rows.join(suspect.select("row"), on="row", how="anti", maintain_order="left").drop("row")
