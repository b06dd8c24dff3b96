"""Which of the user's folders are splits, which are classes, and which are neither.

The rule, for the folders of the system and of tools left out:

1. ``train`` with class folders in it and a folder of another split beside it are splits; so is
   ``train`` alone, or beside folders that are named as unlabelled. Names may share a word
   (``seg_train``, ``seg_test``) and be wrapped (``train/train/<class>``). All other folders, and
   split folders without class folders, are left out.
2. A single folder that holds nothing but folders is looked into instead.
3. Otherwise every folder is a class, but for those named for validation or test images.

Where folders fit no reading, or two, it is an error that names them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from capt_core.data.readers.folder_names import (
    IMAGE_FOLDERS,
    KINDS_OF_FILES,
    UNLABELLED,
    is_trainval,
    is_unlabelled,
    split_group,
    split_word,
)
from capt_core.data.readers.listing import SPLIT_WORDS
from capt_core.data.scan import find_images, holds_images, own_images, subfolders, system_folders
from capt_core.data.splits import SPLITS
from capt_core.errors import CaptError, shown
from capt_core.text import name_key

_DEEPEST = 8
_NAMED = 4


@dataclass(frozen=True)
class Folders:
    """How folders are read.

    Attributes:
        layout: `class_folders` or `split_folders`.
        parts: folders that hold class folders, relative to the root, each with its split or None.
        without: folders directly in a part that are no classes.
        notes: lines that the user should read.
    """

    layout: str
    parts: Mapping[str, str | None]
    without: frozenset[str] = frozenset()
    notes: Sequence[str] = ()


def find_folders(root: Path) -> Folders:
    """Decide how the folders below a folder are read.

    Raises:
        CaptError: they fit no reading, or two; the message names the settings that choose one.
    """
    here = ""
    outside: list[str] = []
    for _ in range(_DEEPEST):
        full = _full(root / here)
        group = split_group(full)
        if _are_splits(root, here, full, group):
            return _splits(root, here, full, group, outside)
        only = _wrapping(root, here, full)
        if only is None:
            return _classes(root, here, full, group, outside)
        outside += [*_counted(root / here, full, {only}), *_loose(root / here)]
        here = _join(here, only)
    deep = shlex.quote(f"data.root={root / here}")
    raise CaptError(f"{root}: {_DEEPEST} folders within each other; --set {deep}")


def every_folder(root: Path) -> Folders:
    """Every folder directly in the root, or in the one that wraps all of them, read as a class."""
    here = ""
    left: list[str] = []
    for _ in range(_DEEPEST):
        left += _loose(root / here)
        full = _full(root / here)
        only = _join(here, full[0]) if len(full) == 1 else ""
        if not only or own_images(root / only) or not _is_parent(root / only):
            break
        here = only
    notes = [f"left out: {listed(left)}"] if left else []
    return Folders("class_folders", {here: None}, notes=notes)


def split_folders(root: Path) -> Folders:
    """Folders named for splits read as such, whatever else is there.

    Raises:
        CaptError: there are none with class folders, or two stand for one split.
    """
    here = ""
    outside: list[str] = []
    for _ in range(_DEEPEST):
        full = _full(root / here)
        group = split_group(full)
        if "train" in group.values():
            return _splits(root, here, full, group, outside)
        if len(full) != 1:
            break
        outside += _loose(root / here)
        here = _join(here, full[0])
    raise CaptError(f"{root}: expected the folders train, val and test, with class folders in them")


def count_images(folder: Path) -> str:
    """How many images are in a folder and below it, in words."""
    return images(len(find_images(folder).images))


def images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"


def listed(names: Iterable[str], most: int = _NAMED) -> str:
    """The first names, on one short line."""
    found = [shown(name, 62)[1:-1] for name in names]
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


def _are_splits(root: Path, here: str, full: Sequence[str], group: dict[str, str]) -> bool:
    """Whether folders named for splits are splits, and not classes.

    Raises:
        CaptError: they may be either, or lack what splits need.
    """
    folder = root / here
    splits = set(group.values())
    sorted_into_classes = {name for name in group if _is_parent(root / _join(here, name))}
    others = [name for name in full if name not in group]
    if "train" not in splits:
        if len(full) > 1 and group and (not others or sorted_into_classes):
            _check_holds_splits(root, here, others)
            raise CaptError(
                f"{folder}: {listed(group)}, but no folder train; rename the one to train on, or "
                "--set data.layout=class_folders if they are classes"
            )
        return False
    if any(group[name] == "train" for name in sorted_into_classes):
        if len(splits) > 1 or all(is_unlabelled(name) for name in others):
            return True
        train = next(name for name in group if group[name] == "train")
        raise CaptError(
            f"{folder}: {train} may be the training images, its folders being the classes, or a "
            f"class beside {listed(others)}; --set data.layout=split_folders reads {train} alone, "
            "--set data.layout=class_folders makes a class of every folder"
        )
    if len(splits) > 1 or not others:
        raise _unsorted(folder, group)
    return False


def _wrapping(root: Path, here: str, full: Sequence[str]) -> str | None:
    """The one folder that holds the class or split folders, if the folders here are neither.

    Raises:
        CaptError: they are none, but there is not one such folder; splits within several folders.
    """
    folder = root / here
    if full and all(name_key(name) in KINDS_OF_FILES for name in full):
        holding = [name for name in full if name_key(name) in IMAGE_FOLDERS]
        if len(holding) == 1 and _is_parent(folder / holding[0]):
            return holding[0]
        raise CaptError(
            f"{folder}: {listed(full)}: no names of classes; put the images into a folder per "
            "class, list them in a table with the columns path and label, or, where these are "
            "classes, --set data.layout=class_folders"
        )
    if len(full) == 1 and _is_parent(folder / full[0]) and not own_images(folder / full[0]):
        return full[0]
    _check_holds_splits(root, here, full if len(full) > 1 else [])
    return None


def _check_holds_splits(root: Path, here: str, names: Sequence[str]) -> None:
    """Refuse folders beside others that are a data set of their own, with splits in it."""
    for name in names:
        inner = _unwrapped(root, _join(here, name))
        inside = split_group(_full(root / inner))
        if len(set(inside.values())) > 1 and "train" in inside.values():
            alone = shlex.quote(f"data.root={root / inner}")
            raise CaptError(
                f"{root / here}: {listed([name])} holds {listed(inside)}, and other folders are "
                f"beside it; --set {alone} reads it alone; where it is a class whose images are to "
                "be split anew, --set data.layout=class_folders"
            )


def _classes(
    root: Path, here: str, full: Sequence[str], group: dict[str, str], outside: Sequence[str]
) -> Folders:
    """Every folder a class, but those named for validation or test images."""
    folder = root / here
    if not subfolders(folder):
        raise _nothing(folder)
    splits = {name for name in group if group[name] != "train"} if len(full) > 1 else set()
    classes = [name for name in full if name not in splits]
    notes = []
    left = [*_counted(folder, full, set(classes)), *_loose(folder), *outside]
    if splits and len(classes) < 2:
        raise CaptError(
            f"{folder}: {listed(sorted(splits))} may be a split or a class beside "
            f"{listed(classes)}; --set data.layout=class_folders makes a class of every folder; or "
            "move the images to train on into train/<class>/"
        )
    if left or here:
        notes.append(
            f"read as class_folders: the {_folders(len(classes))} in {shown(str(folder), 80)}"
            + (f"; left out: {listed(left)}" if left else "")
            + ("; --set data.layout=class_folders makes a class of every folder" if splits else "")
        )
    strange = UNLABELLED | KINDS_OF_FILES
    odd = [name for name in classes if name_key(name) in strange or split_word(name)]
    if odd and len(classes) > 1:
        away = shlex.join(["mv", str(folder / odd[0]), str(folder / f"_{odd[0]}")])
        notes.append(f"{listed(odd)}: read as a class; if it is none, leave it out with: {away}")
    notes += _deeper(folder, classes)
    return Folders("class_folders", {here: None}, frozenset(splits), notes)


def _splits(
    root: Path, here: str, full: Sequence[str], group: dict[str, str], outside: Sequence[str]
) -> Folders:
    """Folders of one group as splits; the note says what they are and what is left out."""
    folder = root / here
    parts = {name: _unwrapped(root, _join(here, name)) for name in group}
    inside = {name: _full(root / part) for name, part in parts.items()}
    train = [name for name in group if group[name] == "train"]
    trained = {name_key(label) for name in train for label in inside[name]}
    used: dict[str, str] = {}
    for name, labels in inside.items():
        # test/test/*.jpg: the one folder wraps unsorted images, it is not a class.
        if len(labels) > 1 or (labels and name_key(labels[0]) in trained):
            used[name] = group[name]
    if "train" not in used.values():
        raise _unsorted(folder, group)
    for split in used.values():
        twice = [name for name in used if used[name] == split]
        if len(twice) > 1:
            raise CaptError(
                f"{folder}: two folders stand for one split: {listed(twice)}; merge them, or let "
                "the name of the one to leave out begin with _"
            )
    whole = [name for name in used if is_trainval(name)]
    if whole and "val" in used.values():
        raise CaptError(
            f"{folder}: {listed(whole)} is named for the validation images too, and "
            f"{listed(name for name in used if used[name] == 'val')} is beside it; let the name of "
            "the one to leave out begin with _"
        )
    empty = [name for name in subfolders(folder) if name not in full and split_word(name)]
    left = [*_counted(folder, [*full, *empty], set(used)), *_loose(folder), *outside]
    for name in used:
        loose = own_images(root / parts[name])
        left += [f"{images(len(loose))} directly in {parts[name]}"] if loose else []
    plain = all(part.lower() in SPLIT_WORDS for part in (parts[name] for name in used))
    notes = []
    if left or not plain:
        kinds = listed(
            parts[name] if parts[name] == split else f"{split} from {parts[name]}"
            for split in SPLITS
            for name in used
            if used[name] == split
        )
        notes.append(
            f"read as split_folders ({kinds})"
            + (f"; left out: {listed(left)}" if left else "")
            + "; --set data.layout=class_folders makes classes of the folders instead"
        )
    notes += _deeper(root, (_join(parts[name], label) for name in used for label in inside[name]))
    found = {parts[name]: split for split in SPLITS for name in used if used[name] == split}
    return Folders("split_folders", found, notes=notes)


def _deeper(folder: Path, classes: Iterable[str]) -> list[str]:
    """A line on folders within class folders, if there are any."""
    deeper = [_join(name, below) for name in classes for below in _full(folder / name)]
    if not deeper:
        return []
    return [
        f"{_folders(len(deeper))} within class folders ({listed(deeper, 2)}) belong to the class "
        "above; to make them classes, list the images in a table"
    ]


def _unsorted(folder: Path, group: Iterable[str]) -> CaptError:
    return CaptError(
        f"{folder}: {listed(group)} hold no class folders; sort their images into "
        "<split>/<class>/, list them in a table with the columns path and label, or, where they "
        "are classes themselves, --set data.layout=class_folders"
    )


def _unwrapped(root: Path, part: str) -> str:
    """The folder within a folder that holds the class folders, where single folders wrap them."""
    for _ in range(_DEEPEST):
        inside = _full(root / part)
        if len(inside) != 1 or own_images(root / part):
            break
        inner = _join(part, inside[0])
        if own_images(root / inner) or not _is_parent(root / inner):
            break
        part = inner
    return part


def _nothing(folder: Path) -> CaptError:
    left = system_folders(folder)
    passed = f" ({listed(left)}: folders of the system and of tools are left out)" if left else ""
    if own_images(folder):
        return CaptError(
            f"{folder}: images without class folders{passed}; put each into a folder named for its "
            "class, or list them in a table with the columns path and label"
        )
    return CaptError(
        f"{folder}: neither class folders (<class>/<image>) nor a table (.csv, .parquet) were "
        f'found{passed}; the README describes the layouts ("Your own images")'
    )


def _is_parent(folder: Path) -> bool:
    return bool(_full(folder))


def _full(folder: Path) -> list[str]:
    """Folders in a folder that hold images, at any depth."""
    return [name for name in subfolders(folder) if holds_images(folder / name)]


def _counted(folder: Path, names: Iterable[str], used: Set[str]) -> list[str]:
    """The folders that are not used, each with its number of images."""
    return [f"{name} ({count_images(folder / name)})" for name in names if name not in used]


def _loose(folder: Path) -> list[str]:
    loose = own_images(folder)
    return [f"{images(len(loose))} beside the folders"] if loose else []


def _folders(count: int) -> str:
    return f"{count} folder" if count == 1 else f"{count} folders"


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
