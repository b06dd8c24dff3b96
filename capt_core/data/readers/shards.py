"""Tar shards in the layout of WebDataset as a data set: which image is which class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from capt_core.addresses import address_of
from capt_core.data.readers.columns import (
    label_columns,
    read_labels,
)
from capt_core.data.readers.listing import Listing, listing_rows
from capt_core.data.readers.table_files import file_splits
from capt_core.data.remote.shards import Shard, key_of, open_shard
from capt_core.data.remote.tree import original
from capt_core.data.splits import Rejects
from capt_core.errors import CaptError
from capt_core.params import Data

_READ_AHEAD = 4  # shards that are looked through at once


def read_shards(shards: Sequence[Path], root: Path, data: Data, rejects: Rejects) -> Listing:
    """List the images of shards; an image's path is ``<shard>.tar/<member>``.

    Labels are those of ``KEY.cls``, ``KEY.txt`` or a value of ``KEY.json``; numbers give way to
    names that go with them one to one. ``data.label_column`` names the ending or the JSON value.
    Splits come from the shards' names.

    Raises:
        CaptError: no tar files, no labels, labels that do not go together; or (unless quarantined)
            members that are not used, a shard that is cut off, a sample without a label.
    """
    paths: list[str] = []
    splits: list[str | None] = []
    cells: list[dict[str, Any]] = []
    by_shard = file_splits(shards, root)
    # Looked up here: other threads know nothing of the remote folder that is being read.
    places = [original(path) for path in by_shard]
    with ThreadPoolExecutor(max_workers=_READ_AHEAD) as pool:
        shards_read = pool.map(_opened, places)
        for (path, split), place, found in zip(by_shard.items(), places, shards_read, strict=True):
            name = path.relative_to(root).as_posix()
            where = str(address_of(place) or place)
            for member, why in found.problems:
                row = (f"{name}/{member}", None, "", split or "")
                rejects.add(f"{where}: {member}", row, why, "write the shard anew")
            if found.cut:
                row = (name, None, "", split or "")
                rejects.add(where, row, f"{found.cut}: it is cut off", "get it again")
            for member in _one_image_each(found, data, name, where, split, rejects):
                paths.append(f"{name}/{member}")
                splits.append(split)
                cells.append(_texts(found, member, data.label_column))
    where = str(address_of(original(root)) or root)
    columns = _columns(cells, data, where)
    found_labels = read_labels(
        {name: [cell.get(name) for cell in cells] for name in columns},
        dict.fromkeys(columns),
        Path(where),
    )
    notes = [f"read as shards: {len(by_shard)} of them", *found_labels.notes]
    return Listing(
        listing_rows(paths, found_labels.texts, splits), None, notes, lambda row: paths[row]
    )


def _opened(place: Path) -> Shard:
    try:
        return open_shard(place)
    except OSError as error:
        shown = address_of(place) or place
        raise CaptError(
            f"{shown}: cannot be read ({error.strerror or error}); check its name and your "
            "permissions"
        ) from error


def _one_image_each(
    found: Shard, data: Data, name: str, where: str, split: str | None, rejects: Rejects
) -> list[str]:
    """The image of every sample; of several, the one that ``data.image_column`` names."""
    by_key: dict[str, list[str]] = {}
    for member in found.images:
        by_key.setdefault(key_of(member)[0], []).append(member)
    taken = []
    for key, members in by_key.items():
        if len(members) > 1 and data.image_column:
            wanted = data.image_column.lower().lstrip(".")
            members = [each for each in members if key_of(each)[1] == wanted] or members
        if len(members) > 1:
            endings = ", ".join(key_of(each)[1] for each in members)[:100]
            row = (f"{name}/{members[0]}", None, "", split or "")
            why = f"a sample of several images ({endings})"
            rejects.add(f"{where}: {key}", row, why, "choose one with --set data.image_column=jpg")
            continue
        taken += members
    return taken


def _texts(found: Shard, member: str, chosen: str | None) -> dict[str, Any]:
    """What a sample's labels say, by ending and by the name of a value of JSON that may be one."""
    labels = found.labels.get(key_of(member)[0], {})
    texts = {name: text for name, text in labels.items() if name != "json"}
    values = labels.get("json", {})
    likely = {*label_columns(list(values)), *([chosen.lstrip(".")] if chosen else [])}
    return {**{name: text for name, text in values.items() if name in likely}, **texts}


def _columns(cells: Sequence[dict[str, Any]], data: Data, where: str) -> list[str]:
    """Names under which the labels stand, the likeliest first."""
    counts = Counter(name for cell in cells for name in cell)
    if data.label_column:
        chosen = data.label_column.lstrip(".")
        if cells and chosen not in counts:
            known = ", ".join(list(counts)[:10]) or "none"
            raise CaptError(
                f"{where}: data.label_column: no sample has {chosen!r:.60}; known: {known}"
            )
        return [chosen]
    named = label_columns([name for name in counts if name not in ("cls", "txt")])
    # A text of its own for nearly every image is a caption.
    texts = {cell["txt"] for cell in cells if "txt" in cell}
    columns = [
        *(["cls"] if "cls" in counts else []),
        *named,
        *(["txt"] if texts and 2 * len(texts) <= counts["txt"] else []),
    ]
    if cells and not columns:
        raise CaptError(
            f"{where}: no labels beside the images (KEY.cls, KEY.txt, or KEY.json with label); "
            f"found: {', '.join(list(counts)[:10]) or 'images alone'}; name one with --set "
            "data.label_column=NAME"
        )
    return columns
