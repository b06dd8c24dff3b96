"""ImageNet and its variants: one folder per class, names in a list next to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import polars as pl

from capt_core.advice import tool
from capt_core.data.registry import DatasetSpec
from capt_core.data.scan import BROKEN_LINK, broken_links, find_images, subfolders
from capt_core.data.splits import Rejects, SplitData, in_split_order
from capt_core.errors import CaptError, shown
from capt_core.text_file import read_text


def read_class_folders(spec: DatasetSpec, root: Path, rejects: Rejects) -> SplitData:
    """List a data set whose folders are its classes.

    Classes are numbered in the order of their folders' names (of the numbers, if `numbered`),
    images are listed class by class in the order of their names' code points. The field's code
    lists ImageNet in whatever order the file system gives; this order is the same everywhere.

    Raises:
        CaptError: no class folders, a folder without a name in the list, images outside the
            class folders.
    """
    parts = {split: root / spec.images / part for split, part in spec.splits.items()}
    present = {split: subfolders(folder) for split, folder in parts.items()}
    for split, folder in parts.items():
        if not present[split]:
            raise CaptError(
                f"{folder}: no class folders; expected the {split} images in one folder per class"
                f"; run: {tool('doctor', dataset=spec.name, data_root=root.parent)}"
            )
    for split, folder in parts.items():
        for name in broken_links(folder):
            row = ((folder / name).relative_to(root / spec.images).as_posix(), None, name, split)
            rejects.add(str(folder / name), row, BROKEN_LINK, "correct or remove it")
    folders = sorted({name for names in present.values() for name in names})
    if spec.numbered:
        folders.sort(key=_number(root / spec.images))
    names = _class_names(spec, root, folders)
    ids = {folder: class_id for class_id, folder in enumerate(folders)}
    frames = [
        _list_class(parts[split], root / spec.images, split, folder, ids[folder], names, rejects)
        for split in parts
        for folder in folders
        if folder in present[split]
    ]
    return SplitData(in_split_order(pl.concat(frames)), names)


def _list_class(
    part: Path,
    images: Path,
    split: str,
    folder: str,
    class_id: int,
    names: list[str],
    rejects: Rejects,
) -> pl.DataFrame:
    found = find_images(part / folder)
    prefix = (part / folder).relative_to(images).as_posix()
    for path, why in found.problems:
        row = (f"{prefix}/{path}", class_id, names[class_id], split)
        rejects.add(str(part / folder / path), row, why, "rename or remove it")
    paths = pl.Series("path", [f"{prefix}/{path}" for path in found.images], dtype=pl.String)
    return paths.to_frame().with_columns(
        pl.lit(class_id, pl.Int64).alias("class_id"), pl.lit(split).alias("split")
    )


def _number(images: Path) -> Callable[[str], int]:
    def number(folder: str) -> int:
        if not folder.isdecimal():
            raise CaptError(f"{images / folder}: expected folders named 0, 1, 2, ...; move it away")
        return int(folder)

    return number


def _class_names(spec: DatasetSpec, root: Path, folders: list[str]) -> list[str]:
    """A name for every class folder; where two share one, the registry's other name."""
    if spec.class_names is None:
        return folders
    path = _names_file(spec.class_names, root)
    lines = read_text(path, "get the list again").splitlines()
    pairs = [line.strip().partition(" ")[::2] for line in lines if line.strip()]
    listed = (
        {str(number): name.strip() for number, (_, name) in enumerate(pairs)}
        if spec.numbered
        else {folder: name.strip() for folder, name in pairs}
    )
    unnamed = [folder for folder in folders if folder not in listed]
    if unnamed:
        raise CaptError(
            f"{path}: no name for the class folder {shown(unnamed[0])} ({len(unnamed)} such "
            "folders); move what is no class out of the image folder, or get the list again"
        )
    names = [listed[folder] for folder in folders]
    times = Counter(names)
    return [
        spec.shared_names.get(folder, name) if times[name] > 1 else name
        for folder, name in zip(folders, names, strict=True)
    ]


def _names_file(name: str, root: Path) -> Path:
    """The list next to the images, or the one in ImageNet's folder."""
    choices = [root / name, root.parent / "imagenet" / name]
    for path in choices:
        if path.is_file():
            return path
    raise CaptError(
        f"looked for the class names {choices[0]} and {choices[1]}, which do not exist; "
        f"capt-stage fetch gets {name}"
    )
