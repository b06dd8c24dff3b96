"""The user's own images in one folder per class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from pathlib import Path, PurePosixPath

import polars as pl

from capt_core.data.readers.layouts import Folders, listed
from capt_core.data.readers.listing import Listing, listing_rows, sorted_labels
from capt_core.data.scan import (
    BROKEN_LINK,
    Found,
    broken_links,
    find_images,
    is_utf8,
    subfolders,
    system_folders,
)
from capt_core.data.splits import Rejects
from capt_core.errors import CaptError, shown
from capt_core.text import clean_name, name_key


def read_folders(root: Path, folders: Folders, rejects: Rejects) -> Listing:
    """List ``<part>/<class>/...``; folders below a class's folder belong to the class.

    A class's label is its folder's name in normal form, without blanks at its ends. A class that is
    spelled otherwise in an earlier split keeps that spelling.

    Raises:
        CaptError: two folders with one label, a name that is empty or no text; or (unless
            quarantined) files that cannot be listed.
    """
    frames = [listing_rows([], [], [])]
    labels: set[str] = set()
    otherwise: list[str] = []
    endings: Counter[str] = Counter()
    passed = Found()
    looked_into = {above for part in folders.parts for above in (Path(part), *Path(part).parents)}
    for folder in sorted(looked_into):
        passed.system += system_folders(root / folder)
        for name in broken_links(root / folder):
            # It may have stood for a class or a split.
            row = ((folder / name).as_posix(), None, name, "")
            rejects.add(str(root / folder / name), row, BROKEN_LINK, "correct or remove it")
    for part, split in folders.parts.items():
        named = _labels(root / part, folders.without)
        found_before = {name_key(label): label for label in sorted(labels.difference(named))}
        for label, name in named.items():
            folder = root / part / name
            if label not in labels and name_key(label) in found_before:
                otherwise.append(f"{part}/{name}")
                label = found_before[name_key(label)]
            labels.add(label)
            prefix = folder.relative_to(root).as_posix()
            found = find_images(folder)
            for path, reason in found.problems:
                row = (f"{prefix}/{path}".rstrip("/"), None, label, split or "")
                rejects.add(str(folder / path), row, reason, "rename or remove it")
            endings.update(PurePosixPath(name).suffix or "no ending" for name in found.others)
            passed.system += found.system
            passed.hidden += found.hidden
            paths = [f"{prefix}/{path}" for path in found.images]
            # A table per folder: a list of all paths would take several times the memory.
            frames.append(listing_rows(paths, [label] * len(paths), [split] * len(paths)))
    notes = [*folders.notes, *_notes(endings, passed)]
    if otherwise:
        notes.append(
            f"{len(otherwise)} class folders are spelled otherwise than in another split "
            f"({listed(otherwise)}) and taken for the same classes"
        )
    return Listing(pl.concat(frames), sorted_labels(labels), notes)


def _labels(part: Path, without: Set[str]) -> dict[str, str]:
    """The label of each class folder, with the folder's name."""
    labels: dict[str, str] = {}
    for name in subfolders(part):
        if name in without:
            continue
        if not is_utf8(name):
            raise CaptError(f"{part / name}: a folder name that is not valid UTF-8; rename it")
        label = clean_name(name)
        if not label:
            raise CaptError(f"{part}: the folder {shown(name)} has an empty name; rename it")
        if label in labels:
            raise CaptError(
                f"{part}: the folders {_letters(labels[label])} and {_letters(name)} are "
                f"both called {shown(label)}; merge them or rename one"
            )
        labels[label] = name
    return labels


def _notes(endings: Counter[str], passed: Found) -> list[str]:
    """What was not listed, kind by kind."""
    notes = []
    if endings:
        kinds = listed(sorted(endings), 12)
        notes.append(f"{endings.total()} files that are no images by their ending: {kinds}")
    left = []
    if passed.system:
        names = listed(dict.fromkeys(PurePosixPath(name).name for name in passed.system))
        left.append(
            f"{len(passed.system)} folders of the system or of tools ({names}; names that begin "
            "with . _ @ # $ ~ are no classes)"
        )
    if passed.hidden:
        left.append(f"{len(passed.hidden)} hidden files ({listed(passed.hidden, 2)})")
    return [*notes, f"left out: {' and '.join(left)}"] if left else notes


def _letters(name: str) -> str:
    """A name as a message shows where it differs from one that looks the same."""
    return shown(name) if name.isascii() else ascii(name)[:100]
