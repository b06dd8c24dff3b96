"""What a model card says."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from capt_core.hub.card import TEXTURES_WARNING, Mistakes, mistakes, model_card, plain
from capt_core.methods.classes import Classes
from capt_core.methods.fitting import fit_method
from capt_core.methods.task import Task
from capt_core.methods.trained import TrainedModel
from tests.methods.toy_task import quick


@pytest.fixture(scope="module")
def model(task: Task) -> TrainedModel:
    return fit_method(quick("coop"), task)


def renamed(model: TrainedModel, *names: str) -> TrainedModel:
    classes = Classes.named(names)
    return TrainedModel(model.fitted, classes, model.sees, model.seed, model.provenance)


def test_mistakes_by_hand() -> None:
    rows = [
        ("test", "pants", "shorts"),
        ("test", "pants", "shorts"),
        ("test", "skirt", "dress"),
        ("test", "dress", "dress"),
        ("train", "pants", "dress"),
    ]
    table = pl.DataFrame(rows, schema=["split", "true_class", "pseudo_label"], orient="row")
    found = mistakes(table.with_columns(correct=pl.col("true_class") == pl.col("pseudo_label")))
    assert (found.images, found.wrong) == (4, 3)
    assert found.pairs.rows() == [("pants", "shorts", 2), ("skirt", "dress", 1)]


def test_it_says_what_was_trained_and_what_is_confused(model: TrainedModel) -> None:
    pairs = pl.DataFrame(
        {"true_class": ["pants", "a|b"], "taken_for": ["shorts", "<c>"], "images": [7, 2]}
    )
    errors = Mistakes(40, 9, pairs)
    card = model_card(model, "me/mine", errors, {"fewshot.shots": 16}, "apache-2.0")
    for part in (
        "license: apache-2.0",
        "Data set: proctex, 4 classes, up to 16 images per class; few-shot draw 1",
        "Method: CoOp (Zhou et al.",
        f"class names: {model.sees}",
        "Of 40 test images 31 (77.5%) were right and 9 wrong",
        "| pants | shorts | 7 |",
        r"| a\|b | &lt;c&gt; | 2 |",
        TEXTURES_WARNING,
        "capt-stage pull me/mine --out model.safetensors",
    ):
        assert part in card


def test_what_is_not_known_is_not_said(model: TrainedModel) -> None:
    card = model_card(model, "me/mine", None, {})
    assert "license" not in card
    assert "per class" not in card
    assert "was not evaluated" in card
    assert "all training images" in model_card(model, "me/mine", None, {"fewshot.shots": 0})


def test_weights_of_a_fresh_model_are_warned_of(model: TrainedModel, task: Task) -> None:
    backbone = replace(task.backbone, identity="ViT-B-32@abc", untrained=True)
    fitted = fit_method(quick("clip"), replace(task, backbone=backbone))
    card = model_card(fitted, "me/mine", None, {})
    assert "untrained: these numbers mean nothing" in card
    assert TEXTURES_WARNING not in card


def test_names_cannot_break_the_card(model: TrainedModel) -> None:
    names = ("<script>alert(1)</script>", "a\n---\nlicense: mit", "[x](http://e.org)", "`rm`")
    card = model_card(renamed(model, *names), "me/mine", None, {})
    assert "<script>" not in card
    assert "\nlicense" not in card
    assert "[x](" not in card.replace(r"\[x\](", "")
    assert plain("a*b_c") == r"a\*b\_c"


def test_very_many_classes_are_cut(model: TrainedModel) -> None:
    card = model_card(renamed(model, *map(str, range(1000))), "me/mine", None, {})
    assert "199 and 800 more" in card
