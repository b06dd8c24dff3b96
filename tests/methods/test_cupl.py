"""CuPL: means of descriptions in place of class prompts."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import torch
from torch.nn import functional

from capt_core.backbone.encoding import encode_texts
from capt_core.methods.classes import Classes
from capt_core.methods.fitting import fit_method
from capt_core.methods.task import Task
from tests.methods.toy_task import quick, written_descriptions
from tests.refusals import refusal

BASE = "descriptions of base classes (class texts)"
NOVEL = "descriptions of novel classes (class texts)"


def test_described_classes_are_means_and_others_their_prompts(task: Task) -> None:
    model = fit_method(quick("cupl"), task)
    texts = model.fitted.class_texts(Classes.of(task.dataset))
    plain = encode_texts(task.dataset.prompts, task.backbone)
    sentences = ["a photo of cloth.", "threads over and under.", "a photo of round spots."]
    written = encode_texts(sentences, task.backbone)
    torch.testing.assert_close(texts[0], functional.normalize(written[:2].sum(dim=0), dim=0))
    torch.testing.assert_close(texts[2], written[2])
    assert torch.equal(texts[[1, 3]], plain[[1, 3]])
    assert model.sees == f"{BASE}; {NOVEL}"


def test_what_was_described_is_said(task: Task) -> None:
    base = replace(task, class_descriptions=lambda: written_descriptions().filter(class_id=0))
    assert fit_method(quick("cupl"), base).sees == BASE
    novel = replace(task, class_descriptions=lambda: written_descriptions().filter(class_id=2))
    assert fit_method(quick("cupl"), novel).sees == NOVEL
    none = replace(task, class_descriptions=lambda: written_descriptions().filter(pl.lit(False)))
    message = refusal(fit_method, quick("cupl"), none)
    assert "cupl needs what is written about the classes" in message
    assert "generate_prompts.store" in message
