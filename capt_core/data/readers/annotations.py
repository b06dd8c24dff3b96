"""Annotations of other tools, as rows of a table: path, label and, where they give it, split."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import yaml

from capt_core.data.readers.listing import SPLIT_WORDS
from capt_core.data.scan import is_image_name, subfolders
from capt_core.errors import CaptError, reason
from capt_core.text_file import read_text

Row = tuple[str, str, str]
_LARGEST_JSON = 512 * 1024**2
_JSON_FOLDERS = ("annotations", "labels", *SPLIT_WORDS)
_ONE_CLASS = "not one class an image"


@dataclass(frozen=True)
class Annotations:
    """Annotations found in a folder.

    Attributes:
        what: they are, as a message says it.
        rows: reads them: path relative to the folder, label, and split or an empty text. Images
            with objects of several classes are left out.
    """

    what: str
    rows: Callable[[], Iterable[Row]]


def find_annotations(root: Path) -> Annotations | None:
    """Annotations of COCO, YOLO, Pascal VOC or FiftyOne, or labels by file name, in a folder."""
    folders = subfolders(root)
    files = sorted(name for name in os.listdir(root) if (root / name).is_file())
    found = _coco(root, folders) or _yolo(root, files, folders) or _voc(root, folders)
    return found or _labels_json(root, files, folders)


def _coco(root: Path, folders: Sequence[str]) -> Annotations | None:
    places = [root, *(root / name for name in folders if name.lower() in _JSON_FOLDERS)]
    documents = {
        path: document
        for place in places
        for path in sorted(place.glob("*.json"))
        if path.is_file()
        and _names_keys(path, ("images", "annotations", "categories"))
        and _is_coco(document := _json(path))
    }
    if not documents:
        return None
    names = ", ".join(path.relative_to(root).as_posix() for path in list(documents)[:3])
    return Annotations(
        f"COCO annotations ({names}), {_ONE_CLASS}",
        lambda: (
            row for path, document in documents.items() for row in _coco_rows(root, path, document)
        ),
    )


def _is_coco(document: object) -> bool:
    return isinstance(document, dict) and all(
        isinstance(document.get(key), list) and all(isinstance(row, dict) for row in document[key])
        for key in ("images", "annotations", "categories")
    )


def _coco_rows(root: Path, path: Path, document: dict[str, Any]) -> Iterator[Row]:
    try:
        names = {kind["id"]: str(kind["name"]) for kind in document["categories"]}
        labels: dict[Any, set[str]] = {}
        for object_ in document["annotations"]:
            labels.setdefault(object_["image_id"], set()).add(names[object_["category_id"]])
        images = {image["id"]: str(image["file_name"]) for image in document["images"]}
    except (KeyError, TypeError) as error:
        raise CaptError(f"{path}: not COCO's keys and ids ({reason(error)})") from error
    folders = ["", *_folders_below(root, 2)]
    words = [*re.split(r"[^a-z]+", path.stem.lower()), path.parent.name.lower()]
    split = next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), "")
    place = ""
    for image, file in images.items():
        if len(labels.get(image, ())) != 1:
            continue
        if not os.path.isfile(root / place / file):
            place = next((name for name in folders if os.path.isfile(root / name / file)), place)
        yield PurePosixPath(place, file).as_posix(), min(labels[image]), split


def _yolo(root: Path, files: Sequence[str], folders: Sequence[str]) -> Annotations | None:
    places = [root, *(root / name for name in folders if name.lower() in SPLIT_WORDS)]
    places = [at for at in places if (at / "labels").is_dir() and (at / "images").is_dir()]
    if not any(next((at / "labels").rglob("*.txt"), None) for at in places):
        return None
    names = next((found for name in files if (found := _yaml_names(root / name))), None)
    return Annotations(
        f"YOLO boxes (folders images and labels), {_ONE_CLASS}",
        lambda: (row for place in places for row in _yolo_rows(root, place, names)),
    )


def _yolo_rows(root: Path, place: Path, names: dict[str, str] | None) -> Iterator[Row]:
    for file in sorted((place / "labels").rglob("*.txt")):
        lines = read_text(file).splitlines()
        kinds = {line.split()[0] for line in lines if line.strip()}
        if len(kinds) != 1:
            continue
        kind = kinds.pop()
        inside = file.relative_to(place / "labels")
        split = next((SPLIT_WORDS[part] for part in _parts(root, file) if part in SPLIT_WORDS), "")
        for image in _images_called(place / "images" / inside.parent, file.stem):
            label = kind if names is None else names.get(kind, kind)
            yield image.relative_to(root).as_posix(), label, split


def _voc(root: Path, folders: Sequence[str]) -> Annotations | None:
    if not {"Annotations", "JPEGImages"} <= set(folders):
        return None

    def rows() -> Iterator[Row]:
        for file in sorted((root / "Annotations").glob("*.xml")):
            try:
                objects = ElementTree.parse(file).findall("object/name")
            except (OSError, ValueError, ElementTree.ParseError) as error:
                raise CaptError(f"{file}: not readable as XML ({reason(error)})") from error
            kinds = {name.text or "" for name in objects}
            for image in _images_called(root / "JPEGImages", file.stem) if len(kinds) == 1 else ():
                yield image.relative_to(root).as_posix(), min(kinds), ""

    return Annotations(f"Pascal VOC annotations (folder Annotations), {_ONE_CLASS}", rows)


def _labels_json(root: Path, files: Sequence[str], folders: Sequence[str]) -> Annotations | None:
    """Labels in a JSON file beside at most one folder, which would pass for the only class."""
    if len(folders) > 1:
        return None
    for name in files:
        if not name.lower().endswith(".json") or name.startswith("split"):
            continue
        document = _json(root / name)
        if isinstance(document, list) and document and isinstance(document[0], dict):
            continue
        by_stem = document.get("labels") if isinstance(document, dict) else None
        if isinstance(document, dict) and isinstance(by_stem, dict):
            classes = document.get("classes")
            return Annotations(
                f"{name} lists labels as FiftyOne exports them",
                partial(_labelled, root, by_stem, classes),
            )
        if isinstance(document, dict) and any(is_image_name(key) for key in document):
            return Annotations(
                f"{name} lists labels by file",
                partial(_labelled, root, document, None),
            )
    return None


def _labelled(root: Path, labels: dict[str, Any], classes: Any) -> Iterator[Row]:
    """Images below a folder whose path, name, or name without its ending is a key of `labels`."""
    for folder in ("", *_folders_below(root, 3)):
        for name in sorted(os.listdir(root / folder)):
            path = f"{folder}/{name}" if folder else name
            inner = path.partition("/")[2]
            keys = (path, inner, name, os.path.splitext(inner)[0], os.path.splitext(name)[0])
            label = next((labels[key] for key in keys if labels.get(key) is not None), None)
            if not is_image_name(name) or label is None:
                continue
            if isinstance(label, dict):
                label = label.get("label")
            if isinstance(classes, list) and type(label) is int and 0 <= label < len(classes):
                label = classes[label]
            yield path, str(label), ""


def _images_called(folder: Path, stem: str) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [folder / name for name in names if os.path.splitext(name)[0] == stem]


def _parts(root: Path, file: Path) -> list[str]:
    return [part.lower() for part in file.relative_to(root).parts]


def _folders_below(root: Path, depth: int) -> list[str]:
    found = []
    for name in subfolders(root):
        found.append(name)
        if depth > 1:
            found += [f"{name}/{inner}" for inner in _folders_below(root / name, depth - 1)]
    return found


def _yaml_names(path: Path) -> dict[str, str] | None:
    """Names by number in YOLO's ``data.yaml``: a list, or a mapping."""
    if path.suffix.lower() not in (".yaml", ".yml"):
        return None
    try:
        document = yaml.load(read_text(path), yaml.BaseLoader)
    except (CaptError, ValueError, RecursionError, yaml.YAMLError):
        return None
    names = document.get("names") if isinstance(document, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    return {str(key): str(name) for key, name in names.items()} if isinstance(names, dict) else None


def _names_keys(path: Path, keys: Sequence[str]) -> bool:
    """Whether a file names these keys near its beginning or end, where JSON's top level is."""
    try:
        with path.open("rb") as file:
            text = file.read(1024**2)
            file.seek(max(0, path.stat().st_size - 1024**2))
            text += file.read()
    except OSError:
        return False
    return sum(f'"{key}"'.encode() in text for key in keys) > 1


def _json(path: Path) -> Any:
    try:
        return json.loads(read_text(path, largest=_LARGEST_JSON))
    except (CaptError, ValueError, RecursionError):
        return None
