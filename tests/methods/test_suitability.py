"""Which methods a backbone suits is told from its architecture alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from capt_core.errors import CaptError
from capt_core.methods.clip import Clip
from capt_core.methods.data_facts import DataFacts
from capt_core.methods.fitting import fit_method
from capt_core.methods.method import Method, Need
from capt_core.methods.registry import method_class, method_names
from capt_core.methods.suitability import (
    check_described,
    data_facts,
    unfit_data,
    unstartable,
    unsuited,
)
from capt_core.methods.task import Task
from capt_core.params import Backbone, GeneratePrompts
from tests.refusals import refusal


def methods() -> list[Method]:
    return [method_class(name)() for name in method_names()]


PROMPTED = (
    *("maple", "promptsrc", "promptkd", "spotlighter", "spotlighter_promptkd", "tac", "tap"),
    *("lweib", "twosfs", "clip_lora", "clip_lora_prompts", "capt"),
)
"""Methods that look into the image tower."""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tiny-clip", None),
        ("ViT-B-32", None),
        ("RN50", "the image tower ModifiedResNet is no vision transformer"),
        ("convnext_base", "the image tower"),
    ],
)
def test_methods_that_a_backbone_does_not_suit(name: str, reason: str | None) -> None:
    found = list(unsuited(methods(), Backbone(name=name)))
    assert len(found) == (0 if reason is None else len(PROMPTED))
    for line, method in zip(found, PROMPTED, strict=False):
        assert f"{method} cannot be used with backbone {name}: {reason}" in line
        assert "clip, clip_prompts, " in line  # which can be used


def test_blocks_that_a_tower_does_not_have() -> None:
    capt = method_class("capt")
    settings = capt.Settings.model_validate({"adapter": {"blocks": 13}})
    (line,) = unsuited([capt(settings)], Backbone(name="ViT-B-32"))
    assert "the tower has 12 blocks" in line


def test_an_unknown_backbone_is_refused() -> None:
    assert "unknown model" in refusal(list, unsuited(methods(), Backbone(name="ViT")))


def test_methods_that_need_sentences_are_refused_where_none_can_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = GeneratePrompts()
    assert "fudd needs what is written" in refusal(
        check_described, ["clip", "fudd"], settings, "mine"
    )
    check_described(["clip", "capt"], settings, "mine")
    check_described(["fudd"], settings, "proctex")  # has a store
    check_described(["fudd"], settings.model_copy(update={"provider": "anthropic"}), "mine")
    (tmp_path / "cache/llm").mkdir(parents=True)
    check_described(["fudd"], settings, "mine")


def test_methods_that_cannot_start_from_a_base_model() -> None:
    (line,) = unstartable(methods(), method_class("clip")())
    assert line.startswith("dpc: tunes the prompt of a base model fitted with coop or promptkd")
    assert not list(unstartable(methods(), method_class("coop")()))
    (line,) = unstartable(methods(), method_class("gda")())
    assert line.startswith("fit_teacher.method: gda tells images by more than class texts")
    (line,) = unstartable([], method_class("capt")())
    assert line.startswith("fit_teacher.method: capt needs what is mined")


@pytest.mark.parametrize("name", PROMPTED)
def test_a_fit_on_a_backbone_that_does_not_suit_is_refused(
    name: str, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its class token is there, but not what the tower gives: the fit would go through.
    monkeypatch.setattr(task.backbone.clip.visual, "pool_type", "avg")
    message = refusal(fit_method, method_class(name)(), task)
    assert message.startswith(f"{name} cannot be used with backbone {task.backbone.identity}: ")
    assert "choose a ViT backbone such as ViT-B-16" in message


class Demanding(Clip):
    """Needs three trained classes, all of them described, and unlabelled images."""

    name = "demanding"
    needs = frozenset({Need.UNLABELLED, Need.CLASS_DESCRIPTIONS})

    def check_data(self, data: DataFacts) -> None:
        super().check_data(data)
        if len(data.base) < 3:
            raise CaptError(f"demanding needs three classes, {data.dataset} has {len(data.base)}")


def facts(groups: Sequence[str], images: int, **settings: str) -> DataFacts:
    names = ("banded", "striped", "lined", "grooved")[: len(groups)]
    classes = pl.DataFrame({"class_name": names, "group": groups}).with_row_index("class_id")
    classes = classes.with_columns(template=pl.lit("a photo of a {} texture"))
    return data_facts("proctex", classes, images, GeneratePrompts.model_validate(settings))


def test_methods_that_a_data_set_does_not_do_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = [Demanding(), Clip()]
    enough = facts(["base", "novel", "base", "base"], 10)
    assert (enough.base, enough.novel) == (["banded", "lined", "grooved"], ["striped"])
    assert enough.sentences is not None
    assert len(enough.sentences["banded"]) >= 6
    assert list(unfit_data(asked, enough)) == []
    (line,) = unfit_data(asked, facts(["base", "base", "novel"], 10))
    assert line == "demanding needs three classes, proctex has 2"
    (line,) = unfit_data(asked, facts(["base"] * 3, 0))
    assert "demanding needs unlabelled training images" in line
    (line,) = unfit_data(asked, facts(["base"] * 3, 10, store="none"))
    assert "demanding needs what is written about the classes, and nothing is about proctex" in line
    assert "generate_prompts.store" in line
    (line,) = unfit_data(asked, facts(["base"] * 3, 10, provider="template"))
    assert "nothing is about proctex" in line
    # A language model may write what no store has.
    later = facts(["base"] * 3, 10, store="none", provider="anthropic")
    assert (later.sentences, later.attributes) == (None, None)
    assert list(unfit_data(asked, later)) == []


def test_a_task_is_checked_before_a_fit(task: Task) -> None:
    message = refusal(fit_method, Demanding(), task)
    assert message == "demanding needs three classes, proctex has 2"
