"""Paths of every artifact below the artifacts folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from capt_core.artifacts.files import file_digest
from capt_core.errors import CaptError


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

    @property
    def folder(self) -> Path:
        """What all seeds and variants share."""
        return (self.shared or self.root) / self.dataset

    @property
    def samples(self) -> Path:
        return self.folder / "samples.parquet"

    @property
    def classes(self) -> Path:
        return self.folder / "classes.parquet"

    @property
    def rejected(self) -> Path:
        return self.folder / "rejected.parquet"

    @property
    def images(self) -> Path:
        """Images that the project draws itself; empty for data sets read from ``data.root``."""
        return self.folder / "images"

    @property
    def fewshot_lists(self) -> Path:
        """Folder of the few-shot lists of all seeds."""
        return self.folder / "fewshot"

    def fewshot(self, shots: int | str, seed: int | str) -> Path:
        return self.fewshot_lists / f"shots{shots}-seed{seed}.parquet"

    @property
    def image_features(self) -> Path:
        return self.folder / "image_features.parquet"

    @property
    def text_features(self) -> Path:
        return self.folder / "text_features.parquet"

    @property
    def work(self) -> Path:
        """Files that interrupted work resumes from; not an output of any stage."""
        return (self.shared or self.root) / "work"

    @property
    def embeddings(self) -> Path:
        """Prompt embeddings that a later run may reuse; below `work`, so not an output."""
        return self.work / "embeddings"

    def seed(self, seed: int | str) -> SeedLayout:
        return SeedLayout(self.root / self.dataset / f"seed{seed}")

    def digests(self, paths: Sequence[Path]) -> dict[str, str]:
        """Digests of those of the files that exist, by path relative to the artifacts folder."""
        return {
            path.relative_to(self.root).as_posix(): file_digest(path)
            for path in paths
            if path.is_file()
        }

    def check_digests(self, digests: Mapping[str, str], remedy: str) -> None:
        """Refuse files that have changed since `digests` named them.

        Raises:
            CaptError: names the first file that is missing or another; ends with the remedy.
        """
        for name, digest in digests.items():
            path = self.root / name
            if not path.is_file():
                raise CaptError(f"{path}: missing; {remedy}")
            if file_digest(path) != digest:
                raise CaptError(f"{path}: changed since it was evaluated; {remedy}")

    def evaluation(self, method: str, seed: int | str) -> Path:
        return ReportLayout(self.root).evaluations / self.dataset / f"{method}-seed{seed}.parquet"


@dataclass(frozen=True)
class SeedLayout:
    """Paths of what depends on the few-shot draw."""

    folder: Path

    @property
    def base_model(self) -> Path:
        """The fitted method whose errors are studied."""
        return self.folder / "base_model.safetensors"

    @property
    def base_text_features(self) -> Path:
        """Class texts of the base model."""
        return self.folder / "base_text_features.parquet"

    @property
    def predictions(self) -> Path:
        """Predictions of the base model; those of a run are in its `RunLayout`."""
        return self.folder / "predictions.parquet"

    @property
    def confusion_bank(self) -> Path:
        return self.folder / "confusion_bank.parquet"

    @property
    def confusion_statistics(self) -> Path:
        return self.folder / "confusion_statistics.parquet"

    @property
    def pairs(self) -> Path:
        return self.folder / "pairs.parquet"

    @property
    def class_pairs(self) -> Path:
        return self.folder / "class_pairs.parquet"

    @property
    def prompts(self) -> Path:
        return self.folder / "prompts.parquet"

    @property
    def prompt_clusters(self) -> Path:
        return self.folder / "prompt_clusters.parquet"

    @property
    def prompt_centres(self) -> Path:
        return self.folder / "prompt_centres.safetensors"

    @property
    def prompt_separation(self) -> Path:
        return self.folder / "prompt_separation.parquet"

    @property
    def representatives(self) -> Path:
        return self.folder / "representatives.parquet"

    def run(self, method: str) -> RunLayout:
        return RunLayout(self.folder / method)


@dataclass(frozen=True)
class RunLayout:
    """Paths of one trained and evaluated method."""

    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "model.safetensors"

    @property
    def training_log(self) -> Path:
        return self.folder / "training_log.parquet"

    @property
    def predictions(self) -> Path:
        return self.folder / "predictions.parquet"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.json"

    @property
    def loss_plot(self) -> Path:
        return self.folder / "plots" / "loss.csv"

    @property
    def confusion_plot(self) -> Path:
        return self.folder / "plots" / "confusion.csv"


@dataclass(frozen=True)
class ReportLayout:
    """Paths of what covers all data sets."""

    root: Path

    @property
    def evaluations(self) -> Path:
        """Folder of the evaluation records of all data sets, methods and seeds."""
        return self.root / "evaluations"

    @property
    def results(self) -> Path:
        return self.root / "results.parquet"

    @property
    def results_csv(self) -> Path:
        return self.root / "results.csv"

    @property
    def results_markdown(self) -> Path:
        return self.root / "results.md"

    @property
    def html(self) -> Path:
        return self.root / "report.html"


@dataclass(frozen=True)
class StudyLayout:
    """Paths of the study; `root` is the folder given by ``--artifacts``."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "study"

    def variant(self, name: str) -> Path:
        """Folder that takes the place of the artifacts folder when a variant runs."""
        return self.folder / name

    def evaluations(self, variant: str, dataset: str) -> list[Path]:
        """Evaluation records of a variant, sorted."""
        return sorted((ReportLayout(self.variant(variant)).evaluations / dataset).glob("*.parquet"))

    @property
    def results(self) -> Path:
        return self.folder / "results.parquet"

    @property
    def markdown(self) -> Path:
        return self.folder / "study.md"

    @property
    def html(self) -> Path:
        return self.folder / "study.html"
