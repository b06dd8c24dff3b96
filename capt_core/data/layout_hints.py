"""Recognising data sets whose layout differs from the usual one."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from capt_core.data.readers.aircraft import read_aircraft
from capt_core.data.readers.split_json import read_split_json
from capt_core.data.registry import DatasetSpec
from capt_core.data.splits import Rejects
from capt_core.errors import CaptError

DEPTH = 4
MOST_FOLDERS = 20_000
_TRIED = 5  # images searched for per folder of the split
_VALIDATION = "ILSVRC2012_val_*.JPEG"


@dataclass(frozen=True)
class Hint:
    """A part of the layout that is not where it should be, and the command that moves it there."""

    problem: str
    command: str


def layout_hints(spec: DatasetSpec, base: Path) -> list[Hint]:
    """Find the parts of a data set that are not where they should be, below a folder.

    Args:
        spec: a benchmark.
        base: the folder that was given as `data.root`.
    """
    base = base.resolve()
    if not base.is_dir():
        return []
    folders = list(_folders(base))
    if spec.reader == "class_folders":
        return _class_folder_hints(spec, base, folders)
    root = base / spec.folder
    expected = root / str(spec.split)
    split = expected if expected.is_file() else _find(folders, str(spec.split))
    fetch = f"capt-stage fetch --dataset {spec.name} --root {_quote(base)}"
    if split is None:
        return [Hint(f"no {spec.split} below {base}", f"{fetch} --only {spec.split}")]
    hints = []
    if split != expected and spec.reader == "split_json":
        hints.append(Hint(f"{spec.split} is in {split.parent}", _link(split, expected)))
    if spec.reader == "aircraft" and split.parent != root:
        return [Hint(f"the lists and images are in {split.parent}", _link(split.parent, root))]
    first = _first_images(spec, split)
    if not first:
        declared = any(file.name == spec.split for file in spec.files)
        anew = f"{fetch} --only {spec.split}" if declared else f"{fetch} --again"
        return [*hints, Hint(f"{split} cannot be used", f"rm {_quote(split)} && {anew}")]
    return hints + _image_hints(spec, root, folders, first, fetch)


def _image_hints(
    spec: DatasetSpec, root: Path, folders: list[Path], first: dict[str, list[str]], fetch: str
) -> list[Hint]:
    """Where the images are, for every top folder of the split's paths."""
    images = root / spec.images
    found: dict[str, Path | None] = {}
    for top, paths in first.items():
        if not any(os.path.isfile(images / path) for path in paths):
            holding = (folder for folder in folders if os.path.isfile(folder / paths[0]))
            found[top] = next(holding, None)
    lost = [top for top, place in found.items() if place is None]
    places = {place for place in found.values() if place is not None}
    together = len(places) == 1 and len(found) == len(first) and not lost
    hints = []
    place = next(iter(places), None)
    if together and place == root and images.parent == root:
        hints.append(Hint(f"the images are in {place}", _nest(root, images, str(spec.split))))
    elif together and place and not images.is_relative_to(place) and _replaceable(images, place):
        hints.append(Hint(f"the images are in {place}", _into(place, images)))
    else:
        hints += [
            Hint(f"{top} is in {place}", _into(place / top, images / top))
            for top, place in found.items()
            if place is not None
        ]
    spelled = _spelled_otherwise(folders, {top: first[top] for top in lost})
    if spelled:
        top, place = next(iter(spelled.items()))
        moves = " && ".join(_into(place, images / top) for top, place in spelled.items())
        hints.append(Hint(f"class folders are spelled otherwise, {place} for {top}", moves))
    lost = [top for top in lost if top not in spelled]
    if lost:
        example = first[lost[0]][0]
        flat = _find(folders, Path(example).name)
        if flat is not None:
            hints.append(
                Hint(
                    f"images are in {flat.parent} without their class folders ({example})",
                    f"{fetch} gets them in the usual layout",
                )
            )
        else:
            hints.append(Hint(f"no images of {len(lost)} folders, such as {example}", fetch))
    return hints


def _class_folder_hints(spec: DatasetSpec, base: Path, folders: list[Path]) -> list[Hint]:
    # Without a list of names any folder may be a class: their parent's name must be the usual one.
    pattern = re.compile(r"\d{1,3}" if spec.numbered else r"n\d{8}" if spec.class_names else ".+")
    fetch = f"capt-stage fetch --dataset {spec.name} --root {_quote(base)}"
    hints = []
    for split, part in spec.splits.items():
        expected = base / spec.folder / spec.images / part
        if _has_classes(expected, pattern):
            continue
        flat = next((folder for folder in folders if any(folder.glob(_VALIDATION))), None)
        named = {part, split}
        if spec.class_names or not part:
            named |= {Path(spec.images).name, spec.folder}
        places = [folder for folder in folders if _has_classes(folder, pattern)]
        place = next((folder for folder in places if folder.name in named), None)
        if place is None and len(spec.splits) == 1 and spec.class_names:
            place = next(iter(places), None)
        if place is not None:
            hints.append(Hint(f"the {split} class folders are in {place}", _link(place, expected)))
        elif split == "test" and flat is not None:
            moved = "" if flat == expected else f"{_link(flat, expected)} && "
            hints.append(
                Hint(
                    f"the validation images in {flat} are not sorted into class folders",
                    f"{moved}{fetch} (with ILSVRC2012_devkit_t12.tar.gz in {base / spec.folder})",
                )
            )
        else:
            hints.append(Hint(f"no {split} class folders below {base}", fetch))
    return hints


def _folders(base: Path) -> Iterator[Path]:
    """Folders below one, nearest first, down to a depth; class folders count as leaves."""
    level, count = [base], 0
    for _ in range(DEPTH + 1):
        below: list[Path] = []
        for folder in level:
            yield folder
            count += 1
            if count > MOST_FOLDERS:
                return
            try:
                with os.scandir(folder) as entries:
                    below += sorted(
                        folder / entry.name
                        for entry in entries
                        if entry.is_dir(follow_symlinks=False)
                    )
            except OSError:
                continue
        level = below


def _find(folders: list[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _first_images(spec: DatasetSpec, split: Path) -> dict[str, list[str]]:
    """A few paths of the split by their top folder."""
    try:
        listed = (
            read_aircraft(split.parent)
            if spec.reader == "aircraft"
            else read_split_json(split, Rejects(True))
        )
    except CaptError:
        return {}
    first: dict[str, list[str]] = {}
    for path in listed.samples["path"]:
        top = path.split("/")[0] if "/" in path else "."
        paths = first.setdefault(top, [])
        if len(paths) < _TRIED:
            paths.append(path)
    return first


def _has_classes(folder: Path, pattern: re.Pattern[str]) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(pattern.fullmatch(entry.name) and entry.is_dir() for entry in entries)
    except OSError:
        return False


def _link(place: Path, expected: Path) -> str:
    return f"mkdir -p {_quote(expected.parent)} && ln -s {_quote(place)} {_quote(expected)}"


def _spelled_otherwise(folders: list[Path], lost: dict[str, list[str]]) -> dict[str, Path]:
    """Folders that hold a top folder's images under a name of other case, spaces or dashes."""
    named: dict[str, list[Path]] = {}
    for folder in folders:
        named.setdefault(_plain(folder.name), []).append(folder)
    spelled = {}
    for top, paths in lost.items():
        inside = paths[0].partition("/")[2]
        if inside:
            holding = (path for path in named.get(_plain(top), []) if os.path.isfile(path / inside))
            spelled[top] = next(holding, None)
    return {top: place for top, place in spelled.items() if place is not None}


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def _nest(root: Path, images: Path, split: str) -> str:
    """Move a folder's content one level down, all but the split file: a link would be a loop."""
    inner = root.with_name(f"{root.name}.inner")
    emptied = f"rmdir {_quote(images)} && " if images.exists() else ""
    return (
        f"{emptied}mv {_quote(root)} {_quote(inner)} && mkdir {_quote(root)} && "
        f"mv {_quote(inner)} {_quote(images)} && mv {_quote(images / split)} {_quote(root / split)}"
    )


def _replaceable(expected: Path, place: Path) -> bool:
    """Whether a folder is not there, is empty, or holds the right one."""
    return not expected.exists() or place.is_relative_to(expected) or not any(expected.iterdir())


def _into(place: Path, expected: Path) -> str:
    """Put a folder where it belongs; one level too many is taken out."""
    if place.parent == expected.parent and not expected.exists():
        return f"mv {_quote(place)} {_quote(expected)}"
    if not expected.exists():
        return _link(place, expected)
    if not place.is_relative_to(expected):
        return f"rmdir {_quote(expected)} && {_link(place, expected)}"
    outer = expected.with_name(f"{expected.name}.outer")
    inner = outer / place.relative_to(expected)
    return f"mv {_quote(expected)} {_quote(outer)} && mv {_quote(inner)} {_quote(expected)}"


def _quote(path: Path) -> str:
    return shlex.quote(str(path))
