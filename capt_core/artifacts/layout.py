"""Paths of every artifact below the artifacts folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from capt_core.advice import Remedy, run_stage
from capt_core.artifacts.digests import content_digest, is_intact
from capt_core.errors import CaptError


class _Below:
    """A path below a folder of a layout, which the attribute `start` of the layout names."""

    def __init__(self, name: str, start: str = "folder") -> None:
        self._name, self._start = name, start

    def __get__(self, layout: object, owner: type) -> Path:
        folder: Path = getattr(layout, self._start)
        return folder / self._name


@dataclass(frozen=True)
class Layout:
    """Paths of one data set's artifacts.

    Attributes:
        root: the folder given by ``--artifacts``, or a study variant's folder in it.
        dataset: name of the data set.
        shared: the folder of what no variant changes (samples, images, frozen features), if it is
            not `root`.

    Seeds and shots are numbers, or patterns in the notation of ``dvc.yaml``.
    """

    root: Path
    dataset: str
    shared: Path | None = None

    samples = _Below("samples.parquet")
    classes = _Below("classes.parquet")
    rejected = _Below("rejected.parquet")
    images = _Below("images")
    """Images that the project draws itself; empty for data sets read from ``data.root``."""
    fewshot_lists = _Below("fewshot")
    """Folder of the few-shot lists of all seeds."""
    image_features = _Below("image_features.parquet")
    text_features = _Below("text_features.parquet")
    embeddings = _Below("embeddings", "work")
    """Prompt embeddings that a later run may reuse; below `work`, so not an output."""

    @property
    def folder(self) -> Path:
        """What all seeds and variants share."""
        return (self.shared or self.root) / self.dataset

    @property
    def work(self) -> Path:
        """Files that interrupted work resumes from; not an output of any stage."""
        return (self.shared or self.root) / "work"

    @property
    def feature_parts(self) -> Path:
        """Image features as they were encoded, part by part; below `work`, so not an output."""
        return self.work / "features" / self.dataset

    def fewshot(self, shots: int | str, seed: int | str) -> Path:
        return self.fewshot_lists / f"shots{shots}-seed{seed}.parquet"

    def seed(self, seed: int | str) -> SeedLayout:
        return SeedLayout(self.root / self.dataset / f"seed{seed}")

    def evaluation(self, method: str, seed: int | str) -> Path:
        return ReportLayout(self.root).evaluations / self.dataset / f"{method}-seed{seed}.parquet"

    def digests(self, files: Mapping[Path, str]) -> dict[str, str]:
        """Digests of those of the files that exist, by path relative to the artifacts folder.

        Args:
            files: each with the stage that writes it.

        Raises:
            CaptError: one is damaged; the message names its stage.
        """
        found = {path: stage for path, stage in files.items() if path.is_file()}
        for path, stage in found.items():
            if not is_intact(path):
                remedy = run_stage(stage, path, self.dataset)
                raise CaptError(f"{path}: damaged, its content is not what was written; {remedy}")
        return {path.relative_to(self.root).as_posix(): content_digest(path) for path in found}

    def check_digests(self, digests: Mapping[str, str], remedy: str | Remedy) -> None:
        """Refuse files that have changed since `digests` named them.

        Raises:
            CaptError: names the first file that is missing or another; ends with the remedy.
        """
        for name, digest in digests.items():
            path = self.root / name
            if not path.is_file():
                raise CaptError(f"{path}: missing; {remedy}")
            if content_digest(path) != digest:
                raise CaptError(f"{path}: changed since it was evaluated; {remedy}")


@dataclass(frozen=True)
class SeedLayout:
    """Paths of what depends on the few-shot draw."""

    folder: Path

    base_model = _Below("base_model.safetensors")
    """The fitted method whose errors are studied."""
    base_text_features = _Below("base_text_features.parquet")
    """Class texts of the base model."""
    predictions = _Below("predictions.parquet")
    """Predictions of the base model; those of a run are in its `RunLayout`."""
    likely_classes = _Below("likely_classes.parquet")
    mean_confidences = _Below("mean_confidences.parquet")
    confusion_bank = _Below("confusion_bank.parquet")
    confusion_statistics = _Below("confusion_statistics.parquet")
    pairs = _Below("pairs.parquet")
    class_pairs = _Below("class_pairs.parquet")
    prompts = _Below("prompts.parquet")
    class_descriptions = _Below("class_descriptions.parquet")
    prompt_clusters = _Below("prompt_clusters.parquet")
    prompt_centres = _Below("prompt_centres.safetensors")
    prompt_separation = _Below("prompt_separation.parquet")
    representatives = _Below("representatives.parquet")

    def run(self, method: str) -> RunLayout:
        return RunLayout(self.folder / method)


@dataclass(frozen=True)
class RunLayout:
    """Paths of one trained and evaluated method."""

    folder: Path

    model = _Below("model.safetensors")
    training_log = _Below("training_log.parquet")
    predictions = _Below("predictions.parquet")
    metrics = _Below("metrics.json")
    loss_plot = _Below("plots/loss.csv")
    confusion_plot = _Below("plots/confusion.csv")


@dataclass(frozen=True)
class ReportLayout:
    """Paths of what covers all data sets."""

    folder: Path

    evaluations = _Below("evaluations")
    """Folder of the evaluation records of all data sets, methods and seeds."""
    results = _Below("results.parquet")
    results_csv = _Below("results.csv")
    results_markdown = _Below("results.md")
    html = _Below("report.html")
    tables = _Below("report")
    """Folder of the tables that stand beside the page, one folder per data set."""

    def table(self, dataset: str, name: str) -> Path:
        """A table beside the page; its CSV has the same name."""
        return self.tables / dataset / f"{name}.parquet"


@dataclass(frozen=True)
class StudyLayout:
    """Paths of the study; `root` is the folder given by ``--artifacts``."""

    root: Path

    folder = _Below("study", "root")
    results = _Below("results.parquet")
    markdown = _Below("study.md")
    html = _Below("study.html")

    def variant(self, name: str) -> Path:
        """Folder that takes the place of the artifacts folder when a variant runs."""
        return self.folder / name

    def evaluations(self, variant: str, dataset: str) -> list[Path]:
        """Evaluation records of a variant, sorted."""
        return sorted((ReportLayout(self.variant(variant)).evaluations / dataset).glob("*.parquet"))


@dataclass(frozen=True)
class TablesLayout:
    """Paths of the table of all methods; `root` is the folder given by ``--artifacts``."""

    root: Path

    folder = _Below("tables", "root")
    markdown = _Below("table1.md")
    csv = _Below("table1.csv")
    html = _Below("table1.html")

    def base(self, name: str) -> Path:
        """Folder that takes the place of the artifacts folder for the rows on a base model.

        What is fitted and mined once lies in it as everywhere; the run of a row is named after the
        row, where elsewhere it is after the method.
        """
        return self.folder / name
