"""What the report is made from, as read from the artifacts of the earlier stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from capt_core.artifacts.provenance import Provenance
from capt_core.backbone.loading import UNTRAINED_WARNING

SHOWN_METHOD = "capt"

EMBEDDED_NOTE = (
    "Embedded demonstration: synthetic textures and a tiny CLIP; no evidence about real CLIP."
)


@dataclass(frozen=True)
class SeedReport:
    """What depends on the few-shot draw.

    Attributes:
        seed: of the draw.
        teacher: table `predictions`, of the base model.
        bank: table `confusion_bank`; may be empty.
        representatives: table `representatives`; may be empty.
    """

    seed: int
    teacher: pl.DataFrame
    bank: pl.DataFrame
    representatives: pl.DataFrame


@dataclass(frozen=True)
class RunReport:
    """One trained and evaluated method.

    Attributes:
        method: name of the method.
        seed: of the few-shot draw.
        provenance: recorded with the run's predictions.
        predictions: table `run_predictions`.
        training_log: table `training_log`; no rows where nothing was trained.
    """

    method: str
    seed: int
    provenance: Provenance
    predictions: pl.DataFrame
    training_log: pl.DataFrame


@dataclass(frozen=True)
class DatasetReport:
    """Everything the page shows of one data set.

    Attributes:
        name: registry name.
        image_root: folder that the `path` columns are relative to.
        classes: table `classes`.
        base_model: method of the base model.
        seeds: one entry per few-shot draw, at least one.
        runs: one entry per method and seed.
        shots: training images per class; 0 stands for the whole training split.
        protocol: how the results were measured, as in the table `results`.
        untrained: the backbone's weights are a random initialisation.
        embedded: the project's own textures and tiny CLIP.
    """

    name: str
    image_root: Path
    classes: pl.DataFrame
    base_model: str
    seeds: Sequence[SeedReport]
    runs: Sequence[RunReport]
    shots: int
    protocol: str
    untrained: bool = False
    embedded: bool = False

    def teacher_of(self, seed: int) -> pl.DataFrame:
        """Table `predictions` of the base model that belongs to a draw."""
        return next(entry.teacher for entry in self.seeds if entry.seed == seed)

    @property
    def shown_runs(self) -> list[RunReport]:
        """Runs whose confusions and curves are shown beside the base model's, by seed."""
        runs = [run for run in self.runs if run.method == SHOWN_METHOD]
        return sorted(runs, key=lambda run: run.seed)

    @property
    def notes(self) -> list[str]:
        """Warnings that belong beside every number of this data set, the gravest first."""
        flags = ((self.untrained, UNTRAINED_WARNING), (self.embedded, EMBEDDED_NOTE))
        return [note for raised, note in flags if raised]


def notes_by_dataset(datasets: Sequence[DatasetReport]) -> dict[str, list[str]]:
    """Notes of the data sets that have any, by name; for the tables of `summary`."""
    return {dataset.name: dataset.notes for dataset in datasets if dataset.notes}


def not_averaged(datasets: Sequence[DatasetReport]) -> list[str]:
    """Data sets that an average over data sets must leave out: they are no evidence."""
    return sorted(notes_by_dataset(datasets))
