"""Names of files and classes as other systems write them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from capt_core.data.readers.layouts import listed
from capt_core.data.scan import spelled_on_disk
from capt_core.data.splits import Rejects, SplitData
from capt_core.errors import shown
from capt_core.text import tells_nothing


def with_paths_on_disk(data: SplitData, images: Path, where: str, rejects: Rejects) -> SplitData:
    """Paths whose letters the file system composes otherwise than the list, as it has them.

    Raises:
        CaptError: two of the list's paths are one file.
    """
    foreign = data.samples.with_row_index("row").filter(
        pl.col("path").str.contains(r"[^\x00-\x7f]")
    )
    known: dict[str, dict[str, str]] = {}
    found = {
        row: spelled
        for row, path in foreign.select("row", "path").iter_rows()
        if (spelled := spelled_on_disk(images, path, known)) != path
    }
    if not found:
        return data
    paths = data.samples["path"].to_list()
    for row, path in found.items():
        paths[row] = path
    samples = data.samples.with_columns(pl.Series("path", paths, dtype=pl.String))
    twice = ~samples["path"].is_first_distinct()
    for path, class_id, split in samples.filter(twice).iter_rows():
        row = (path, class_id, data.class_names[class_id], split)
        reason = f"{shown(path)} is listed a second time, its letters composed otherwise"
        rejects.add(where, row, reason, "correct it")
    return replace(data, samples=samples.filter(~twice))


def untested_note(data: SplitData) -> str | None:
    """What to say of classes without test images where others have some."""
    tested = set(data.samples.filter(split="test")["class_id"])
    names = [name for class_id, name in enumerate(data.class_names) if class_id not in tested]
    if not tested or not names:
        return None
    return f"{len(names)} of {len(data.class_names)} classes have no test images ({listed(names)})"


def numbers_note(names: Sequence[str], path: Path) -> str | None:
    """What to say of class names that are numbers or ids."""
    telling = [name for name in names if tells_nothing(name)]
    if not telling:
        return None
    return (
        f"{len(telling)} of {len(names)} class names are numbers or ids ({listed(telling, 3)}), "
        f"of which a text tower knows nothing; say what they are called in {path}, a line each: "
        f"names: {{{json.dumps(telling[0], ensure_ascii=False)}: NAME, ...}}"
    )
