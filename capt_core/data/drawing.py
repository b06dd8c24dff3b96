"""Setting images of the user's own apart for validation and test."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence

import polars as pl

from capt_core.text import normal


def place_of(path: str, seed: int) -> float:
    """An image's place in [0, 1), spread evenly: a function of its path and the seed alone."""
    digest = hashlib.blake2b(f"{seed}/{normal(path)}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def cuts(places: Sequence[float], test_share: float, val_share: float) -> tuple[int, int]:
    """Where the sorted places of one class's images are cut: test before, validation behind.

    Images below `test_share` are test images, those from 1 - `val_share` on validation images: a
    share that changes, or a split that is given from now on, moves no image of the other split.
    A cut moves only where a split of a share above 0 would be empty, test before validation, and
    never leaves training without an image.

    Args:
        places: from `place_of`, ascending.
        test_share, val_share: shares of the images.

    Returns:
        Number of test images, and the position of the first validation image.
    """
    count = len(places)
    spare = 1 if val_share and count > 2 else 0
    test = max(bisect_left(places, test_share), 1) if test_share else 0
    test = max(0, min(test, count - 1 - spare))
    if not val_share:
        return test, count
    val = min(bisect_left(places, 1 - val_share), count - 1)
    return test, min(max(val, test + 1), count)


def draw_splits(rows: pl.DataFrame, shares: dict[str, float], seed: int) -> pl.DataFrame:
    """Set a share of each class's training images apart, see `cuts`.

    Every image has a place of its own, so that adding or removing others leaves it in its split;
    a class so small that a split of it would be empty is the exception.

    Args:
        rows: columns `path`, `label` and `split`; a null split counts as training.
        shares: `val` and `test`, or one of them, to the share of images.
        seed: of the draw.
    """
    rows = rows.with_columns(pl.col("split").fill_null("train"))
    splits = rows["split"].to_list()
    train = rows.select("path", "label", "split").with_row_index("row").filter(split="train")
    for _, members in train.select("row", "path", "label").group_by("label", maintain_order=True):
        ordered = sorted(
            (place_of(path, seed), path, row)
            for row, path in members.select("row", "path").iter_rows()
        )
        places = [place for place, _, _ in ordered]
        test, val = cuts(places, shares.get("test", 0.0), shares.get("val", 0.0))
        for position, (_, _, row) in enumerate(ordered):
            splits[row] = "test" if position < test else "train" if position < val else "val"
    return rows.with_columns(pl.Series("split", splits, dtype=pl.String))
