"""Class texts moved by difference prompts, and the names that retention is over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
import torch
from torch.nn import functional

from capt_core.artifacts.schemas import CLASS_DESCRIPTIONS
from capt_core.backbone.encoding import encode_texts
from capt_core.methods.classes import Classes
from capt_core.methods.descriptions import (
    attribute_sentences,
    described_vectors,
    phrases_by_class,
    retained_texts,
    sentences_by_class,
)
from capt_core.methods.fitting import fit_method
from capt_core.methods.method import Fitted
from capt_core.methods.retention import RetentionNames, known_vocabulary
from capt_core.methods.task import Task
from capt_core.reporter import Reporter
from tests.methods.toy_task import NAMES, quick, written_prompts


def test_base_classes_are_moved_towards_what_is_written_about_them(task: Task) -> None:
    backbone = task.backbone
    plain = Fitted(quick("clip"), backbone)
    found = described_vectors(task, plain, 0.5)
    assert list(found) == ["woven", "cracked"]
    texts = plain.class_texts(Classes.of(task.dataset))
    (written,) = encode_texts(["a photo of crossing threads."], backbone)
    torch.testing.assert_close(
        found["woven"], functional.normalize(texts[0] + 0.5 * written, dim=0)
    )
    replaced = quick("clip_prompts", difference_weight=0.5).fit(task)
    compared = replaced.class_texts(Classes.of(task.dataset))
    torch.testing.assert_close(compared[0], found["woven"])
    assert torch.equal(compared[2:], texts[2:])


def test_nothing_written_moves_nothing(task: Task) -> None:
    plain = Fitted(quick("clip"), task.backbone)
    assert described_vectors(task, plain, 0.0) == {}
    templates = written_prompts().with_columns(source=pl.lit("template"))
    assert described_vectors(replace(task, prompts=lambda: templates), plain, 1.0) == {}


def told_apart(name: str, others: Sequence[str]) -> pl.DataFrame:
    """A sentence about a class against each of some others, as in `class_descriptions`."""
    rows = [
        (NAMES.index(name), name, NAMES.index(other), other, position, None, f"a photo of {other}s")
        for position, other in enumerate(others)
    ]
    schema = dict(CLASS_DESCRIPTIONS.columns)
    return pl.DataFrame([(*row, None, "somebody") for row in rows], schema=schema, orient="row")


def test_novel_classes_are_described_by_their_names_alone(task: Task) -> None:
    plain, said = Fitted(quick("clip"), task.backbone), list[str]()
    others = [name for name in NAMES if name != "dotted"]
    spoken = replace(
        task,
        class_descriptions=lambda: told_apart("dotted", others),
        reporter=Reporter(say=said.append),
    )
    found = described_vectors(spoken, plain, 0.5, "all")
    base = described_vectors(task, plain, 0.5)
    assert list(found) == ["woven", "cracked", "dotted"]
    assert all(torch.equal(found[name], base[name]) for name in base)
    texts = plain.class_texts(Classes.of(task.dataset))
    # As many partners as the base classes have: one, the class with the most similar text.
    nearest = max(others, key=lambda name: float(texts[NAMES.index(name)] @ texts[2]))
    (written,) = encode_texts([f"a photo of {nearest}s"], task.backbone)
    torch.testing.assert_close(
        found["dotted"], functional.normalize(texts[2] + 0.5 * written, dim=0)
    )
    assert said[0] == "class texts: 2 of 2 base classes and 1 of 2 novel classes described"
    assert "nothing is written to tell bumpy" in said[1]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("clip_prompts", {"describe": "all"}),
        ("residual_adapter", {"describe": "all"}),
        ("tip_adapter_f_prompts", {"describe": "all"}),
        ("capt", {"class_texts": {"describe": "all"}}),
    ],
)
def test_novel_names_in_the_texts_are_told(name: str, settings: dict[str, Any], task: Task) -> None:
    method, usual = quick(name, **settings), quick(name)
    assert (method.described_by_name, usual.described_by_name) == (1.0, 0.0)
    rows = told_apart("dotted", ["woven", "cracked", "bumpy"])
    fitted = fit_method(method, replace(task, class_descriptions=lambda: rows))
    assert "novel class names (class texts)" in fitted.sees
    assert fitted.fitted.vector_names == ("woven", "cracked", "dotted")


def test_a_bank_of_names_for_retention(task: Task) -> None:
    texts = encode_texts(task.dataset.prompts, task.backbone)
    assert torch.equal(retained_texts(task, texts, "training"), texts[:2])
    assert torch.equal(retained_texts(task, texts, "all"), texts)


@pytest.mark.parametrize(("names", "more"), [("generic", 0), ("prompts", 3)])
def test_generic_words_name_no_class(task: Task, names: RetentionNames, more: int) -> None:
    texts = encode_texts(task.dataset.prompts, task.backbone)
    found = retained_texts(task, texts, names)
    words = known_vocabulary(task.backbone)
    assert len(found) == len(words) + more
    first = encode_texts([f"a photo of a {words[0]}."], task.backbone)
    torch.testing.assert_close(found[:1], first)


def test_what_is_written_in_the_shape_of_each_method(task: Task) -> None:
    described = pl.DataFrame(
        {
            "class_name": ["polka-dotted", "polka-dotted", "polka-dotted", "lined", "lined"],
            "paired_class_id": [None, None, None, None, 7],
            "attribute": ["size", None, "colour", None, None],
            "description": ["A polka-dotted, big.", "Big spots.", "It is red.", "Lines.", "No."],
            "phrase": ["big", None, None, None, None],
        }
    )
    task = replace(task, class_descriptions=lambda: described)
    sentences = {"polka-dotted": ["A polka-dotted, big.", "Big spots.", "It is red."]}
    assert sentences_by_class(task) == sentences | {"lined": ["Lines."]}
    phrases = {"polka-dotted": ["big", "Big spots.", "It is red."]}
    assert phrases_by_class(task) == phrases | {"lined": ["Lines."]}
    assert attribute_sentences(task) == {
        "polka-dotted": {"size": ["polka-dotted, big"], "colour": ["It is red."]}
    }
