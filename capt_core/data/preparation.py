"""Preparing a data set: find its images, check them, list them, draw few-shot lists."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from capt_core import params
from capt_core.advice import tool
from capt_core.artifacts.layout import Layout
from capt_core.artifacts.schemas import CLASSES
from capt_core.data.dataset import Dataset, fingerprint
from capt_core.data.fewshot import draw_fewshot
from capt_core.data.image_checks import (
    CHANGES_APPEARANCE,
    REMARKS,
    CheckLevel,
    SampleChecks,
    check_samples,
)
from capt_core.data.names import check_distinguishable
from capt_core.data.protocol import check_groups, class_groups
from capt_core.data.readers import read_split
from capt_core.data.registry import DatasetSpec, dataset_spec
from capt_core.data.splits import (
    SPLITS,
    SplitData,
    check_classes,
    sample_frame,
    with_samples,
)
from capt_core.errors import CaptError


@dataclass(frozen=True)
class Source:
    """What a data set lists, before its images are checked."""

    split: SplitData
    image_root: Path


@dataclass(frozen=True)
class Prepared:
    """A checked data set, the table `rejected` of images left out, and lines for the user."""

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
        counts = _proctex_counts(settings)
        split = draw_proctex(layout.images, counts, settings.proctex_seed, advance)
        return Source(split, layout.images)
    split, image_root = read_split(spec, data)
    _replace_folder(layout.images, lambda _: None)
    return Source(split, image_root)


def prepare_dataset(
    spec: DatasetSpec,
    source: Source,
    data: params.Data,
    level: CheckLevel,
    advance: Callable[[int], None] = lambda _: None,
) -> Prepared:
    """Check every image and build the tables `samples`, `classes` and `rejected`.

    Args:
        spec: the data set.
        source: split and image folder.
        data: the settings it was read with, which choose the protocol and say whether bad images
            are left out and listed, or stop at the first.
        level: how closely every image is checked, see `check_image`.
        advance: called with 1 after each image.

    Raises:
        CaptError: a bad image (unless quarantined), a class left without training images, names
            that no text can tell apart, or classes that the protocol cannot work with.
    """
    listed = source.split
    check_distinguishable(listed.class_names, spec.name)
    groups = class_groups(spec, listed.class_names, data)
    check_groups(spec.name, groups)
    quarantine = data.on_bad_image == "quarantine"
    checks = check_samples(listed.samples, source.image_root, level, quarantine, advance)
    bad = pl.Series("row", list(checks.problems), dtype=pl.UInt32)
    rows = listed.samples.with_row_index("row")
    names = pl.Series("class_name", listed.class_names, dtype=pl.String)
    named = rows.with_columns(names.gather(rows["class_id"]))
    kept = named.filter(~pl.col("row").is_in(bad.implode())) if len(bad) else named
    rejected = named.filter(pl.col("row").is_in(bad.implode())).select(
        "path",
        "class_id",
        "class_name",
        "split",
        pl.Series("reason", list(checks.problems.values()), dtype=pl.String),
    )
    split = with_samples(listed, kept.select("path", "class_id", "split"), rejected)
    check_classes(split, f"{spec.name} without its rejected images", trained=spec.has_training)
    samples = (
        kept.drop("row")
        .with_row_index("sample_id")
        .select(pl.col("sample_id").cast(pl.Int64), "path", "class_id", "class_name", "split")
    )
    classes = pl.DataFrame(
        {
            "class_id": range(len(listed.class_names)),
            "class_name": listed.class_names,
            "group": groups,
            "template": [listed.template or spec.template] * len(listed.class_names),
        },
        schema=dict(CLASSES.columns),
    )
    notes = [
        *listed.notes,
        *_image_notes(spec.name, listed.samples, checks),
        *_protocol_notes(split, published=spec.split),
    ]
    digest = fingerprint(samples, classes, checks.contents)
    dataset = Dataset(spec.name, samples, classes, digest, source.image_root, notes)
    numbered = split.rejected.with_row_index("rejected_id").cast({"rejected_id": pl.Int64})
    return Prepared(dataset, numbered, notes)


def _image_notes(dataset: str, samples: pl.DataFrame, checks: SampleChecks) -> Iterator[str]:
    """What was found of images that are used."""
    for remark in CHANGES_APPEARANCE:
        if rows := checks.remarks.get(remark):
            first = samples["path"][rows[0]]
            yield f"{len(rows)} images are {remark} ({first}, ...): {REMARKS[remark][0]}"
    common = checks.duplicates(samples).filter(pl.col("split").list.n_unique() > 1)
    if len(common):
        yield (
            f"{len(common)} images are in more than one split, byte for byte; "
            f"{tool('doctor', dataset=dataset)} lists them"
        )


def _protocol_notes(split: SplitData, published: str | None) -> Iterator[str]:
    """How results will differ from what users of the protocol expect."""
    if published and split.rejected["split"].is_in(["train", "val"]).any():
        yield "with training images left out, few-shot lists are not the published ones"


def changes(before: pl.DataFrame, after: pl.DataFrame) -> str | None:
    """What became of the images of a data set since it was last prepared, on one line.

    Args:
        before, after: tables `samples`.

    Returns:
        None if no image came, went, or changed its split or class.
    """
    columns = ["path", "split", "class_name"]
    both = before.select(columns).join(after.select(columns), on="path", how="inner")
    pairs = both.select("class_name", "class_name_right").unique()
    renamed = all(pairs[column].is_unique().all() for column in pairs.columns)
    other = both.filter(pl.col("class_name") != pl.col("class_name_right"))
    counts = {
        "added": len(after) - len(both),
        "removed": len(before) - len(both),
        "moved to another split": len(both.filter(pl.col("split") != pl.col("split_right"))),
        "in a class renamed" if renamed else "in another class": len(other),
    }
    if not any(counts.values()):
        return None
    told = ", ".join(f"{count} {what}" for what, count in counts.items())
    return f"since the last prepare: {told} ({len(both)} images are in both)"


def draw_list(dataset: Dataset, shots: int, seed: int) -> pl.DataFrame:
    """Draw the table `fewshot`: training list, then validation list, each in sampling order."""
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
    """How many images `read_source` draws: none for a data set that is on disk."""
    if dataset_spec(name).reader != "proctex":
        return 0
    from capt_core.data.proctex import CLASS_NAMES

    return len(CLASS_NAMES) * sum(_proctex_counts(settings).values())


def _proctex_counts(settings: params.Prepare) -> dict[str, int]:
    counts = (settings.proctex_train, settings.proctex_val, settings.proctex_test)
    return dict(zip(SPLITS, counts, strict=True))


def draw_proctex(
    folder: Path,
    counts: Mapping[str, int],
    seed: int,
    advance: Callable[[int], None] = lambda _: None,
    keep: bool = False,
) -> SplitData:
    """Draw the embedded textures into a folder, which replaces one of that name.

    Args:
        folder: takes `<class>/<split>_<number>.png`.
        counts: split to its number of images per class.
        seed: of the images.
        advance: called with the number of images drawn.
        keep: draw nothing if the folder exists; it appears only when all images are drawn.

    Raises:
        CaptError: the images cannot be written.
    """
    from capt_core.data.proctex import CLASS_NAMES

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
            (target, seed, split, class_id, count)
            for split, count in counts.items()
            for class_id in range(len(CLASS_NAMES))
        ]
        # Threads, not processes: those would outlive a killed stage and go on writing.
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for count in pool.map(_draw_class, tasks):
                advance(count)

    if not (keep and folder.is_dir()):
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
    """Fill a new folder, then move it to where the old one is."""
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
            "space of its folder, then run again"
        ) from error
