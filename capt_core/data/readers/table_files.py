"""Which tables belong together, and which split each of them is."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from capt_core.data.column_files import TABLE_ENDINGS
from capt_core.data.readers.listing import SPLIT_WORDS
from capt_core.errors import CaptError


def file_splits(files: Sequence[Path], root: Path) -> dict[Path, str | None]:
    """Each file's split by its name (``train.csv``, ``test-00000-of-00002.parquet``), or None.

    Raises:
        CaptError: several files, but not all of them named for a split.
    """
    splits = {path: split_of_file(path, root) for path in sorted(files)}
    if None in splits.values() and len(files) > 1 and set(splits.values()) != {None}:
        odd = next(path for path, split in splits.items() if split is None)
        trained = next((path for path, split in splits.items() if split == "train"), odd)
        choice = shlex.quote(f"data.table={trained.relative_to(root).as_posix()}")
        raise CaptError(
            f"{odd}: other tables beside it are named for splits, this one is not; "
            f"choose one with --set {choice}, or move those to leave out to another folder"
        )
    return splits


def split_of_name(path: Path) -> str | None:
    """The split that a file's name gives as a word of its own (``cifar10-train-00000``), or None.

    The first word counts most; further in, words for two splits give none.
    """
    words = re.split(r"[^a-z0-9]+", path.name.split(".")[0].lower())
    found = [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]
    if words[0] in SPLIT_WORDS:
        return found[0]
    return found[0] if len(set(found)) == 1 else None


def split_of_file(path: Path, root: Path) -> str | None:
    """The split that a file's name gives, or else the folder below `root` that it lies in."""
    below = path.relative_to(root).parent
    return split_of_name(path) or (split_of_name(below) if below.name else None)


def missing_parts(files: Sequence[Path]) -> list[str]:
    """A line for each set of ``<name>-00000-of-00002`` files some of which are not there."""
    parts: dict[tuple[Path, int], set[str]] = {}
    for path in files:
        if part := re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})", path.stem):
            parts.setdefault((path.with_name(part[1]), int(part[3])), set()).add(part[2])
    return [
        f"{name}-*: {len(there)} of {total} files are here; the images in the others are missing"
        for (name, total), there in parts.items()
        if len(there) < total
    ]


def row_split(word: object) -> str | None:
    """The split that a cell of a split column names, or None."""
    return SPLIT_WORDS.get(str(word).strip().lower())


def is_one_set(files: Sequence[Path], root: Path) -> bool:
    """Whether tables are the parts of one: named for splits, or alike but for a number."""
    if len({path.suffix.lower() for path in files}) > 1:
        return False
    if all(split_of_file(path, root) for path in files):
        return True
    stems = {re.sub(r"\d+", "0", path.stem) for path in files}
    return len(stems) == 1 and files[0].suffix.lower() in TABLE_ENDINGS
