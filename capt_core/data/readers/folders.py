"""The user's own images in one folder per class."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath

import polars as pl

from capt_core.data.readers.listing import SPLIT_WORDS, Listing, listing_rows, sorted_labels
from capt_core.data.scan import find_images, is_utf8, subfolders
from capt_core.data.splits import Rejects
from capt_core.errors import CaptError


def split_folders(root: Path) -> dict[str, str]:
    """Folders named like splits, if there is nothing else: folder to `train`, `val` or `test`."""
    folders = subfolders(root)
    named = {folder: SPLIT_WORDS.get(folder.lower(), "") for folder in folders}
    complete = all(named.values()) and "train" in named.values()
    return named if complete else {}


def read_class_folders(root: Path, rejects: Rejects) -> Listing:
    """List ``root/<class>/...``; folders below a class's folder belong to the class."""
    return _read({root: None}, root, rejects)


def read_split_folders(root: Path, rejects: Rejects) -> Listing:
    """List ``root/<split>/<class>/...``.

    Raises:
        CaptError: there are no such folders, or two stand for one split.
    """
    named = split_folders(root)
    if not named:
        raise CaptError(f"{root}: expected the folders train, val and test, and no others")
    if len(set(named.values())) < len(named):
        raise CaptError(f"{root}: two folders stand for one split: {', '.join(sorted(named))}")
    listing = _read({root / folder: split for folder, split in named.items()}, root, rejects)
    if not listing.labels:
        raise CaptError(
            f"{root}: {', '.join(named)} hold no class folders; where they are classes themselves, "
            "set data.layout=class_folders"
        )
    return listing


def _read(parts: dict[Path, str | None], root: Path, rejects: Rejects) -> Listing:
    frames = [listing_rows([], [], [])]
    classes: set[str] = set()
    others: Counter[str] = Counter()
    for part, split in parts.items():
        for label in subfolders(part):
            folder = part / label
            if not is_utf8(label):
                raise CaptError(f"{folder}: a folder name that is not valid UTF-8; rename it")
            prefix = folder.relative_to(root).as_posix()
            found = find_images(folder)
            for path, reason in found.problems:
                row = (f"{prefix}/{path}".rstrip("/"), None, label, split or "")
                rejects.add(str(folder / path), row, reason, "rename or remove it")
            others.update(PurePosixPath(name).suffix or "no ending" for name in found.others)
            classes.add(label)
            paths = [f"{prefix}/{path}" for path in found.images]
            # A table per folder: a list of all paths would take several times the memory.
            frames.append(listing_rows(paths, [label] * len(paths), [split] * len(paths)))
    notes = []
    if others:
        endings = ", ".join(sorted(others))
        notes.append(f"{others.total()} files that are no images by their ending: {endings}")
    return Listing(pl.concat(frames), sorted_labels(classes), notes)
