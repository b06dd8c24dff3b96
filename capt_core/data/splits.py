"""Reading splits: which image is which class, in training, validation or test."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from capt_core.data.registry import DatasetSpec
from capt_core.errors import CaptError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Sample:
    """One image: `path` is relative to the data set's image folder, with forward slashes."""

    path: str
    class_id: int
    split: str


@dataclass(frozen=True)
class SplitData:
    """All samples (train, val, test, each in split-file order) and the class names by id."""

    samples: list[Sample]
    class_names: list[str]


def read_split(spec: DatasetSpec, data_root: str | None) -> tuple[SplitData, Path]:
    """Read a data set's split from disk; returns it with the folder of its images.

    Raises:
        CaptError: missing root, wrong layout or a damaged split; the message says what was
            looked for and where.
    """
    root = checked_root(spec, data_root)
    split = root / spec.split_file
    data = _read_zhou(split) if spec.reader == "zhou" else _read_aircraft(root)
    check_classes(data, str(split))
    return data, root / spec.image_folder


def checked_root(spec: DatasetSpec, data_root: str | None) -> Path:
    """Folder of a data set, after checking that the usual layout is there.

    Raises:
        CaptError: a part of the layout is missing.
    """
    if data_root is None:
        raise CaptError(
            f"data.root is not set; give --set data.root=DIR, where DIR holds {spec.folder}/"
        )
    base = Path(data_root).expanduser()
    root = base / spec.folder
    if not base.is_dir():
        raise CaptError(
            f"data.root: {base} is not a folder; set data.root to the parent of {spec.folder}/"
        )
    if not root.is_dir():
        inside = (base / spec.split_file).is_file() or base.resolve().name == spec.folder
        hint = (
            f"data.root seems to be the data set itself, use its parent: {base.resolve().parent}"
            if inside
            else f"set data.root to the folder that holds {spec.folder}/"
        )
        raise CaptError(f"data.root: looked for {root}, which does not exist; {hint}")
    for part, kind in ((spec.split_file, "split file"), (spec.image_folder, "image folder")):
        path = root / part
        if not path.exists():
            raise CaptError(
                f"{spec.name}: looked for the {kind} {path}, which does not exist; "
                f"the usual layout is {spec.folder}/{spec.split_file} beside "
                f"{spec.folder}/{spec.image_folder}"
            )
    return root


def check_classes(data: SplitData, where: str) -> None:
    """Refuse class names that cannot work and classes without training images.

    Raises:
        CaptError: an empty or duplicate name, a class without training images, no classes.
    """
    if not data.class_names:
        raise CaptError(f"{where}: no classes found; is this the data set's split file?")
    seen: dict[str, int] = {}
    for class_id, name in enumerate(data.class_names):
        if not name.strip():
            raise CaptError(f"{where}: class {class_id} has an empty name; give it one")
        if spoken_name(name).lower() in seen:
            other = seen[spoken_name(name).lower()]
            raise CaptError(
                f"{where}: classes {other} and {class_id} are both called {name!r}; "
                "prompts could not tell them apart, rename one"
            )
        seen[spoken_name(name).lower()] = class_id
    trained = {sample.class_id for sample in data.samples if sample.split == "train"}
    for class_id, name in enumerate(data.class_names):
        if class_id not in trained:
            raise CaptError(
                f"{where}: class {class_id} ({name}) has no training images; "
                "add some or remove the class from the split"
            )


def spoken_name(class_name: str) -> str:
    """Class name as it stands in prompts: underscores become spaces."""
    return class_name.replace("_", " ")


def class_groups(class_count: int) -> list[str]:
    """`base` for the first ceil(C/2) class ids, `novel` for the rest (the field's rule)."""
    base = (class_count + 1) // 2
    return ["base" if class_id < base else "novel" for class_id in range(class_count)]


def _read_zhou(path: Path) -> SplitData:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CaptError(f"{path}: not a readable split file ({error}); get it anew") from error
    if not isinstance(document, Mapping) or any(split not in document for split in SPLITS):
        raise CaptError(f"{path}: expected the keys train, val and test")
    samples: list[Sample] = []
    names: dict[int, str] = {}
    for split in SPLITS:
        if not isinstance(document[split], list):
            raise CaptError(f"{path}: {split}: expected a list, found {document[split]!r}")
        for row, entry in enumerate(document[split]):
            where = f"{path}: {split}[{row}]"
            if not _is_entry(entry):
                raise CaptError(f"{where}: expected [path, label, class name], found {entry!r}")
            image, label, name = entry
            if split != "train" and label not in names:
                raise CaptError(f"{where}: label {label} ({name}) has no training images")
            if names.setdefault(label, name) != name:
                raise CaptError(
                    f"{where}: label {label} is called {name!r} here, {names[label]!r} before"
                )
            samples.append(Sample(image, label, split))
    missing = sorted(set(range(len(names))) - set(names))
    if missing:
        raise CaptError(f"{path}: labels must run from 0 without gaps; {missing[0]} is missing")
    return SplitData(samples, [names[label] for label in sorted(names)])


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, Sequence)
        and len(entry) == 3
        and isinstance(entry[0], str)
        and type(entry[1]) is int
        and isinstance(entry[2], str)
    )


def _read_aircraft(root: Path) -> SplitData:
    names = _lines(root / "variants.txt")
    labels = {name: label for label, name in enumerate(names)}
    samples: list[Sample] = []
    for split in SPLITS:
        path = root / f"images_variant_{split}.txt"
        for row, line in enumerate(_lines(path), start=1):
            image, _, name = line.partition(" ")
            if name not in labels:
                raise CaptError(f"{path}: line {row}: {name!r} is not in variants.txt")
            samples.append(Sample(f"{image}.jpg", labels[name], split))
    return SplitData(samples, names)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise CaptError(f"{path}: not a readable list ({error}); get it anew") from error
