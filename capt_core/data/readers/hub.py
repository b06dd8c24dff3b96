"""How Hugging Face lays out data sets: where tables lie, and where names of classes stand."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from capt_core.data.column_files import TABLE_ENDINGS, Table, features
from capt_core.data.parquet_images import holds_images
from capt_core.data.readers.listing import SPLIT_WORDS
from capt_core.data.readers.table_files import split_of_name
from capt_core.data.scan import find_images
from capt_core.errors import CaptError
from capt_core.text import clean_name
from capt_core.text_file import holds_no_characters, read_text

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_DEPTH = 4  # of the folders of configs, versions and splits
_LARGEST_TEXT = 16 * 1024**2


def hub_tables(root: Path) -> list[Path]:
    """Parquet or Arrow files in the folders below `root`, as the Hub and `datasets` write them.

    These are ``<config>/train-00000-of-00001.parquet``, ``<config>/<split>/0000.parquet`` and
    ``<split>/data-00000-of-00001.arrow``, where the folder of a config may be missing.

    Raises:
        CaptError: tables of several configs, or image files beside them; an unreadable table.
    """
    files = list(_tables_below(root, _DEPTH))
    if not files or not holds_images(files[0]):
        return []
    if find_images(root).images:
        raise CaptError(
            f"{root}: holds image files as well as tables with images ({files[0].name}); set "
            "data.layout=class_folders to use the files, or data.table="
            f"{shlex.quote(files[0].relative_to(root).as_posix())} to use that table"
        )
    configs = sorted({_config(path) for path in files})
    if len(configs) > 1:
        names = ", ".join(folder.relative_to(root).as_posix() for folder in configs[:6])
        more = ", ..." if len(configs) > 6 else ""
        raise CaptError(
            f"{root}: holds the tables of several data sets ({names}{more}); "
            f"choose one with --set data.root={shlex.quote(str(configs[0]))}"
        )
    return files


def unread_tables(root: Path, files: Sequence[Path]) -> list[str]:
    """Tables below a folder that are not among those that are read, relative to it."""
    others = (path for path in _tables_below(root, _DEPTH) if path not in files)
    return [path.relative_to(root).as_posix() for path in others]


def metadata_tables(root: Path) -> list[Path]:
    """``<split>/metadata.csv`` (or .jsonl, .parquet) in the folders of `root` named for splits."""
    with os.scandir(root) as entries:
        folders = sorted(entry.name for entry in entries if entry.name.lower() in SPLIT_WORDS)
    places = (root / folder / name for folder in folders for name in _METADATA)
    return [path for path in places if path.is_file()]


def class_label_names(feature: object) -> list[str] | None:
    """Names of a ``ClassLabel``, also of one in a list; None for another type."""
    while isinstance(feature, list) and len(feature) == 1:
        feature = feature[0]
    if isinstance(feature, dict) and feature.get("_type") in ("Sequence", "List", "LargeList"):
        feature = feature.get("feature")
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return None
    return _names(feature.get("names"))


def label_names(
    path: Path, root: Path, columns: Sequence[str], table: Table | None = None
) -> tuple[dict[str, list[str]], list[str]]:
    """Names of the numbers in columns of labels, by column, and a line if they stand elsewhere.

    Args:
        path: of the table.
        root: folder above it, up to which names are looked for.
        columns: that may hold the labels.
        table: the opened table, if it is one with Hugging Face metadata.

    Raises:
        CaptError: its metadata is damaged.
    """
    declared = {} if table is None else class_labels(table)
    if declared:
        return {name: declared[name] for name in columns if name in declared}, []
    beside = names_beside(path, root, columns)
    if beside is None:
        return {}, []
    column, names, source = beside
    return {column: names}, [f"names of the classes are taken from {source}"]


def class_labels(table: Table) -> dict[str, list[str]]:
    """Columns that a table's metadata declares as labels, with their names.

    Raises:
        CaptError: the metadata is damaged.
    """
    named = ((name, class_label_names(kind)) for name, kind in features(table).items())
    return {name: names for name, names in named if names and name in table.schema.names}


def names_beside(
    path: Path, root: Path, columns: Sequence[str]
) -> tuple[str, list[str], Path] | None:
    """Names of a column's numbers in a file beside a table: the column, its names and that file.

    Looked for are ``dataset_info.json``, ``dataset_infos.json`` and the card ``README.md``, in the
    table's folder and those above it up to the one above `root`, where the card is if `root` is a
    config or the images of a split. A file of another content is passed over.
    """
    folder = path.parent
    while True:
        for name, read in (
            ("dataset_info.json", _info_features),
            ("dataset_infos.json", _infos_features),
            ("README.md", _card_features),
        ):
            for column, names in read(_text(folder / name), _config(path).name).items():
                if column in columns:
                    return column, names, folder / name
        if folder in (root.parent, folder.parent):
            return None
        folder = folder.parent


def _tables_below(folder: Path, depth: int) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        found = sorted(
            (entry.name, entry.is_dir())
            for entry in entries
            if not entry.name.startswith((".", "_", "cache-"))
            and (entry.is_dir() or entry.is_file())
        )
    for name, is_folder in found:
        if is_folder and depth:
            try:
                yield from _tables_below(folder / name, depth - 1)
            except OSError:
                continue
        elif not is_folder and Path(name).suffix.lower() in TABLE_ENDINGS:
            yield folder / name


def _config(path: Path) -> Path:
    """The folder of the config that a table belongs to: the one above folders named for splits."""
    folder = path.parent
    return folder.parent if split_of_name(folder) else folder


def _text(path: Path) -> str:
    try:
        return read_text(path, largest=_LARGEST_TEXT) if path.is_file() else ""
    except (CaptError, OSError):
        return ""


def _names(stated: object) -> list[str] | None:
    """Names by number: a list, or a mapping such as {"0": name, ...} (cards and older files)."""
    if isinstance(stated, dict):
        keys = {str(key): name for key, name in stated.items()}
        if set(keys) != set(map(str, range(len(keys)))):
            return None
        stated = [keys[str(number)] for number in range(len(keys))]
    if not isinstance(stated, list) or not stated:
        return None
    return [clean_name(str(name)) for name in stated]


def _features(features: object) -> dict[str, list[str]]:
    if not isinstance(features, dict):
        return {}
    named = ((str(column), class_label_names(feature)) for column, feature in features.items())
    return {column: names for column, names in named if names is not None}


def _info_features(text: str, config: str) -> dict[str, list[str]]:
    document = _json(text)
    return _features(document.get("features"))


def _infos_features(text: str, config: str) -> dict[str, list[str]]:
    document = _json(text)
    infos = [info for info in document.values() if isinstance(info, dict)]
    named = document.get(config)
    found = [_features(info.get("features")) for info in infos]
    return _features(named.get("features")) if isinstance(named, dict) else _agreed(found)


def _json(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text) if text else {}
        usable = isinstance(document, dict) and not holds_no_characters(text, document)
    except (ValueError, RecursionError):
        return {}
    return document if usable else {}


def _card_features(text: str, config: str) -> dict[str, list[str]]:
    """``dataset_info.features[].dtype.class_label.names`` in the YAML head of a card."""
    head = re.match(r"---\r?\n(.*?)\r?\n---\s", text, re.S)
    try:
        # Scalars as text: no constructor of YAML's own runs on what a download holds.
        card = yaml.load(head[1], yaml.BaseLoader) if head else None
    except (ValueError, RecursionError, yaml.YAMLError):
        return {}
    infos = card.get("dataset_info") if isinstance(card, dict) else None
    infos = infos if isinstance(infos, list) else [infos]
    infos = [info for info in infos if isinstance(info, dict)]
    named = next((info for info in infos if info.get("config_name") == config), None)
    if named is not None:
        return _listed_features(named.get("features"))
    return _agreed([_listed_features(info.get("features")) for info in infos])


def _agreed(found: Sequence[dict[str, list[str]]]) -> dict[str, list[str]]:
    """What all configs say alike; of one that is not named, nothing else is known."""
    first = found[0] if found else {}
    return {
        column: names
        for column, names in first.items()
        if all(other.get(column, names) == names for other in found)
    }


def _listed_features(features: object) -> dict[str, list[str]]:
    found = {}
    for feature in features if isinstance(features, list) else []:
        kind = feature.get("dtype") if isinstance(feature, dict) else None
        label = kind.get("class_label") if isinstance(kind, dict) else None
        names = _names(label.get("names")) if isinstance(label, dict) else None
        if names is not None:
            found[str(feature.get("name"))] = names
    return found
