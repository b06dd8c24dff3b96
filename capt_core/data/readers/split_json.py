"""Split files of the CoOp line of work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from capt_core.data.splits import SPLITS, Rejects, SplitData, path_problem, sample_frame
from capt_core.errors import CaptError, cut, shown
from capt_core.text_file import read_json


def read_split_json(path: Path, rejects: Rejects) -> SplitData:
    """Read ``{"train": [[path, label, class name], ...], "val": ..., "test": ...}``.

    Raises:
        CaptError: not such a file, labels with gaps, a label with two names, a label that is not
            in the training list; or (unless quarantined) a file named twice or outside the folder.
    """
    document = _read(path)
    seen: dict[str, str] = {}
    names: dict[int, str] = {}
    paths: list[str] = []
    labels: list[int] = []
    splits: list[str] = []
    for split in SPLITS:
        for row, entry in enumerate(document[split]):
            where = f"{path}: {split}[{row}]"
            if not _is_entry(entry):
                raise CaptError(
                    f"{where}: expected [path, label, class name], found {shown(entry)}"
                )
            image, label, name = entry
            if split != "train" and label not in names:
                raise CaptError(
                    f"{where}: label {shown(label)} ({cut(name)}) has no training images"
                )
            if names.setdefault(label, name) != name:
                raise CaptError(
                    f"{where}: label {shown(label)} is called {shown(name)} here, "
                    f"{shown(names[label])} before"
                )
            problem = path_problem(image)
            key = PurePosixPath(image).as_posix() if "//" in image or "./" in image else image
            if key in seen:
                problem = f"{shown(image)} is listed a second time (first as {seen[key]})"
            if problem:
                rejects.add(where, (image, label, name, split), problem, "correct the split file")
                continue
            seen[key] = f"{split}[{row}]"
            paths.append(image)
            labels.append(label)
            splits.append(split)
    if names and min(names) < 0:
        raise CaptError(
            f"{path}: label {shown(min(names))} ({cut(names[min(names)])}) is less than 0"
        )
    missing = sorted(set(range(len(names))) - set(names))
    if missing:
        raise CaptError(f"{path}: labels must run from 0 without gaps; {missing[0]} is missing")
    return SplitData(sample_frame(paths, labels, splits), [names[label] for label in sorted(names)])


def _read(path: Path) -> Mapping[str, list[Any]]:
    document = read_json(path, "get it again", any_text=True)
    if not isinstance(document, Mapping) or any(split not in document for split in SPLITS):
        raise CaptError(f"{path}: expected the keys train, val and test")
    for split in SPLITS:
        if not isinstance(document[split], list):
            raise CaptError(f"{path}: {split}: expected a list, found {shown(document[split])}")
    return document


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, Sequence)
        and len(entry) == 3
        and isinstance(entry[0], str)
        and type(entry[1]) is int
        and isinstance(entry[2], str)
    )
