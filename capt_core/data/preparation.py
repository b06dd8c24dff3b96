"""Preparing a data set: find its images, check them, list them, draw few-shot lists."""

from __future__ import annotations

import hashlib
import os
import shutil
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from capt_core import params
from capt_core.artifacts.layout import Layout
from capt_core.artifacts.schemas import CLASSES
from capt_core.data.dataset import Dataset, fingerprint, iter_values
from capt_core.data.fewshot import draw_fewshot
from capt_core.data.image_checks import REMARKS, TELLING, ImageLook, check_images
from capt_core.data.readers import read_split
from capt_core.data.registry import dataset_spec
from capt_core.data.splits import (
    QUARANTINE,
    SPLITS,
    SplitData,
    check_classes,
    class_groups,
    sample_frame,
    with_samples,
)
from capt_core.errors import CaptError


@dataclass(frozen=True)
class Source:
    """What a data set consists of, before its images were looked at."""

    split: SplitData
    image_root: Path


@dataclass(frozen=True)
class Prepared:
    """A checked data set, the table `rejected` of images left out, and lines to tell the user."""

    dataset: Dataset
    rejected: pl.DataFrame
    notes: Sequence[str] = ()


def read_source(
    layout: Layout,
    data: params.Data,
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
    split, image_root = read_split(spec, data)
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
        name: of the data set.
        source: split and image folder.
        looked: how closely every image is looked at, see `check_image`.
        quarantine: leave bad images out and list them, instead of stopping at the first.
        advance: told 1 per image.

    Raises:
        CaptError: a bad image (unless quarantined), or a class left without training images.
    """
    spec = dataset_spec(name)
    listed = source.split
    looks = _look(source, looked, quarantine, advance)
    bad = pl.Series("row", list(looks.problems), dtype=pl.UInt32)
    rows = listed.samples.with_row_index("row")
    named = rows.with_columns(class_name=_names(rows["class_id"], listed.class_names))
    kept = named.filter(~pl.col("row").is_in(bad.implode())) if len(bad) else named
    rejected = named.filter(pl.col("row").is_in(bad.implode())).select(
        "path",
        "class_id",
        "class_name",
        "split",
        pl.Series("reason", list(looks.problems.values()), dtype=pl.String),
    )
    split = with_samples(listed, kept.select("path", "class_id", "split"), rejected)
    check_classes(split, f"{name} without its rejected images", trained=spec.has_training)
    samples = (
        kept.drop("row")
        .with_row_index("sample_id")
        .select(pl.col("sample_id").cast(pl.Int64), "path", "class_id", "class_name", "split")
    )
    classes = pl.DataFrame(
        {
            "class_id": range(len(listed.class_names)),
            "class_name": listed.class_names,
            "group": class_groups(len(listed.class_names)),
            "template": [listed.template or spec.template] * len(listed.class_names),
        },
        schema=dict(CLASSES.columns),
    )
    notes = [*listed.notes, *looks.notes(kept), *_protocol_notes(split, published=spec.split)]
    dataset = Dataset(name, samples, classes, fingerprint(samples, classes, looks.contents))
    numbered = split.rejected.with_row_index("rejected_id").cast({"rejected_id": pl.Int64})
    return Prepared(dataset, numbered, notes)


@dataclass
class _Looks:
    """What looking at all images found; grows by a few bytes per image.

    Attributes:
        problems: row of a bad image to what is wrong with it.
        contents: digest of the digests of all good images.
        marks: the first 64 bits of every image's digest, in row order.
        remarks: what is remarkable to the first path and the number of images.
    """

    problems: dict[int, str]
    contents: str
    marks: array[int]
    remarks: dict[str, tuple[str, int]]

    def notes(self, kept: pl.DataFrame) -> Iterator[str]:
        for remark, (path, count) in self.remarks.items():
            yield f"{count} images are {remark} ({path}, ...): {REMARKS[remark][0]}"
        if len(self.marks):
            marks = pl.Series("mark", self.marks, dtype=pl.UInt64).gather(kept["row"])
            common = (
                kept.select("split", marks)
                .group_by("mark")
                .agg(pl.col("split").n_unique().alias("splits"))
                .filter(pl.col("splits") > 1)
            )
            if len(common):
                yield (
                    f"{len(common)} images are in more than one split, byte for byte; "
                    "capt-stage doctor lists them"
                )


def _protocol_notes(split: SplitData, published: str | None) -> Iterator[str]:
    """What the user expects of the data set and will not get."""
    if published and split.rejected["split"].is_in(["train", "val"]).any():
        yield "with training images left out, few-shot lists are not the published ones"
    if len(split.class_names) < 3:
        yield (
            f"{len(split.class_names)} classes: the base half has one, which nothing is confused "
            "with; mining pairs needs three classes"
        )


def _look(
    source: Source, look: ImageLook, quarantine: bool, advance: Callable[[int], None]
) -> _Looks:
    paths = source.split.samples["path"]
    looks = _Looks({}, "", array("Q"), {})
    contents = hashlib.sha256()
    checks = check_images(
        (source.image_root / path for path in iter_values(paths)), look, os.cpu_count() or 1
    )
    for row, (path, check) in enumerate(zip(iter_values(paths), checks, strict=True)):
        advance(1)
        if look == "decode":
            looks.marks.append(int(check.digest[:16] or "0", 16))
        if check.problem is None:
            contents.update(check.digest.encode())
        elif quarantine:
            looks.problems[row] = check.problem
        else:
            remedy = "get it or mend the list" if check.problem == "missing" else "mend the file"
            raise CaptError(
                f"{source.image_root / path}: {check.problem}; {remedy}, or leave it out with "
                f"--set {QUARANTINE}"
            )
        for remark in set(TELLING).intersection(check.remarks):
            first, count = looks.remarks.get(remark, (path, 0))
            looks.remarks[remark] = (first, count + 1)
    looks.contents = contents.hexdigest()
    return looks


def _names(class_ids: pl.Series, names: list[str]) -> pl.Series:
    return pl.Series("class_name", names, dtype=pl.String).gather(class_ids)


def draw_list(dataset: Dataset, shots: int, seed: int) -> pl.DataFrame:
    """The table `fewshot`: training list, then validation list, each in sampling order."""
    class_ids = dataset.samples["class_id"].to_numpy()
    rows = {
        split: dataset.samples.filter(pl.col("split") == split)["sample_id"].to_list()
        for split in ("train", "val")
    }
    lists = draw_fewshot(rows["train"], rows["val"], lambda row: int(class_ids[row]), shots, seed)
    drawn = [
        pl.DataFrame({"sample_id": pl.Series(part, dtype=pl.Int64)})
        .with_row_index("position")
        .with_columns(pl.col("position").cast(pl.Int64))
        for part in lists
    ]
    columns = dataset.samples.select("sample_id", "path", "class_id", "split")
    return pl.concat(drawn).join(columns, on="sample_id", how="left", maintain_order="left")


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
    rows = [
        (f"{name}/{split}_{index:04d}.png", class_id, split)
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
    paths, class_ids, splits = map(list, zip(*rows, strict=True))
    return SplitData(sample_frame(paths, class_ids, splits), list(CLASS_NAMES))


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
