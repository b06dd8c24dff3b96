"""Class texts moved by difference prompts, and the names that retention is over."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest
import torch
from torch.nn import functional

from capt_core.backbone.encoding import encode_texts
from capt_core.methods.descriptions import (
    attribute_sentences,
    described_vectors,
    phrases_by_class,
    retained_texts,
    sentences_by_class,
)
from capt_core.methods.method import Classes, Fitted
from capt_core.methods.retention import RetentionNames, known_vocabulary
from capt_core.methods.task import Task
from tests.methods.toy_task import quick, written_prompts


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
