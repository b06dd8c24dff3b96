"""A prepared data set as later stages read it: samples, classes and the files of its images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import polars as pl
from PIL import Image

from capt_core.advice import run_stage
from capt_core.artifacts.layout import Layout
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import CLASSES, FEWSHOT, SAMPLES
from capt_core.artifacts.tables import read_provenance, read_table
from capt_core.data.protocol import ALL_CLASSES, BASE_TO_NOVEL
from capt_core.data.registry import dataset_spec
from capt_core.data.remote.signatures import signatures_below
from capt_core.data.splits import checked_root, prompt_name
from capt_core.errors import CaptError

ImageSource = Path | Image.Image
"""An image: its file, or the image itself."""


@dataclass(frozen=True)
class Dataset:
    """Samples and classes of a prepared data set.

    Attributes:
        name: registry name.
        samples: table `samples`; `sample_id` counts from 0 in row order.
        classes: table `classes`; `class_id` counts from 0 in row order.
        fingerprint: digest of samples, classes and image contents; every artifact made from
            them carries it.
        image_root: folder that sample paths are relative to; None for a data set read from
            artifacts, which hold no absolute paths.
        notes: lines on how its files were read; none for a data set read from artifacts.
        in_memory: the images by `sample_id`, of a data set that is not on disk.
    """

    name: str
    samples: pl.DataFrame
    classes: pl.DataFrame
    fingerprint: str
    image_root: Path | None = None
    notes: Sequence[str] = ()
    in_memory: Sequence[ImageSource] | None = None

    @property
    def class_names(self) -> list[str]:
        return self.classes["class_name"].to_list()

    @property
    def prompt_names(self) -> list[str]:
        """Class names as they stand in prompts, in class order."""
        return [prompt_name(name) for name in self.class_names]

    @property
    def prompts(self) -> list[str]:
        """The hand-written template filled with each class's name, in class order."""
        return [
            template.format(prompt_name(name))
            for template, name in self.classes.select("template", "class_name").iter_rows()
        ]

    def text_table(self, prompts: Sequence[str]) -> pl.DataFrame:
        """Class ids and names beside one text per class, in class order."""
        texts = pl.Series("prompt", prompts, dtype=pl.String)
        return self.classes.select("class_id", "class_name").with_columns(texts)

    def class_ids(self, group: str) -> list[int]:
        """Class ids of one group (`base` or `novel`), ascending."""
        return self.classes.filter(pl.col("group") == group)["class_id"].to_list()

    @property
    def protocol(self) -> str:
        """`base_to_novel` where some classes are never trained, else `all_classes`."""
        return BASE_TO_NOVEL if self.class_ids("novel") else ALL_CLASSES

    def provenance(self, backbone: str = "", settings: str = "") -> Provenance:
        return Provenance(self.name, self.fingerprint, backbone, settings)

    def paths(self, sample_ids: pl.Series, image_root: Path | None = None) -> Sequence[Path]:
        """Image files of the given samples, in their order.

        Args:
            sample_ids: of the samples.
            image_root: folder of the images; None takes the data set's own.

        Raises:
            CaptError: neither is given.
        """
        root = image_root or self.image_root
        if root is None:
            raise CaptError(
                f"{self.name}: read from artifacts, which do not say where its images are; pass "
                "image_root to Dataset.paths"
            )
        return _Paths(self.samples["path"].gather(sample_ids), root)

    def images(
        self, sample_ids: pl.Series, image_root: Path | None = None
    ) -> Sequence[ImageSource]:
        """The given samples' images, in their order: those in memory, or else their `paths`."""
        if self.in_memory is None:
            return self.paths(sample_ids, image_root)
        return _Chosen(self.in_memory, sample_ids.to_list())


class _Chosen(Sequence[ImageSource]):
    """Images at some positions, each asked for when it is used."""

    def __init__(self, images: Sequence[ImageSource], positions: Sequence[int]) -> None:
        self._images, self._positions = images, positions

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, index: int) -> ImageSource: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ImageSource]: ...
    def __getitem__(self, index: int | slice) -> ImageSource | Sequence[ImageSource]:
        if isinstance(index, slice):
            return _Chosen(self._images, self._positions[index])
        return self._images[self._positions[index]]


class _Paths(Sequence[Path]):
    """Paths built on access: a million of them would take half a gigabyte."""

    def __init__(self, names: pl.Series, folder: Path) -> None:
        self._names, self._folder = names, folder

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | Sequence[Path]:
        if isinstance(index, slice):
            return _Paths(self._names[index], self._folder)
        return self._folder / str(self._names[index])

    def __iter__(self) -> Iterator[Path]:
        return (self._folder / name for name in iter_values(self._names))


def iter_values(column: pl.Series) -> Iterator[str]:
    """Values of a text column, a block at a time."""
    for start in range(0, len(column), _BLOCK):
        yield from column[start : start + _BLOCK].to_list()


_BLOCK = 8192


def fingerprint(samples: pl.DataFrame, classes: pl.DataFrame, contents: str) -> str:
    """First 16 hex digits of SHA-256 over both tables and a digest of the images' contents."""
    digest = hashlib.sha256()
    for frame in (samples, classes):
        for part in frame.iter_slices(_BLOCK):
            digest.update(part.write_csv().encode())
    digest.update(contents.encode())
    return digest.hexdigest()[:16]


def load_dataset(layout: Layout) -> Dataset:
    """Read what ``prepare`` wrote.

    Raises:
        CaptError: a table is missing, damaged, or the two do not belong together.
    """
    expected = Provenance(layout.dataset)
    samples = read_table(SAMPLES, layout.samples, expected)
    classes = read_table(CLASSES, layout.classes, expected)
    digest = read_provenance(layout.samples).dataset_fingerprint
    if read_provenance(layout.classes).dataset_fingerprint != digest:
        raise CaptError(
            f"{layout.classes}: not written together with {layout.samples.name}; "
            f"{run_stage('prepare', layout.classes)}"
        )
    return Dataset(layout.dataset, samples, classes, digest)


def load_fewshot(layout: Layout, dataset: Dataset, shots: int, seed: int) -> pl.DataFrame:
    """Few-shot list of one seed, in sampling order.

    Raises:
        CaptError: ``prepare`` has not drawn this list.
    """
    return read_table(FEWSHOT, layout.fewshot(shots, seed), dataset.provenance())


def image_root(layout: Layout, data_root: str | None) -> Path:
    """Folder that sample paths are relative to; a path that stands for an address, where it is one.

    Raises:
        CaptError: a part of the data set's layout is missing.
    """
    spec = dataset_spec(layout.dataset)
    if spec.reader == "proctex":
        return layout.images
    signatures_below(data_root)
    return checked_root(spec, data_root) / spec.images
