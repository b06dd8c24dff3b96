"""Layouts of other tools: named for what they are, with the command that makes a table of them."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from capt_core.data.readers.annotations import find_annotations
from capt_core.data.scan import find_images, is_image_name, subfolders

_SHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
_ARRAYS = (".npz", ".npy", ".mat", ".h5", ".hdf5", ".pkl", ".pickle", ".tfrecord", ".mdb", ".bin")


def foreign_layout(root: Path) -> str | None:
    """What another tool's layout in a folder is, and how a table is made of it; None: none.

    The line reads after the folder's name and a colon. A layout of tables or class folders beside
    it, which could be meant, is not looked for.
    """
    files = sorted(name for name in os.listdir(root) if (root / name).is_file())
    folders = subfolders(root)
    finders: Sequence[Callable[[Path, list[str], list[str]], str | None]] = (
        _annotated,
        _lone_list,
        _json_rows,
        _packed,
    )
    return next((found for find in finders if (found := find(root, files, folders))), None)


def _annotated(root: Path, files: list[str], folders: list[str]) -> str | None:
    found = find_annotations(root)
    if found is None:
        return None
    command = f"python -m capt_core.data.as_table {shlex.quote(str(root))}"
    return f"{found.what}; to list its images in labels.csv, run: {command}"


def _lone_list(root: Path, files: list[str], folders: list[str]) -> str | None:
    """A list of another kind beside at most one folder, which would pass for the only class."""
    for name in files if len(folders) < 2 else ():
        lower = name.lower()
        if lower.endswith(_SHEETS):
            kind, remedy = "is a spreadsheet", "save it as CSV"
        elif lower.endswith(_ARCHIVES) and re.search(r"\.(csv|tsv|jsonl|parquet)\.\w+$", lower):
            kind, remedy = "is a packed table", "unpack it"
        elif lower.endswith(".txt") and _lists_images(root / name):
            kind, remedy = "lists images", "save it as CSV"
        else:
            continue
        return f"{name} {kind}; {remedy} (labels.csv beside it, with the columns path and label)"
    return None


def _lists_images(path: Path) -> bool:
    """Whether the first line of a text file holds the name of an image and something else."""
    try:
        words = re.split(r"[\s,;]+", _start(path).decode("utf-8", "replace").strip().split("\n")[0])
    except OSError:
        return False
    return len(words) > 1 and any(is_image_name(word) for word in words)


def _json_rows(root: Path, files: list[str], folders: list[str]) -> str | None:
    """JSON rows beside at most one folder."""
    for name in files if len(folders) < 2 else ():
        with contextlib.suppress(OSError, ValueError):
            if name.lower().endswith(".json") and re.match(rb"\s*\[\s*\{", _start(root / name)):
                return (
                    f"{name} lists rows as JSON; make JSON lines of it by: cd "
                    f'{shlex.quote(str(root))} && python -c "import json,sys;[print(json.dumps(r)) '
                    f'for r in json.load(open(sys.argv[1]))]" {shlex.quote(name)} > labels.jsonl'
                )
    return None


def _packed(root: Path, files: list[str], folders: list[str]) -> str | None:
    """Archives or arrays where no image file is."""
    below = [f"{folder}/{name}" for folder in folders for name in _names(root / folder)]
    everything = [*files, *below]
    archives = [name for name in everything if name.lower().endswith(_ARCHIVES)]
    arrays = [name for name in everything if name.lower().endswith(_ARRAYS)]
    if not (archives or arrays) or find_images(root).images:
        return None
    if archives:
        return f"{archives[0]} is an archive; unpack it, then give data.root the folder of images"
    return (
        f"{arrays[0]} holds arrays or records, not image files; save its images as PNG, each into "
        "a folder named for its class"
    )


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1000)
