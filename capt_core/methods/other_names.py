"""A trained model that chooses among other class names than those it was trained with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import polars as pl
import torch

from capt_core.confusion.semantic_miner import predicted_pairs
from capt_core.errors import CaptError, shown
from capt_core.methods.classes import Classes
from capt_core.methods.descriptions import undescribed_names
from capt_core.methods.method import Fitted
from capt_core.methods.trained import TrainedModel
from capt_core.params import Settings
from capt_core.prompts.class_texts import described_class_ids, described_texts, prompts_of_pairs
from capt_core.prompts.embedding import prompt_embeddings
from capt_core.prompts.generation import class_descriptions
from capt_core.prompts.store import PromptStore
from capt_core.reporter import SILENT, Reporter


def among(
    model: TrainedModel,
    names: Sequence[str],
    store: PromptStore | None = None,
    reporter: Reporter = SILENT,
) -> TrainedModel:
    """The model with other classes, known by their names alone.

    Names that the model has texts of its own for keep them. Where its method describes classes by
    name (`Method.described_by_name`), the others get what the store says about the pairs that
    `predicted_pairs` finds among the names; a name that it says nothing about is compared by its
    prompt, and the reporter told so. The model's calibration is of its own classes and left out.

    Args:
        model: any that compares images with class texts.
        names: two or more, each once.
        store: written prompts; None describes nothing.
        reporter: takes what was described.

    Raises:
        CaptError: fewer than two names, one twice, or a method that knows its own classes only.
    """
    if problem := _problem(names):
        raise CaptError(f"classes to choose among: {problem}; give two or more names, each once")
    classes = Classes.named(names, model.classes.templates[0])
    fitted = model.fitted
    fitted.class_texts(classes)  # refuses what the method cannot tell
    if weight := fitted.method.described_by_name:
        vectors = _described(fitted, classes, store, weight)
        plain = [name for name in names if name not in {*vectors, *fitted.vector_names}]
        reporter.say(f"class texts: {len(names) - len(plain)} of {len(names)} classes described")
        if plain:
            reporter.say(undescribed_names(plain))
        fitted = fitted.with_more_vectors(vectors)
    return TrainedModel(fitted, classes, model.sees, model.seed, model.provenance)


def _problem(names: Sequence[str]) -> str | None:
    if len(names) < 2:
        return "a single one is given" if names else "none is given"
    if not all(map(str.strip, names)):
        return "a name is empty"
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    return None if twice is None else f"{shown(twice)} is given twice"


def _described(
    fitted: Fitted, classes: Classes, store: PromptStore | None, weight: float
) -> dict[str, torch.Tensor]:
    """Texts [d] of the classes that the store describes and the model has none for, by name."""
    if store is None:
        return {}
    start = fitted.start
    texts = start.class_texts(classes)
    table = pl.DataFrame(
        {
            "class_id": range(len(classes.names)),
            "class_name": classes.names,
            "template": classes.templates,
        }
    )
    known = [index for index, name in enumerate(classes.names) if name in fitted.vector_names]
    pairs = predicted_pairs(classes.names, texts, Settings().mine_pairs.pairs, known)
    prompts = prompts_of_pairs(pairs, class_descriptions(table, [store]))
    if prompts.is_empty():
        return {}
    written = prompts["prompt"].to_list()
    embeddings: np.ndarray = prompt_embeddings(written, start.text_backbone(), None)
    moved = described_texts(texts, prompts, embeddings, weight)
    return {classes.names[index]: moved[index] for index in described_class_ids(prompts)}
