"""What the report is made from: finding whatever there is of a data set, and reading it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from capt_core.advice import run_stage, tool
from capt_core.artifacts.features import read_base_text_features, read_image_features
from capt_core.artifacts.layout import Layout, ReportLayout, SeedLayout
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import (
    CONFUSION_BANK,
    EVALUATION,
    PREDICTIONS,
    PROMPT_SEPARATION,
    PROMPTS,
    RUN_PREDICTIONS,
    TRAINING_LOG,
)
from capt_core.artifacts.tables import Table, read_provenance, read_record, read_table
from capt_core.data.dataset import Dataset, load_fewshot
from capt_core.errors import CaptError, shown
from capt_core.methods.model_file import ModelSummary, read_summary
from capt_core.methods.registry import BASE_METHOD

PREFERRED_METHOD = "capt"
"""Shown as the repaired model where the settings name none and it was evaluated."""

MOST_WITH_FEATURES = 200_000
"""Images whose features are read: a gigabyte. Map and similarities are left out above it."""

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Evaluated:
    """One trained and evaluated method.

    Attributes:
        method: its name.
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
class SeedInputs:
    """What depends on the few-shot draw.

    Attributes:
        seed: of the draw.
        predictions: table `predictions`, of the base model.
        bank: table `confusion_bank`; None where there is none.
        training: `sample_id` and `class_id` of the training images that were drawn, or of all.
        prompts: table `prompts`; None where there is none that can be used.
        separation: table `prompt_separation`, likewise.
    """

    seed: int
    predictions: pl.DataFrame
    bank: pl.DataFrame | None
    training: pl.DataFrame
    prompts: pl.DataFrame | None
    separation: pl.DataFrame | None


@dataclass(frozen=True)
class DatasetInputs:
    """Whatever there is of a data set.

    Attributes:
        dataset: samples and classes, as prepared.
        image_root: folder that `path` columns are relative to; None where no images are at hand.
        base: the base model; None where its predictions were imported.
        backbone: identity of the backbone; may be empty for imported predictions.
        shots: training images per class; 0 stands for the whole training split.
        seeds: at least one, ascending.
        runs: all evaluated methods.
        method: of `runs`, shown as the repaired model; None where only the base model was run.
        features: frozen image features [N, d], row i of sample i; None without them.
        text_features: the base model's class texts [C, d], row i of class i, likewise.
    """

    dataset: Dataset
    image_root: Path | None
    base: ModelSummary | None
    backbone: str
    shots: int
    seeds: Sequence[SeedInputs]
    runs: Sequence[Evaluated]
    method: str | None
    features: npt.NDArray[np.float32] | None
    text_features: npt.NDArray[np.float32] | None

    @property
    def untrained(self) -> bool:
        """Whether the backbone's weights are a random initialisation."""
        return self.base is not None and self.base.untrained

    @property
    def shown_runs(self) -> Mapping[int, Evaluated]:
        """Runs of the repaired model by seed."""
        return {run.seed: run for run in self.runs if run.method == self.method}

    @property
    def answers(self) -> pl.DataFrame:
        """Predictions of the repaired model, or the base model where there is none; first seed."""
        first = self.seeds[0]
        repaired = self.shown_runs.get(first.seed)
        return first.predictions if repaired is None else repaired.predictions


def find_datasets(artifacts: Path, dataset: str | None) -> list[str]:
    """Names of the data sets that the base model has classified; only one if it is given.

    Raises:
        CaptError: there are none.
    """
    pattern = "*" if dataset is None else dataset
    predictions = artifacts.glob(f"{pattern}/seed*/predictions.parquet")
    found = {path.parents[1].name for path in predictions if _has_samples(path.parents[1])}
    # A record outlives what it was made from: whoever reads it says which stage to run.
    records = ReportLayout(artifacts).evaluations.glob(f"{pattern}/*.parquet")
    found |= {record.parent.name for record in records}
    if not found:
        path = Layout(artifacts, dataset or "proctex").seed(1).predictions
        remedy = run_stage("infer-teacher", path, dataset or "proctex")
        raise CaptError(f"{artifacts}: nothing to report of, no base model's predictions; {remedy}")
    return sorted(found)


def evaluation_records(artifacts: Path, dataset: str) -> list[Path]:
    """Records of a data set's evaluated runs, sorted."""
    return sorted((ReportLayout(artifacts).evaluations / dataset).glob("*.parquet"))


def read_inputs(
    layout: Layout,
    dataset: Dataset,
    image_root: Path | None,
    shots: int,
    method: str | None = None,
    current: int | None = None,
    left_out: Callable[[str], None] = lambda text: None,
) -> DatasetInputs:
    """Read what there is of a data set.

    Args:
        layout: of the data set.
        dataset: as prepared now.
        image_root: folder that sample paths are relative to; None without images.
        shots: training images per class.
        method: to be shown as the repaired model; None takes `capt`, or else the first by name
            that is neither zero-shot CLIP nor the base model.
        current: a draw whose base model has just classified the images as they are now; what does
            not fit it is left out then, in place of being refused.
        left_out: called with what is left out, and why.

    Raises:
        CaptError: a table is damaged, or was made from other data, with another backbone or from
            other artifacts than there are now; or the method was not evaluated.
    """
    records = evaluation_records(layout.root, dataset.name)
    numbers = _seeds(layout)
    table, first = (
        (EVALUATION, records[0])
        if records and current is None
        else (PREDICTIONS, layout.seed(numbers[0] if current is None else current).predictions)
    )
    read_table(table, first)  # a damaged one is refused before its record is believed
    origin = dataset.provenance(read_provenance(first).backbone)
    if current is None:
        runs = [_run(layout, record, origin) for record in records]
    else:
        runs = list(_fitting(layout, records, origin, left_out))
        numbers = [number for number in numbers if _fits(layout, number, origin)]
    seeds = sorted({run.seed for run in runs}) or numbers
    base = _base_model(layout.seed(seeds[0]), origin)
    chosen = _shown_method(layout, runs, base, method)
    if chosen is not None:
        seeds = sorted({run.seed for run in runs if run.method == chosen})
    features, texts = _features(layout, seeds[0], origin, len(dataset.samples), base is None)
    return DatasetInputs(
        dataset=dataset,
        image_root=image_root,
        base=base,
        backbone=origin.backbone,
        shots=shots,
        seeds=[_seed(layout, dataset, seed, shots, origin) for seed in seeds],
        runs=runs,
        method=chosen,
        features=features,
        text_features=texts,
    )


def _has_samples(folder: Path) -> bool:
    return Layout(folder.parent, folder.name).samples.is_file()


def _seeds(layout: Layout) -> list[int]:
    """Few-shot draws that the base model's predictions are there for."""
    found = (layout.root / layout.dataset).glob("seed*/predictions.parquet")
    names = (path.parent.name.removeprefix("seed") for path in found)
    return sorted(int(name) for name in names if name.isdecimal())


def _run(layout: Layout, record: Path, origin: Provenance) -> Evaluated:
    first = read_table(EVALUATION, record, origin).row(0, named=True)
    method, seed = str(first["method"]), int(first["seed"])
    paths = layout.seed(seed).run(method)
    layout.check_digests(read_provenance(record).inputs, run_stage("evaluate", record))
    return Evaluated(
        method=method,
        seed=seed,
        provenance=read_provenance(paths.predictions),
        predictions=read_table(RUN_PREDICTIONS, paths.predictions, origin),
        training_log=read_table(TRAINING_LOG, paths.training_log, origin),
    )


def _fitting(
    layout: Layout, records: Sequence[Path], origin: Provenance, left_out: Callable[[str], None]
) -> Iterator[Evaluated]:
    for record in records:
        try:
            yield _run(layout, record, origin)
        except CaptError as error:
            left_out(f"{record.stem} is out of date and not shown: {str(error).partition(';')[0]}")


def _fits(layout: Layout, seed: int, origin: Provenance) -> bool:
    path = layout.seed(seed).predictions
    return _usable(lambda: read_table(PREDICTIONS, path, origin)) is not None


def _base_model(paths: SeedLayout, origin: Provenance) -> ModelSummary | None:
    """The base model; None where its predictions were imported."""
    made_by = str(read_record(paths.predictions).get("made_by", "")).partition(" ")[0]
    own = made_by == "infer-teacher" or (not made_by and paths.base_model.is_file())
    if not own:
        return None
    return read_summary(paths.base_model, origin, run_stage("fit-teacher", paths.base_model))


def _shown_method(
    layout: Layout, runs: Sequence[Evaluated], base: ModelSummary | None, wanted: str | None
) -> str | None:
    evaluated = sorted({run.method for run in runs})
    if wanted is not None:
        if wanted not in evaluated:
            command = tool("evaluate", dataset=layout.dataset, method=wanted)
            raise CaptError(
                f"report.method={shown(wanted)[1:-1]}: no evaluated run of it for "
                f"{layout.dataset}; run: {command}"
            )
        return wanted
    if PREFERRED_METHOD in evaluated:
        return PREFERRED_METHOD
    plain = {BASE_METHOD, base.method if base else BASE_METHOD}
    return next((name for name in evaluated if name not in plain), None)


def _seed(
    layout: Layout, dataset: Dataset, seed: int, shots: int, origin: Provenance
) -> SeedInputs:
    paths = layout.seed(seed)
    if layout.fewshot(shots, seed).is_file():
        drawn = load_fewshot(layout, dataset, shots, seed)
    else:
        drawn = dataset.samples
    return SeedInputs(
        seed=seed,
        predictions=read_table(PREDICTIONS, paths.predictions, origin),
        bank=_if_there(CONFUSION_BANK, paths.confusion_bank, origin),
        training=drawn.filter(pl.col("split") == "train").select("sample_id", "class_id"),
        # They only add advice: what is stale is left out, and `further` says how to renew it.
        prompts=_usable(lambda: _if_there(PROMPTS, paths.prompts, origin)),
        separation=_usable(lambda: _if_there(PROMPT_SEPARATION, paths.prompt_separation, origin)),
    )


def _features(
    layout: Layout, seed: int, origin: Provenance, number: int, imported: bool
) -> tuple[npt.NDArray[np.float32] | None, npt.NDArray[np.float32] | None]:
    """Image and class text features, as far as they are there."""

    def images() -> npt.NDArray[np.float32] | None:
        path = layout.image_features
        if number > MOST_WITH_FEATURES or not path.is_file():
            return None
        return read_image_features(path, origin).numpy()

    def texts() -> npt.NDArray[np.float32] | None:
        path = layout.seed(seed).base_text_features
        return read_base_text_features(path, origin).numpy() if path.is_file() else None

    if imported:  # what lies there is another model's, perhaps of other images
        return _usable(images), None
    return images(), texts()


def _if_there(table: Table, path: Path, origin: Provenance) -> pl.DataFrame | None:
    return read_table(table, path, origin) if path.is_file() else None


def _usable(read: Callable[[], _Found | None]) -> _Found | None:
    try:
        return read()
    except CaptError:
        return None
