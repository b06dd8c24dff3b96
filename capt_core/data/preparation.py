"""Preparing a data set: find its images, check them, list them, draw few-shot lists."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from capt_core import params
from capt_core.artifacts.layout import Layout
from capt_core.artifacts.schemas import CLASSES, FEWSHOT, REJECTED, SAMPLES
from capt_core.data.dataset import Dataset, fingerprint
from capt_core.data.fewshot import draw_fewshot
from capt_core.data.images import ImageLook, check_images
from capt_core.data.registry import dataset_spec
from capt_core.data.splits import (
    SPLITS,
    Sample,
    SplitData,
    check_classes,
    class_groups,
    read_split,
)
from capt_core.errors import CaptError


@dataclass(frozen=True)
class Source:
    """What a data set consists of, before its images were looked at."""

    split: SplitData
    image_root: Path


@dataclass(frozen=True)
class Prepared:
    """A checked data set, and the table `rejected` of images left out."""

    dataset: Dataset
    rejected: pl.DataFrame


def read_source(
    layout: Layout,
    data_root: str | None,
    settings: params.Prepare,
    advance: Callable[[int], None] = lambda _: None,
) -> Source:
    """Read a data set's split, drawing the images first if they are the embedded ones.

    Raises:
        CaptError: see `read_split`; or the images cannot be written.
    """
    spec = dataset_spec(layout.dataset)
    if spec.reader == "proctex":
        return Source(_draw_proctex(layout.images, settings, advance), layout.images)
    split, image_root = read_split(spec, data_root)
    _replace_folder(layout.images, lambda _: None)
    return Source(split, image_root)


def prepare_dataset(
    name: str,
    source: Source,
    looked: ImageLook,
    quarantine: bool,
    advance: Callable[[int], None] = lambda _: None,
) -> Prepared:
    """Check every image and build the tables `samples`, `classes` and `rejected`.

    Args:
        name: registry name.
        source: split and image folder.
        looked: how closely every image is looked at, see `check_image`.
        quarantine: leave bad images out and list them, instead of stopping at the first.
        advance: told 1 per image.

    Raises:
        CaptError: a bad image (unless quarantined), or a class left without training images.
    """
    spec = dataset_spec(name)
    names = source.split.class_names
    kept: list[Sample] = []
    digests: list[str] = []
    rejected: list[tuple[str, int, str, str, str]] = []
    paths = [source.image_root / sample.path for sample in source.split.samples]
    checks = check_images(paths, looked, os.cpu_count() or 1)
    for sample, path, check in zip(source.split.samples, paths, checks, strict=True):
        advance(1)
        if check.problem is None:
            kept.append(sample)
            digests.append(check.digest)
        elif quarantine:
            row = (sample.path, sample.class_id, names[sample.class_id], sample.split)
            rejected.append((*row, check.problem))
        else:
            raise CaptError(
                f"{path}: {check.problem}; mend the file, or leave it out with "
                "--set data.on_bad_image=quarantine"
            )
    check_classes(SplitData(kept, names), f"{name} without its rejected images")
    classes = pl.DataFrame(
        {
            "class_id": range(len(names)),
            "class_name": names,
            "group": class_groups(len(names)),
            "template": [spec.template] * len(names),
        },
        schema=dict(CLASSES.columns),
    )
    samples = pl.DataFrame(
        {
            "sample_id": range(len(kept)),
            "path": [sample.path for sample in kept],
            "class_id": [sample.class_id for sample in kept],
            "class_name": [names[sample.class_id] for sample in kept],
            "split": [sample.split for sample in kept],
        },
        schema=dict(SAMPLES.columns),
    )
    dataset = Dataset(name, samples, classes, fingerprint(samples, classes, digests))
    return Prepared(dataset, pl.DataFrame(rejected, dict(REJECTED.columns), orient="row"))


def draw_list(dataset: Dataset, shots: int, seed: int) -> pl.DataFrame:
    """The table `fewshot`: training list, then validation list, each in sampling order."""
    columns = ("sample_id", "path", "class_id", "split")
    rows = {
        split: dataset.samples.filter(pl.col("split") == split).select(columns).rows()
        for split in ("train", "val")
    }
    train, val = draw_fewshot(rows["train"], rows["val"], lambda row: int(row[2]), shots, seed)
    positioned = [(position, *row) for drawn in (train, val) for position, row in enumerate(drawn)]
    return pl.DataFrame(positioned, schema=dict(FEWSHOT.columns), orient="row")


def images_to_draw(name: str, settings: params.Prepare) -> int:
    """How many images `read_source` draws: none for a data set that lies on disk."""
    if dataset_spec(name).reader != "proctex":
        return 0
    from capt_core.data.proctex import CLASS_NAMES

    return len(CLASS_NAMES) * sum(_proctex_counts(settings).values())


def _proctex_counts(settings: params.Prepare) -> dict[str, int]:
    counts = (settings.proctex_train, settings.proctex_val, settings.proctex_test)
    return dict(zip(SPLITS, counts, strict=True))


def _draw_proctex(
    folder: Path, settings: params.Prepare, advance: Callable[[int], None]
) -> SplitData:
    from capt_core.data.proctex import CLASS_NAMES

    counts = _proctex_counts(settings)
    samples = [
        Sample(f"{name}/{split}_{index:04d}.png", class_id, split)
        for split, count in counts.items()
        for class_id, name in enumerate(CLASS_NAMES)
        for index in range(count)
    ]

    def draw(target: Path) -> None:
        for name in CLASS_NAMES:
            (target / name).mkdir()
        tasks = [
            (target, settings.proctex_seed, split, class_id, count)
            for split, count in counts.items()
            for class_id in range(len(CLASS_NAMES))
        ]
        # Threads, not processes: those would outlive a killed stage and go on writing.
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for count in pool.map(_draw_class, tasks):
                advance(count)

    _replace_folder(folder, draw)
    return SplitData(samples, list(CLASS_NAMES))


def _draw_class(task: tuple[Path, int, str, int, int]) -> int:
    from PIL import Image

    from capt_core.data.proctex import CLASS_NAMES, render_image

    target, seed, split, class_id, count = task
    for index in range(count):
        pixels = render_image(seed, split, class_id, index)
        Image.fromarray(pixels).save(target / CLASS_NAMES[class_id] / f"{split}_{index:04d}.png")
    return count


def _replace_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fill a new folder, then let it take the old one's place."""
    fresh, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    try:
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
        fresh.mkdir(parents=True)
        fill(fresh)
        if folder.exists():
            folder.replace(old)
        fresh.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise CaptError(
            f"{folder}: cannot write ({error.strerror or error}); check the permissions and free "
            "space of the artifacts folder, then run again"
        ) from error
