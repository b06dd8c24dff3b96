"""What lies beside a model in its artifacts: words that tell a pair apart, and images."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from capt_core.artifacts.layout import Layout, SeedLayout
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import PROMPTS, REPRESENTATIVES, SAMPLES
from capt_core.artifacts.tables import read_table
from capt_core.data.dataset import image_root
from capt_core.data.images import open_image
from capt_core.errors import CaptError, shown
from capt_core.prompts.generation import DIFFERENCE, TEMPLATE_SOURCE
from capt_core.prompts.store import load_store
from capt_core.reporter import Reporter
from capt_core.reporting.pictures import webp
from capt_core.user_paths import brief

PICTURES = 3
"""Images shown per class."""
_TEXTS = 5  # prompts shown per class
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")  # of a data set

Differences = Mapping[tuple[str, str], Sequence[str]]
"""A class and another one: the prompts that tell the first from the second."""

_SIDE, _QUALITY = 160, 80


@dataclass(frozen=True)
class Picture:
    """A thumbnail, held in memory.

    Attributes:
        content: the image as WebP.
        caption: why it is shown.
    """

    content: bytes
    caption: str


@dataclass(frozen=True)
class Companions:
    """What is shown beside an answer.

    Attributes:
        differences: prompts that tell one class from another.
        pictures: of each class, by its name.
        notes: what is not there and why, for the terminal; they may name paths.
    """

    differences: Differences = field(default_factory=dict)
    pictures: Mapping[str, Sequence[Picture]] = field(default_factory=dict)
    notes: Sequence[str] = ()


def layout_of(
    model: Path, origin: Provenance, seed: int, artifacts: Path | None
) -> tuple[Layout, SeedLayout] | None:
    """Where the artifacts of a model are.

    Args:
        model: its file; ``<artifacts>/<dataset>/seed<N>/<method>/model.safetensors`` as the stages
            write it, or anywhere.
        origin: of the model.
        seed: of its few-shot draw.
        artifacts: their folder; None looks where the model lies.

    Returns:
        The layouts of the data set and of the seed; None if there are none.

    Raises:
        CaptError: the folder that is given holds nothing of the model's data set.
    """
    if not _NAME.fullmatch(origin.dataset):  # a file may say anything
        return None
    where = artifacts
    if where is None:
        folder = model.absolute().parent.parent
        if (folder.parent.name, folder.name) != (origin.dataset, f"seed{seed}"):
            return None
        where = folder.parent.parent
    layout = Layout(where, origin.dataset)
    if artifacts is not None and not layout.folder.is_dir():
        raise CaptError(
            f"--artifacts {artifacts}: holds nothing of the model's data set "
            f"{shown(origin.dataset)}; give the folder that the stages wrote to"
        )
    return layout, layout.seed(seed)


def read_differences(path: Path, origin: Provenance | None = None) -> Differences:
    """The difference prompts of a table `prompts`, or of a prompt store (``.json``).

    Prompts filled from templates tell nothing and are left out.

    Args:
        path: the file.
        origin: of the model; None takes prompts about any data set.

    Raises:
        CaptError: missing, damaged or foreign file.
    """
    found: dict[tuple[str, str], list[str]] = {}
    if path.suffix == ".json":
        for pair in load_store(path).pairs:
            first, second = pair.classes
            found[first, second] = pair.difference[first]
            found[second, first] = pair.difference[second]
        return {key: texts[:_TEXTS] for key, texts in found.items()}
    table = read_table(PROMPTS, path, origin)
    written = table.filter(pl.col("kind") == DIFFERENCE, pl.col("source") != TEMPLATE_SOURCE)
    rows = written.sort("position").select("class_name", "paired_class", "prompt")
    for name, other, prompt in rows.iter_rows():
        found.setdefault((name, other), []).append(prompt)
    return {key: texts[:_TEXTS] for key, texts in found.items()}


def read_pictures(
    layout: Layout, seed: SeedLayout, origin: Provenance, data_root: str | None, reporter: Reporter
) -> tuple[dict[str, list[Picture]], list[CaptError]]:
    """Thumbnails of each class: the images that represent its confusions most often, then others.

    Args:
        layout: of the data set.
        seed: of the model's few-shot draw.
        origin: of the model.
        data_root: folder of the data, as in the settings.
        reporter: takes progress.

    Returns:
        Thumbnails by class name, and the errors of the images that could not be read.

    Raises:
        CaptError: a table is missing, damaged or foreign, or the folder of the data is not there.
    """
    samples = read_table(SAMPLES, layout.samples, origin)
    root = image_root(layout, data_root)
    often = pl.DataFrame(schema={"sample_id": pl.Int64, "chosen": pl.UInt32})
    if seed.representatives.is_file():
        table = read_table(REPRESENTATIVES, seed.representatives, origin)
        often = table.group_by(pl.col("representative_id").alias("sample_id")).agg(
            pl.len().alias("chosen")
        )
    rows = shown_samples(samples, often)
    pictures: dict[str, list[Picture]] = {}
    unread = []
    with reporter.progress("read images to show", len(rows)) as advance:
        for path, name, chosen in rows.select("path", "class_name", "chosen").iter_rows():
            caption = "typical of its confusions" if chosen else "training image"
            try:
                pictures.setdefault(name, []).append(_picture(root / path, caption))
            except CaptError as error:
                unread.append(error)
            advance(1)
    return pictures, unread


def shown_samples(samples: pl.DataFrame, often: pl.DataFrame) -> pl.DataFrame:
    """The training images that are shown of each class, at most `PICTURES`.

    Args:
        samples: the table `samples`.
        often: `sample_id` and `chosen`, how often an image represents a confusion.

    Returns:
        Rows of `samples` with `chosen` (0 if never), most often chosen first within a class, then
        by `sample_id`.
    """
    return (
        samples.filter(pl.col("split") == "train")
        .join(often, on="sample_id", how="left")
        .with_columns(pl.col("chosen").fill_null(0).cast(pl.Int64))
        .sort("class_id", "chosen", "sample_id", descending=[False, True, False])
        .group_by("class_id", maintain_order=True)
        .head(PICTURES)
    )


def _picture(path: Path, caption: str) -> Picture:
    return Picture(webp(open_image(path), _SIDE, _QUALITY), caption)


def find_companions(
    model: Path,
    origin: Provenance,
    seed: int,
    *,
    artifacts: Path | None = None,
    prompts: Path | None = None,
    data_root: str | None = None,
    reporter: Reporter,
) -> Companions:
    """All that can be shown beside the answers of a model.

    What is asked for by an argument must be there; what only lies beside the model may be missing.

    Args:
        model: its file.
        origin: of the model.
        seed: of its few-shot draw.
        artifacts: see `layout_of`.
        prompts: see `read_differences`; None takes those of the artifacts.
        data_root: folder of the data, as in the settings.
        reporter: takes progress.

    Raises:
        CaptError: see `layout_of` and `read_differences`.
    """
    layouts = layout_of(model, origin, seed, artifacts)
    differences: Differences = {}
    pictures: Mapping[str, Sequence[Picture]] = {}
    notes = []
    if prompts is not None:
        if not prompts.is_file():
            told = "no such file; give a prompts.parquet of the artifacts, or a prompt store"
            raise CaptError(f"--prompts {brief(prompts)}: {told}")
        differences = read_differences(prompts)
    if layouts is None:
        notes.append("the model lies outside its artifacts: give --artifacts DIR to show images")
        return Companions(differences, pictures, notes)
    layout, of_seed = layouts
    if prompts is None:
        try:
            differences = read_differences(of_seed.prompts, origin)
        except CaptError as error:
            notes.append(f"no difference prompts are shown: {error}")
    try:
        pictures, unread = read_pictures(layout, of_seed, origin, data_root, reporter)
        if unread:
            notes.append(f"{len(unread)} images are not shown: {unread[0]}")
    except CaptError as error:
        notes.append(f"no example images are shown: {error}")
    return Companions(differences, pictures, notes)


def known_pairs(differences: Differences, classes: Iterable[str]) -> int:
    """How many unordered pairs of the model's classes have prompts."""
    names = set(classes)
    return len({frozenset(pair) for pair in differences if names.issuperset(pair)})
