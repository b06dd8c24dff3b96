"""Class texts with what is written about a class, and retention over names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import numpy as np
import polars as pl
import torch

from capt_core.advice import setting
from capt_core.backbone.loading import Backbone
from capt_core.confusion.semantic_miner import predicted_pairs
from capt_core.methods.classes import Classes
from capt_core.methods.method import Fitted
from capt_core.methods.retention import RetentionNames, generic_prompts, retention_texts
from capt_core.methods.task import Task
from capt_core.prompts.class_texts import (
    described_class_ids,
    described_texts,
    most_partners,
    prompts_of_pairs,
)
from capt_core.prompts.clustering import class_means
from capt_core.prompts.embedding import prompt_embeddings
from capt_core.prompts.exchange import some_of
from capt_core.prompts.shapes import alone, attribute_tree, class_phrases, class_sentences

GENERIC = "generic vocabulary"
"""The everyday words of `retention.generic_vocabulary`, in what a run saw."""

_RETAINED = {
    "all": "novel class names (retention)",
    "generic": f"{GENERIC} (retention)",
    "prompts": f"{GENERIC} and the pairs' prompts (retention)",
}
"""By the names that retention is over; names of trained classes are seen anyway."""


Describe = Literal["base", "all"]
"""Classes that difference prompts are looked up for: those with mined pairs, or novel ones, too."""


def described_vectors(
    task: Task, base: Fitted, weight: float, describe: Describe = "base"
) -> dict[str, torch.Tensor]:
    """Class texts of a base model moved towards written difference prompts, by class name.

    Base classes have the prompts of their mined pairs. With `all`, novel classes have those of as
    many pairs, predicted from the class texts (`predicted_pairs`); base ones stay as they are.

    Args:
        task: with the table `prompts`, and `class_descriptions` for `all`.
        base: whose class texts are moved.
        weight: of the mean of a class's difference prompts; 0 moves nothing.
        describe: which classes.

    Returns:
        A unit-length vector [d] for every class that something is written about.
    """
    if weight == 0:
        return {}
    assert task.prompts is not None
    prompts, dataset = task.prompts(), task.dataset
    texts = base.class_texts(Classes.of(dataset))
    moved = _moved(task, base, weight, texts, prompts)
    count = f"{len(moved)} of {len(task.trained_classes)} base classes"
    if describe == "all" and (novel := dataset.class_ids("novel")):
        assert task.class_descriptions is not None
        names, partners = dataset.class_names, most_partners(prompts)
        pairs = predicted_pairs(names, texts, partners, task.trained_classes)
        found = prompts_of_pairs(pairs, task.class_descriptions())
        others = _moved(task, base, weight, texts, found)
        count += f" and {len(others)} of {len(novel)} novel classes"
        plain = [names[class_id] for class_id in novel if names[class_id] not in others]
        task.reporter.say(f"class texts: {count} described")
        if plain:
            task.reporter.say(undescribed_names(plain))
        return moved | others
    task.reporter.say(f"class texts: {count} described")
    return moved


def undescribed_names(names: Sequence[str]) -> str:
    """The line about classes that keep their prompt, with the way on."""
    return (
        f"class texts: nothing is written to tell {some_of(names)} from the classes most like "
        f"{'it' if len(names) == 1 else 'them'}: plain prompts stand; "
        f"{setting('generate_prompts.provider', 'anthropic')} has it written"
    )


def _moved(
    task: Task, base: Fitted, weight: float, texts: torch.Tensor, prompts: pl.DataFrame
) -> dict[str, torch.Tensor]:
    """`described_texts` of the classes that have written prompts, by name."""
    described = described_class_ids(prompts)
    if not described:
        return {}
    embeddings = task_embeddings(task, prompts["prompt"].to_list(), base.text_backbone())
    moved = described_texts(texts, prompts, embeddings, weight)
    return {task.dataset.class_names[class_id]: moved[class_id] for class_id in described}


def names_seen(task: Task, fitted: Fitted) -> list[str]:
    """What `describe: all` lets a run see beside the texts, as `Method.sees` lists it."""
    names = task.dataset.class_names
    novel = {names[class_id] for class_id in task.dataset.class_ids("novel")}
    return ["novel class names (class texts)"] if novel & {*fitted.vector_names} else []


def sentences_by_class(task: Task) -> dict[str, list[str]]:
    """`class_sentences` of a task with the table `class_descriptions`."""
    assert task.class_descriptions is not None
    return class_sentences(task.class_descriptions())


def phrases_by_class(task: Task) -> dict[str, list[str]]:
    """`class_phrases` of a task with the table `class_descriptions`."""
    assert task.class_descriptions is not None
    return class_phrases(task.class_descriptions())


def attribute_sentences(task: Task) -> dict[str, dict[str, list[str]]]:
    """`attribute_tree` of a task with the table `class_descriptions`."""
    assert task.class_descriptions is not None
    return attribute_tree(task.class_descriptions())


def description_vectors(task: Task) -> dict[str, torch.Tensor]:
    """The mean of what is written about each class by itself, by class name.

    Args:
        task: with the table `class_descriptions`.

    Returns:
        A unit-length vector [d] for every class, base or novel, that something is written about.
    """
    assert task.class_descriptions is not None
    written = alone(task.class_descriptions())
    if written.is_empty():
        return {}
    embeddings = task_embeddings(task, written["description"].to_list())
    class_ids, means = class_means(embeddings, written["class_id"].to_numpy())
    names = [task.dataset.class_names[class_id] for class_id in class_ids.tolist()]
    return dict(zip(names, torch.from_numpy(means).float(), strict=True))


def pair_vectors(task: Task) -> dict[tuple[str, str], torch.Tensor]:
    """The mean of what is written to tell a class from another, by the names of the two.

    Args:
        task: with the table `class_descriptions`.

    Returns:
        The mean [d] of unit-length embeddings, for the pairs that something is written about.
    """
    assert task.class_descriptions is not None
    written = task.class_descriptions().filter(pl.col("paired_class_id").is_not_null())
    if written.is_empty():
        return {}
    embeddings = torch.from_numpy(task_embeddings(task, written["description"].to_list()))
    rows: dict[tuple[str, str], list[int]] = {}
    for row, pair in enumerate(written.select("class_name", "paired_class").iter_rows()):
        rows.setdefault((pair[0], pair[1]), []).append(row)
    return {pair: embeddings[chosen].mean(dim=0) for pair, chosen in rows.items()}


def described_groups(task: Task, names: Collection[str], what: str) -> list[str]:
    """What a run saw that described classes of these names, as `Method.sees` lists it."""
    every = task.dataset.class_names
    return [
        f"{what} of {group} classes (class texts)"
        for group in ("base", "novel")
        if any(every[class_id] in names for class_id in task.dataset.class_ids(group))
    ]


def task_embeddings(
    task: Task, texts: Sequence[str], backbone: Backbone | None = None
) -> np.ndarray:
    """Unit-length embeddings [n, d] of written texts, kept in the task's folder.

    They are of the task's backbone, or else of another.
    """
    folder = task.work and task.work / "embeddings"
    return prompt_embeddings(texts, backbone or task.backbone, folder, task.reporter.warn)


def retained_texts(
    task: Task, texts: torch.Tensor, names: RetentionNames, backbone: Backbone | None = None
) -> torch.Tensor:
    """Text features over which the base model's predictions are kept, unit length, [V, d].

    Args:
        task: with the table `prompts` if `names` is `prompts`.
        texts: of all classes in class order, [C, d], unit length.
        names: see `retention_texts`.
        backbone: whose text tower gives them; None takes the task's.
    """
    written = []
    if names == "prompts":
        assert task.prompts is not None
        written = task.prompts()["prompt"].to_list()
    return retention_texts(
        names,
        texts,
        task.trained_classes,
        task.dataset.classes["template"][0],
        backbone or task.backbone,
        written,
    )


def retained_prompts(task: Task, names: RetentionNames) -> list[str]:
    """What stands for the names of `retained_texts` where class texts are those of the prompts."""
    classes = Classes.of(task.dataset)
    if names in ("training", "all"):
        return (classes if names == "all" else classes.only(task.trained_classes)).prompts
    words = generic_prompts(classes.templates[0], task.backbone)
    if names == "generic":
        return words
    assert task.prompts is not None
    return words + sorted({*task.prompts()["prompt"]})


def training_texts(task: Task, weight: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Function that moves texts of the trained classes towards their difference prompts.

    For texts that are tuned: unlike `described_vectors` it can be called, and differentiated
    through, at every step. The embeddings of the prompts are the backbone's.

    Args:
        task: with the table `prompts`.
        weight: see `described_vectors`.

    Returns:
        From texts [C, d] in the order of the trained classes, unit length, to such texts.
    """
    assert task.prompts is not None
    prompts = task.prompts() if weight else task.prompts().clear()
    if prompts.is_empty():
        return lambda texts: texts
    place = {class_id: index for index, class_id in enumerate(task.trained_classes)}
    embeddings = task_embeddings(task, prompts["prompt"].to_list())
    placed = prompts.with_columns(pl.col("class_id").replace_strict(place))
    return lambda texts: described_texts(texts, placed, embeddings, weight)


def retention_seen(weight: float, names: str) -> list[str]:
    """What retention over `names` lets a run see; nothing where its weight is 0."""
    seen: Mapping[str, str] = _RETAINED if weight > 0 else {}
    return [seen[names]] if names in seen else []
