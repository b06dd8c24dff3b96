"""Layouts of other tools: named for what they are, with the command that makes a table of them."""

from __future__ import annotations

import json
import os
import re
import shlex
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from capt_core.data.readers.listing import SPLIT_WORDS
from capt_core.data.scan import find_images, is_image_name, subfolders

_SHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
_ARRAYS = (".npz", ".npy", ".mat", ".h5", ".hdf5", ".pkl", ".pickle", ".tfrecord", ".mdb", ".bin")
_SPLITS = "('train','val','valid','validation','test')"
_LARGEST_JSON = 512 * 1024**2
_ROWS = "import csv,sys,pathlib as p;w=csv.writer(sys.stdout).writerow;w({header});"


def foreign_layout(root: Path) -> str | None:
    """What another tool's layout in a folder is, and how a table is made of it; None: none.

    The line reads after the folder's name and a colon. A layout of tables or class folders beside
    it, which could be meant, is not looked for.
    """
    files = sorted(name for name in os.listdir(root) if (root / name).is_file())
    folders = subfolders(root)
    finders: Sequence[Callable[[Path, list[str], list[str]], str | None]] = (
        _annotations,
        _yolo,
        _voc,
        _lone_list,
        _packed,
    )
    return next((found for find in finders if (found := find(root, files, folders))), None)


def _annotations(root: Path, files: list[str], folders: list[str]) -> str | None:
    """COCO's annotations, in the folder itself, in ``annotations/`` or beside a split's images."""
    for folder in ("", *(name for name in folders if name.lower() in _JSON_FOLDERS)):
        for path in sorted((root / folder).glob("*.json")):
            document = _json(path) if _names_keys(path, ("images", "annotations")) else None
            if isinstance(document, dict) and _is_coco(document):
                return _coco(root, path, document)
    return None


_JSON_FOLDERS = ("annotations", "labels", *SPLIT_WORDS)


def _is_coco(document: dict[str, Any]) -> bool:
    keys = ("images", "annotations", "categories")
    return all(
        isinstance(document.get(key), list) and all(isinstance(row, dict) for row in document[key])
        for key in keys
    )


def _coco(root: Path, path: Path, document: dict[str, Any]) -> str:
    first = next((str(image.get("file_name")) for image in document["images"]), "")
    folders = ["", *_folders_below(root, 2)]
    place = next((at for at in folders if os.path.isfile(root / at / first)), "")
    split = next(
        (word for word in re.split(r"[^a-z]+", path.stem.lower()) if word in SPLIT_WORDS), ""
    ) or (path.parent.name.lower() if path.parent.name.lower() in SPLIT_WORDS else "")
    target = f"{split or 'labels'}.csv"
    return (
        f"COCO annotations ({path.relative_to(root)}), not one class an image; images of one class "
        "are listed by: "
        + _command(
            root,
            "import json;",
            "['path','label']",
            f"d=json.load(open({path.relative_to(root).as_posix()!r}));"
            "n={c['id']:c['name'] for c in d['categories']};l={};"
            "[l.setdefault(a['image_id'],set()).add(n[a['category_id']]) "
            "for a in d['annotations']];"
            f"[w([p.PurePath({place!r},i['file_name']),*l[i['id']]]) for i in d['images'] "
            "if len(l.get(i['id'],()))==1]",
            target,
        )
    )


def _yolo(root: Path, files: list[str], folders: list[str]) -> str | None:
    """YOLO's boxes: ``labels/`` beside ``images/``, in the folder or in those of its splits."""
    places = [root, *(root / name for name in folders if name.lower() in SPLIT_WORDS)]
    if not any((at / "labels").is_dir() and (at / "images").is_dir() for at in places):
        return None
    if not any(next((at / "labels").rglob("*.txt"), None) for at in places):
        return None
    names = next((name for name in files if _yaml_names(root / name)), None)
    load = f"import yaml;n=yaml.safe_load(open({names!r}))['names'];" if names else ""
    label = "n[int(*k)]" if names else "*k"
    return (
        "YOLO boxes (images and labels folders), not one class an image; images of one class are "
        "listed by: "
        + _command(
            root,
            load,
            "['path','label','split']",
            "[w([i,LABEL,next((q for q in i.parts if q in SPLITS),'train')]) "
            "for f in sorted(p.Path().rglob('labels/**/*.txt')) "
            "if len(k:={r.split()[0] for r in open(f) if r.strip()})==1 "
            "for i in p.Path(str(f.parent).replace('labels','images')).glob(f.stem+'.*')]".replace(
                "LABEL", label
            ).replace("SPLITS", _SPLITS),
        )
    )


def _voc(root: Path, files: list[str], folders: list[str]) -> str | None:
    """Pascal VOC: ``Annotations/*.xml`` beside ``JPEGImages/``."""
    if "Annotations" not in folders or "JPEGImages" not in folders:
        return None
    return (
        "Pascal VOC annotations, not one class an image; images of one class are listed by: "
        + _command(
            root,
            "import xml.etree.ElementTree as e;",
            "['path','label']",
            "[w([i,*k]) for f in sorted(p.Path('Annotations').glob('*.xml')) "
            "if len(k:={o.text for o in e.parse(f).findall('object/name')})==1 "
            "for i in p.Path('JPEGImages').glob(f.stem+'.*')]",
        )
    )


def _lone_list(root: Path, files: list[str], folders: list[str]) -> str | None:
    """A spreadsheet or JSON beside at most one folder, which would pass for the only class."""
    if len(folders) > 1:
        return None
    for name in files:
        if name.lower().endswith(_SHEETS):
            return (
                f"{name} is a spreadsheet; save it as CSV (labels.csv beside it, with the columns "
                "path and label)"
            )
        if name.lower().endswith(".json") and not name.startswith(("split", "dataset_", "state")):
            found = _json_list(root, name, folders)
            if found:
                return found
    return None


def _json_list(root: Path, name: str, folders: list[str]) -> str | None:
    document = _json(root / name)
    folder = folders[0] if folders else ""
    if isinstance(document, dict) and isinstance(document.get("labels"), dict):
        return f"{name} lists labels as FiftyOne exports them; make a table of it by: " + _command(
            root,
            "import json;",
            "['path','label']",
            f"d=json.load(open({name!r}));c=d.get('classes');"
            f"[w([f,c[v] if c and type(v) is int else v]) for f in sorted(p.Path({folder!r})"
            ".rglob('*.*')) if (v:=d['labels'].get(f.stem)) is not None]",
        )
    if isinstance(document, dict) and any(is_image_name(key) for key in document):
        return f"{name} lists labels by file; make a table of it by: " + _command(
            root,
            "import json;",
            "['path','label']",
            f"d=json.load(open({name!r}));[w([next(p.Path().rglob(k),k),v]) for k,v in d.items()]",
        )
    if isinstance(document, list) and document and isinstance(document[0], dict):
        return (
            f"{name} lists rows as JSON; make JSON lines of it by: cd {shlex.quote(str(root))} && "
            f'python -c "import json;[print(json.dumps(r)) for r in json.load(open({name!r}))]" '
            "> labels.jsonl"
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
    shards = [name for name in archives if name.lower().endswith(".tar")]
    endings = _shard_endings(root / shards[0]) if shards else None
    if endings:
        return (
            f"WebDataset shards ({shards[0]}, ...); unpack and list them by: cd "
            f"{shlex.quote(str(root))} && for f in {_pattern(shards)}; do tar xf $f -C "
            "$(dirname $f); done && "
            + _command(
                None,
                "",
                "['path','label']",
                f"[w([f.with_suffix({endings[0]!r}),f.read_text().strip()]) "
                f"for f in sorted(p.Path().rglob('*{endings[1]}'))]",
            )
        )
    if archives:
        return f"{archives[0]} is an archive; unpack it, then give data.root the folder of images"
    return (
        f"{arrays[0]} holds arrays or records, not image files; save its images as PNG, each into "
        "a folder named for its class"
    )


def _shard_endings(path: Path) -> tuple[str, str] | None:
    """Endings of the images and labels in a WebDataset shard."""
    found: dict[str, str] = {}
    try:
        with tarfile.open(path) as archive:
            for _ in range(16):
                member = archive.next()
                ending = os.path.splitext(member.name)[1] if member else ""
                kind = "image" if is_image_name(f"x{ending}") else "label"
                if kind == "image" or ending in (".cls", ".txt"):
                    found.setdefault(kind, ending)
    except (OSError, ValueError, tarfile.TarError):
        return None
    return (found["image"], found["label"]) if len(found) == 2 else None


def _pattern(shards: Sequence[str]) -> str:
    return "*/*.tar" if "/" in shards[0] else "*.tar"


def _command(
    root: Path | None, load: str, header: str, code: str, target: str = "labels.csv"
) -> str:
    """A shell command that writes a table into a folder."""
    place = f"cd {shlex.quote(str(root))} && " if root else ""
    return f'{place}python -c "{load}{_ROWS.format(header=header)}{code}" > {target}'


def _folders_below(root: Path, depth: int) -> list[str]:
    found = []
    for name in subfolders(root):
        found.append(name)
        if depth > 1:
            found += [f"{name}/{inner}" for inner in _folders_below(root / name, depth - 1)]
    return found


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _yaml_names(path: Path) -> bool:
    if path.suffix.lower() not in (".yaml", ".yml"):
        return False
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return False
    return isinstance(document, dict) and bool(document.get("names"))


def _names_keys(path: Path, keys: Sequence[str]) -> bool:
    """Whether a file names these keys near its beginning or end, where JSON's top level is."""
    try:
        with path.open("rb") as file:
            start = file.read(1024**2)
            file.seek(max(0, path.stat().st_size - 1024**2))
            text = start + file.read()
    except OSError:
        return False
    return all(f'"{key}"'.encode() in text for key in keys)


def _json(path: Path) -> Any:
    try:
        if path.stat().st_size > _LARGEST_JSON:
            return None
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
