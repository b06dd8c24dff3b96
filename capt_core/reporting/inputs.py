"""What the report is made from: finding the evaluated runs and reading what the page shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from capt_core.advice import run_stage
from capt_core.artifacts.layout import Layout, ReportLayout
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import (
    CONFUSION_BANK,
    EVALUATION,
    PREDICTIONS,
    REPRESENTATIVES,
    RUN_PREDICTIONS,
    TRAINING_LOG,
)
from capt_core.artifacts.tables import read_provenance, read_table
from capt_core.backbone.loading import UNTRAINED_WARNING
from capt_core.data.dataset import Dataset
from capt_core.data.registry import dataset_spec
from capt_core.errors import CaptError
from capt_core.methods.model_file import read_summary

SHOWN_METHOD = "capt"

EMBEDDED_NOTE = (
    "Embedded demonstration: synthetic textures and a tiny CLIP; no evidence about real CLIP."
)


@dataclass(frozen=True)
class SeedReport:
    """What depends on the few-shot draw.

    Attributes:
        seed: of the draw.
        base_predictions: table `predictions`, of the base model.
        bank: table `confusion_bank`; may be empty.
        representatives: table `representatives`; may be empty.
    """

    seed: int
    base_predictions: pl.DataFrame
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

    def base_predictions_of(self, seed: int) -> pl.DataFrame:
        """Table `predictions` of the base model that belongs to a draw."""
        return next(entry.base_predictions for entry in self.seeds if entry.seed == seed)

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


def find_runs(artifacts: Path, dataset: str | None) -> dict[str, list[Path]]:
    """Evaluation records by data set, sorted; only of one data set if it is given.

    Raises:
        CaptError: there are none.
    """
    found: dict[str, list[Path]] = {}
    for record in sorted(ReportLayout(artifacts).evaluations.glob("*/*.parquet")):
        if dataset in (None, record.parent.name):
            found.setdefault(record.parent.name, []).append(record)
    if not found:
        folder = ReportLayout(artifacts).evaluations
        remedy = run_stage("evaluate", folder, dataset or "proctex")
        raise CaptError(f"{folder}: no evaluated runs; {remedy}")
    return found


def read_dataset_report(
    layout: Layout, dataset: Dataset, image_root: Path, records: Sequence[Path], shots: int
) -> DatasetReport:
    """Read all that the page shows of one data set.

    Args:
        layout: of the data set.
        dataset: as prepared now.
        image_root: folder that sample paths are relative to.
        records: evaluation records of its runs.
        shots: training images per class.

    Raises:
        CaptError: a table is missing, or was made from other data or with another backbone than
            the evaluated runs.
    """
    origin = dataset.provenance(read_provenance(records[0]).backbone)
    runs = [_run(layout, record, origin) for record in records]
    seeds = sorted({run.seed for run in runs})
    base_model = layout.seed(seeds[0]).base_model
    base = read_summary(base_model, origin, run_stage("fit-teacher", base_model))
    return DatasetReport(
        name=dataset.name,
        image_root=image_root,
        classes=dataset.classes,
        base_model=base.method,
        seeds=[
            SeedReport(
                seed,
                read_table(PREDICTIONS, layout.seed(seed).predictions, origin),
                read_table(CONFUSION_BANK, layout.seed(seed).confusion_bank, origin),
                read_table(REPRESENTATIVES, layout.seed(seed).representatives, origin),
            )
            for seed in seeds
        ],
        runs=runs,
        shots=shots,
        protocol=read_table(EVALUATION, records[0], origin)["protocol"][0],
        untrained=base.untrained,
        embedded=dataset_spec(dataset.name).reader == "proctex",
    )


def _run(layout: Layout, record: Path, origin: Provenance) -> RunReport:
    first = read_table(EVALUATION, record, origin).row(0, named=True)
    method, seed = str(first["method"]), int(first["seed"])
    paths = layout.seed(seed).run(method)
    remedy = run_stage("evaluate", record)
    layout.check_digests(read_provenance(record).inputs, remedy)
    return RunReport(
        method=method,
        seed=seed,
        provenance=read_provenance(paths.predictions),
        predictions=read_table(RUN_PREDICTIONS, paths.predictions, origin),
        training_log=read_table(TRAINING_LOG, paths.training_log, origin),
    )
