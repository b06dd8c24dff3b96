"""The images that the page can show, as compact rows that its script and its templates read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from capt_core.reporting.findings import Findings

OUTCOMES = {
    "repaired": "repaired",
    "same_error": "same error",
    "another_error": "another error",
    "newly_wrong": "newly wrong",
    "error": "error",
    "added": "only in this run",
    "removed": "only in the other run",
}
"""Outcomes of an image in words, in the order of their codes."""

_CODES = {name: code for code, name in enumerate(OUTCOMES)}
NOTHING = -1
"""Stands for a class, confidence or image that there is none of."""


@dataclass(frozen=True)
class Answer:
    """What both models make of an image, the same in some of the seeds.

    Attributes:
        image: number of the image.
        true: number of the name of the class that it shows.
        before: of the class that the base model, or the other run, takes it for.
        before_confidence: percent, mean over the seeds.
        after: of the class that the repaired model, or this run, takes it for.
        after_confidence: percent, mean over the seeds.
        outcome: code in `OUTCOMES`.
        representative: number of the image that represents the confusion.
        seeds: number of seeds.

    Any but the first two may be `NOTHING`.
    """

    image: int
    true: int
    before: int
    before_confidence: int
    after: int
    after_confidence: int
    outcome: int
    representative: int
    seeds: int

    @property
    def row(self) -> list[int]:
        """Its values in order."""
        return [*self.__dict__.values()]


@dataclass
class Gallery:
    """Images and class names of a data set by number, so that each stands once in the page."""

    names: list[str]
    paths: list[str] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)
    _name_numbers: dict[str, int] = field(default_factory=dict)

    def image(self, path: str | None) -> int:
        """Number of an image file, a new one where it has none."""
        if path is None:
            return NOTHING
        if path not in self._numbers:
            self._numbers[path] = len(self.paths)
            self.paths.append(path)
        return self._numbers[path]

    def name(self, text: str | None) -> int:
        """Number of a class name; class ids are the numbers of the data set's own."""
        if text is None:
            return NOTHING
        if not self._name_numbers:
            self._name_numbers.update({name: number for number, name in enumerate(self.names)})
        if text not in self._name_numbers:
            self._name_numbers[text] = len(self.names)
            self.names.append(text)
        return self._name_numbers[text]

    def files(self) -> tuple[list[str], list[tuple[int, str]]]:
        """Folders, and per image the number of its folder and its name there."""
        folders: dict[str, int] = {}
        found = []
        for path in self.paths:
            folder, slash, name = path.rpartition("/")
            found.append((folders.setdefault(folder + slash, len(folders)), name))
        return list(folders), found


def gallery_of(findings: Findings) -> Gallery:
    """An empty gallery with the data set's class names."""
    return Gallery(findings.classes.sort("class_id")["class_name"].to_list())


def error_answers(findings: Findings, gallery: Gallery) -> list[Answer]:
    """The table `test_errors` with equal rows of several seeds as one.

    Those of the pairs that are confused most come first, in a pair the most confident ones.
    """
    worst = findings.pairs.select(
        "true_class_id",
        pl.col("taken_class_id").alias("base_prediction_id"),
        pl.int_range(pl.len()).alias("rank"),
    )
    keys = ["path", "true_class_id", "base_prediction_id", "prediction_id", "outcome"]
    grouped = (
        findings.errors.sort("seed", "sample_id")
        .group_by(keys, maintain_order=True)
        .agg(
            pl.col("base_confidence", "confidence").mean(),
            pl.col("representative_path").drop_nulls().first(),
            pl.len().alias("seeds"),
        )
        .join(worst, on=["true_class_id", "base_prediction_id"], how="left", maintain_order="left")
        .sort(
            pl.col("rank").fill_null(2**31),
            pl.col("base_confidence").fill_null(0),
            "path",
            "outcome",
            descending=[False, True, False, False],
            maintain_order=True,
        )
    )
    return [
        Answer(
            gallery.image(row["path"]),
            row["true_class_id"],
            row["base_prediction_id"],
            _percent(row["base_confidence"]),
            NOTHING if row["prediction_id"] is None else row["prediction_id"],
            _percent(row["confidence"]),
            _CODES[row["outcome"]],
            gallery.image(row["representative_path"]),
            row["seeds"],
        )
        for row in grouped.iter_rows(named=True)
    ]


def changed_answers(changes: pl.DataFrame, gallery: Gallery) -> list[Answer]:
    """The table `run_changes`."""
    return [
        Answer(
            gallery.image(row["path"]),
            gallery.name(row["true_class"]),
            gallery.name(row["before"]),
            _percent(row["before_confidence"]),
            gallery.name(row["now"]),
            _percent(row["now_confidence"]),
            _CODES[row["outcome"]],
            NOTHING,
            1,
        )
        for row in changes.iter_rows(named=True)
    ]


def wanted_images(
    suspects: Sequence[int], errors: Sequence[Answer], changes: Sequence[Answer]
) -> list[int]:
    """Numbers of the images whose pictures are wanted, those that matter most first."""

    def found() -> Iterator[int]:
        yield from suspects
        yield from (answer.image for answer in errors)
        yield from (answer.representative for answer in errors)
        yield from (answer.image for answer in changes)

    return [number for number in dict.fromkeys(found()) if number != NOTHING]


def interleaved(
    wanted: Sequence[tuple[Path | None, Gallery, Sequence[int]]],
) -> list[Path]:
    """Files of the pictures wanted by several data sets, in turns; none without an image folder."""
    lists = [
        [root / gallery.paths[number] for number in numbers]
        for root, gallery, numbers in wanted
        if root is not None
    ]
    longest = max(map(len, lists), default=0)
    turns = (paths[index] for index in range(longest) for paths in lists if index < len(paths))
    return list(dict.fromkeys(turns))


def script_data(gallery: Gallery, **further: Any) -> dict[str, Any]:
    """What the page's script reads of a data set; `further` adds what it reads beside images."""
    folders, found = gallery.files()
    return {"names": gallery.names, "folders": folders, "files": found, **further}


def _percent(share: float | None) -> int:
    return NOTHING if share is None or share != share else round(100 * share)
