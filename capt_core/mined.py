"""What a model confuses, in memory: its bank, its pairs, and what CAPT learns from them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import polars as pl
import torch

from capt_core.artifacts.features import HeldFeatures
from capt_core.confusion import bank as banks
from capt_core.confusion.sample_miner import mine_representatives
from capt_core.confusion.semantic_miner import MinedPairs, pairs_of_draw
from capt_core.data.dataset import Dataset
from capt_core.data.preparation import draw_list
from capt_core.evaluation.predictions import classified
from capt_core.methods.classes import Classes
from capt_core.methods.descriptions import task_embeddings
from capt_core.methods.fitting import dataset_features, group_scorers
from capt_core.methods.task import Confusions, Task
from capt_core.methods.trained import TrainedModel
from capt_core.params import FewShot, GeneratePrompts, MinePairs, Settings, check_seed
from capt_core.prompts.clustering import cluster_prompts
from capt_core.prompts.generation import pair_prompts
from capt_core.prompts.sources import written_store
from capt_core.prompts.store import PromptStore
from capt_core.settings_file import validate

_BATCH = 128


@dataclass(frozen=True)
class ConfusionBank:
    """The errors of a model on training images.

    Attributes:
        model: whose errors.
        dataset: samples and classes.
        images: rows of the table `fewshot` of the N images.
        features: the model's features of these images, unit length, [N, d].
        predictions: table `predictions` of these images.
        bank: table `confusion_bank`, one row per misclassified image.
        statistics: table `confusion_statistics`, which class was taken for which how often.
    """

    model: TrainedModel
    dataset: Dataset
    images: pl.DataFrame
    features: torch.Tensor
    predictions: pl.DataFrame
    bank: pl.DataFrame
    statistics: pl.DataFrame


def build_bank(
    model: TrainedModel, dataset: Dataset, *, shots: int = 0, seed: int = 1
) -> ConfusionBank:
    """Collect a model's errors on the training images of the trained classes.

    Args:
        model: zero-shot CLIP (``fit("clip", ...)``) or any other.
        dataset: from `open_folder` or `open_dataset`.
        shots: images per class; 0 takes all.
        seed: of the draw.

    Raises:
        CaptError: an image cannot be read; shots or a seed out of range.
    """
    members = dataset.class_ids("base")
    shots = validate(FewShot, {"shots": shots}, "build_bank").shots
    drawn = draw_list(dataset, shots, check_seed(seed, "build_bank: seed")).filter(
        pl.col("split") == "train", pl.col("class_id").is_in(members)
    )
    ids = drawn["sample_id"]
    features = dataset_features(model.fitted, dataset, ids, None, None, _BATCH, 2)
    return bank_of(model, dataset, drawn, features)


def bank_of(
    model: TrainedModel, dataset: Dataset, drawn: pl.DataFrame, features: torch.Tensor
) -> ConfusionBank:
    """A model's errors on images whose features are known.

    Args:
        model: whose errors.
        dataset: samples and classes.
        drawn: rows of the table `fewshot` of N training images of trained classes.
        features: the model's features of them, unit length, [N, d].
    """
    scorers = group_scorers(model.fitted, dataset)
    predictions = classified(dataset, drawn["sample_id"], features, scorers, top_classes=5)
    bank = banks.confusion_bank(predictions)
    statistics = banks.confusion_statistics(bank, predictions)
    return ConfusionBank(model, dataset, drawn, features, predictions, bank, statistics)


def mine_pairs(found: ConfusionBank, *, pairs: int = 5) -> MinedPairs:
    """The classes that every image and every class is confused with (eq. 6, 7).

    Args:
        found: from `build_bank`.
        pairs: how many per image and per class, 1 to 10.

    Returns:
        The tables `pairs` and `class_pairs`.

    Raises:
        CaptError: the data set has too few classes.
    """
    settings = Settings().mine_pairs
    chosen = validate(type(settings), {**settings.model_dump(), "pairs": pairs}, "mine_pairs")
    return _pairs_of(found, chosen)


def _pairs_of(found: ConfusionBank, chosen: MinePairs) -> MinedPairs:
    base = found.dataset.class_ids("base")
    fitted = found.model.fitted
    texts = fitted.class_texts(Classes.of(found.dataset)).cpu()
    logits = group_scorers(fitted, found.dataset, texts)["base"](found.features)
    return pairs_of_draw(
        found.dataset,
        found.images,
        logits.softmax(dim=-1),
        texts[base],
        found.statistics,
        chosen,
    )


@dataclass(frozen=True)
class Mined:
    """What CAPT learns from, mined when it is asked for.

    Attributes:
        found: the errors of the base model on the few-shot images.
        task: with features.
        store: JSON store of written prompts; None takes the shipped one.
        settings: of mining, prompts and clustering.
    """

    found: ConfusionBank
    task: Task
    store: str | None
    settings: Settings = field(default_factory=Settings)

    def task_of(self, base: TrainedModel) -> Task:
        """The task with a base model and what was mined from it."""
        return replace(
            self.task,
            base_model=base.fitted,
            prompts=lambda: self.prompts,
            confusions=lambda: self.confusions,
        )

    @cached_property
    def pairs(self) -> MinedPairs:
        return _pairs_of(self.found, self.settings.mine_pairs)

    @cached_property
    def prompts(self) -> pl.DataFrame:
        dataset = self.found.dataset
        settings = self.settings.generate_prompts.model_copy(update={"store": self.store})
        return pair_prompts(
            self.pairs.class_pairs,
            dict(dataset.classes.select("class_name", "template").iter_rows()),
            _written(dataset, settings),
            settings.prompts,
            fill=True,
        )

    @cached_property
    def confusions(self) -> Confusions:
        settings, task, found = self.settings, self.task, self.found
        assert task.features is not None
        chosen = settings.cluster_prompts
        texts = self.prompts["prompt"].to_list()
        embeddings = task_embeddings(task, texts)
        clusters = cluster_prompts(
            self.prompts, embeddings, chosen.clusters, chosen.restarts, task.seed
        )
        representatives = mine_representatives(
            found.dataset,
            self.pairs.pairs,
            found.bank,
            task.fewshot.filter(pl.col("split") == "train"),
            HeldFeatures(task.features()),
            settings.mine_samples,
            task.seed,
        ).table()
        centres = {kind: torch.from_numpy(value) for kind, value in clusters.centres.items()}
        source = "full_train" if task.shots == 0 else "fewshot"
        return Confusions(centres, representatives, found.statistics, source)


def _written(dataset: Dataset, settings: GeneratePrompts) -> list[PromptStore]:
    store = written_store(settings, dataset.name)
    return [store] if store else []
