"""Which methods a backbone suits is told from its architecture alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from capt_core.methods.method import Method
from capt_core.methods.registry import method_class, method_names
from capt_core.methods.suitability import check_described, unsuited
from capt_core.params import Backbone, GeneratePrompts
from tests.refusals import refusal


def methods() -> list[Method]:
    return [method_class(name)() for name in method_names()]


PROMPTED = ("maple", "promptsrc", "spotlighter", "capt")
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
    assert "fudd: needs what is written" in refusal(
        check_described, ["clip", "fudd"], settings, "mine"
    )
    check_described(["clip", "capt"], settings, "mine")
    check_described(["fudd"], settings, "proctex")  # has a store
    check_described(["fudd"], settings.model_copy(update={"provider": "anthropic"}), "mine")
    (tmp_path / "cache/llm").mkdir(parents=True)
    check_described(["fudd"], settings, "mine")
