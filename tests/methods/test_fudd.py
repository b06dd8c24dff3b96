"""FuDD: texts for exactly the ambiguous classes of an image, by hand and one image at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from capt_core.backbone.encoding import encode_texts
from capt_core.methods.classes import Classes
from capt_core.methods.fitting import fit_method, group_scorers
from capt_core.methods.fudd import (
    Differential,
    ambiguous_logits,
    differential_texts,
    follow_up,
    pair_rows,
)
from capt_core.methods.task import Task
from tests.methods.toy_task import quick, written_descriptions
from tests.refusals import refusal


def test_the_texts_of_three_classes_by_hand() -> None:
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    unread = torch.full((2,), 100.0)
    means = torch.stack(
        [
            torch.stack([unread, east, north]),  # halfway between: north-east
            torch.stack([north, unread, north]),
            torch.stack([east, east, unread]),
        ]
    )
    half = math.sqrt(0.5)
    torch.testing.assert_close(
        differential_texts(means), torch.tensor([[half, half], [0.0, 1.0], [1.0, 0.0]])
    )


def test_the_others_stay_behind_by_hand() -> None:
    # Classes 3 and 1 are ambiguous, and class 1 comes to 2. The others were 1 and 4 below the
    # second of them, which was 6.
    found = follow_up(
        torch.tensor([[5.0, 6.0, 2.0, 9.0]]), torch.tensor([[3, 1]]), torch.tensor([[7.0, 2.0]])
    )
    assert found.tolist() == [[1.0, 2.0, -2.0, 7.0]]


def test_the_rows_of_pairs_by_hand() -> None:
    pairs = {("a", "b"): 0, ("b", "a"): 1, ("a", "elsewhere"): 2}
    assert pair_rows(("b", "c", "a"), pairs).tolist() == [[0, 0, 4], [1, 1, 1], [3, 2, 2]]


@given(st.integers(0, 999), st.integers(2, 5))
def test_each_image_has_texts_of_its_own(seed: int, ambiguous: int) -> None:
    drawn = torch.Generator().manual_seed(seed)

    def unit(*shape: int) -> torch.Tensor:
        values = torch.randn(*shape, generator=drawn, dtype=torch.float64)
        return functional.normalize(values, dim=-1)

    features, prompts, means = unit(4, 3), unit(5, 3), unit(6, 3)
    pairs = [(0, 1), (1, 0), (2, 4), (4, 2), (3, 0), (0, 3)]
    names = tuple("abcde")
    named = {(names[i], names[j]): row for row, (i, j) in enumerate(pairs)}
    top = (features @ prompts.T).topk(ambiguous, dim=1).indices
    texts = torch.cat([prompts, means])
    found = ambiguous_logits(features, top, texts, pair_rows(names, named), 10.0)
    for image in range(4):
        for place, own in enumerate(top[image].tolist()):
            total = torch.zeros(3, dtype=torch.float64)
            for other in top[image].tolist():
                if other != own:
                    known = (own, other) in pairs
                    total += means[pairs.index((own, other))] if known else prompts[own]
            expected = 10.0 * features[image] @ total / total.norm()
            torch.testing.assert_close(found[image, place], expected)


def test_what_is_written_about_the_likeliest_two_decides(task: Task) -> None:
    assert task.features is not None
    model = fit_method(quick("fudd", candidates=2), task)
    classes, backbone = Classes.of(task.dataset), task.backbone
    plain = fit_method(quick("clip"), task).fitted.logits(task.features(), classes)
    found = model.fitted.logits(task.features(), classes)
    sentences = [
        "a photo of cloth without gaps.",
        "a photo of crossing threads.",
        "a photo of thin dark lines.",
    ]
    written = encode_texts(sentences, backbone)
    woven, cracked = functional.normalize(written[:2].sum(dim=0), dim=0), written[2]
    both = plain.topk(2, dim=1).indices.sort(dim=1).values.tolist()
    pair = [index for index, top in enumerate(both) if top == [0, 1]]
    assert pair
    features = task.features()[pair]
    torch.testing.assert_close(found[pair, 0], backbone.logit_scale * features @ woven)
    torch.testing.assert_close(found[pair, 1], backbone.logit_scale * features @ cracked)
    # Nothing is written about the pair of novel classes: their prompts stand.
    other = [index for index, top in enumerate(both) if top == [2, 3]]
    assert other
    torch.testing.assert_close(found[other], plain[other])
    # Each half is asked for alone, so that a pair across the halves changes nothing.
    halves = group_scorers(model.fitted, task.dataset)
    for group, members in (("base", [0, 1]), ("novel", [2, 3])):
        alone = model.fitted.logits(task.features(), classes.only(members))
        assert torch.equal(halves[group](task.features()), alone)
    assert not torch.allclose(halves["base"](task.features()), found[:, :2])
    single = model.fitted.logits(task.features(), classes.only([1]))
    torch.testing.assert_close(single, plain[:, 1:2])


@pytest.mark.parametrize("count", [0, 1, 70])
def test_any_number_of_images(task: Task, count: int) -> None:
    assert task.features is not None
    found = fit_method(quick("fudd", candidates=3), task).fitted
    assert isinstance(found, Differential)
    features = task.features().repeat(2, 1)[:count]
    logits = found.logits(features, Classes.of(task.dataset))
    assert logits.shape == (count, 4)
    if count == 70:
        torch.testing.assert_close(logits[40:], logits[:30])


def test_without_pairs_it_is_refused(task: Task) -> None:
    alone = written_descriptions().filter(pl.col("paired_class_id").is_null())
    bare = replace(task, class_descriptions=lambda: alone)
    message = refusal(fit_method, quick("fudd"), bare)
    assert "fudd needs sentences about pairs" in message
    assert "generate_prompts.store" in message
    seen = fit_method(quick("fudd"), task).sees
    assert seen == "difference prompts of pairs of base classes (class texts)"
