"""Small folders and tables of images, as users have them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from capt_core.data.readers import read_split
from capt_core.data.registry import dataset_spec
from capt_core.data.splits import SplitData
from capt_core.params import Data


def photo_bytes(seed: int, side: int = 8, kind: str = "PNG") -> bytes:
    """An image file of random pixels; other seeds give other bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def write_images(root: Path, paths: Sequence[str]) -> Path:
    """Write an image of its own at each path below `root`."""
    for seed, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(photo_bytes(seed))
    return root


def class_folders(root: Path, **counts: int) -> Path:
    """``root/<class>/<index>.png`` with so many images per class."""
    return write_images(
        root,
        [f"{name}/{index:03d}.png" for name, count in counts.items() for index in range(count)],
    )


def dtd(root: Path, names: Sequence[str] = ("banded", "dotted")) -> Path:
    """DTD's layout with six images of each class; returns `data.root`."""
    split: dict[str, list[list[object]]] = {"train": [], "val": [], "test": []}
    for label, name in enumerate(names):
        for index, part in enumerate(("train", "train", "train", "val", "test", "test")):
            split[part].append([f"{name}/{name}_{index}.jpg", label, name])
    paths = [str(row[0]) for rows in split.values() for row in rows]
    write_images(root / "dtd" / "images", paths)
    (root / "dtd" / "split_zhou_DescribableTextures.json").write_text(json.dumps(split))
    return root


def hugging_face_table(
    path: Path, labels: Sequence[int | str], names: Sequence[str] | None, group: int = 3
) -> Path:
    """A Parquet file as Hugging Face writes data sets of images."""
    images = [{"bytes": photo_bytes(row), "path": f"{row}.png"} for row in range(len(labels))]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(images, kind), "label": pa.array(list(labels))})
    if names is not None:
        features = {
            "image": {"_type": "Image"},
            "label": {"names": list(names), "_type": "ClassLabel"},
        }
        info = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": info})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return path


def read_mine(root: Path, **settings: object) -> SplitData:
    """What the reader of a user's own data lists."""
    data = Data.model_validate({"root": str(root), **settings})
    return read_split(dataset_spec("mine"), data)[0]


def split_of(data: SplitData) -> dict[str, str]:
    """Path to split."""
    return dict(data.samples.select("path", "split").iter_rows())


def counts(data: SplitData) -> dict[tuple[str, str], int]:
    """Images by class name and split."""
    sizes = data.samples.group_by("class_id", "split").agg(pl.len())
    return {(data.class_names[row[0]], row[1]): row[2] for row in sizes.iter_rows()}
