"""Prompts of class pairs: which provider gives them, how many, and what they say."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from capt_core.artifacts.schemas import PROMPTS
from capt_core.artifacts.tables import schema_problem
from capt_core.data.registry import DATASETS
from capt_core.errors import CaptError
from capt_core.prompts.generation import pair_prompts, template_prompts
from capt_core.prompts.store import PromptStore

NAMES = ("grey_cat", "red_fox", "sand_cat")
TEMPLATES = dict.fromkeys(NAMES, "a photo of a {}, a type of animal.")


def pairs_of(*pairs: tuple[int, int]) -> pl.DataFrame:
    rows = [(a, NAMES[a], b, NAMES[b]) for a, b in pairs]
    return pl.DataFrame(
        rows, schema=["class_id", "class_name", "paired_class_id", "paired_class"], orient="row"
    )


def store_of(*pairs: tuple[int, int]) -> PromptStore:
    """Three commonality prompts per pair; three difference prompts one way, one the other."""
    entries: list[dict[str, Any]] = [
        {
            "classes": [NAMES[a], NAMES[b]],
            "reason": "fur",
            "commonality": [f"{a}{b} common {i}" for i in range(3)],
            "difference": {
                NAMES[a]: [f"{a} not {b} {i}" for i in range(3)],
                NAMES[b]: [f"{b} not {a} 0"],
            },
        }
        for a, b in pairs
    ]
    return PromptStore.model_validate(
        {
            "schema_version": 1,
            "dataset": "animals",
            "domain": "animals",
            "source": "a friend",
            "classes": {},
            "pairs": entries,
        }
    )


def told(frame: pl.DataFrame) -> list[tuple[object, ...]]:
    return frame.select("class_name", "paired_class", "kind", "position", "prompt", "source").rows()


def test_written_prompts_hold_in_both_directions() -> None:
    frame = pair_prompts(pairs_of((0, 2), (2, 0)), TEMPLATES, store_of((0, 2)), "store", 2)
    cat, sand = "grey_cat", "sand_cat"
    assert told(frame) == [
        (cat, sand, "commonality", 0, "02 common 0", "a friend"),
        (cat, sand, "commonality", 1, "02 common 1", "a friend"),
        (cat, sand, "difference", 0, "0 not 2 0", "a friend"),
        (cat, sand, "difference", 1, "0 not 2 1", "a friend"),
        (sand, cat, "commonality", 0, "02 common 0", "a friend"),
        (sand, cat, "commonality", 1, "02 common 1", "a friend"),
        (sand, cat, "difference", 0, "2 not 0 0", "a friend"),
    ]
    assert frame["class_id"].to_list() == [0, 0, 0, 0, 2, 2, 2]
    assert frame["paired_class_id"].to_list() == [2, 2, 2, 2, 0, 0, 0]
    assert schema_problem(PROMPTS, frame) is None


@pytest.mark.parametrize(("count", "given"), [(1, 2), (2, 4), (3, 6), (9, 6)])
def test_the_count_is_per_kind_and_capped_by_what_is_written(count: int, given: int) -> None:
    frame = pair_prompts(pairs_of((0, 1)), TEMPLATES, store_of((0, 1)), "store", count)
    assert frame.height == given
    assert frame.group_by("kind").len()["len"].to_list() == [given // 2] * 2


def test_templates_name_both_classes() -> None:
    frame = pair_prompts(pairs_of((0, 1)), TEMPLATES, store_of((0, 1)), "template", 2)
    assert told(frame)[0] == (
        "grey_cat",
        "red_fox",
        "commonality",
        0,
        "a photo of a grey cat, a type of animal that could be taken for red fox",
        "template",
    )
    assert set(frame["source"]) == {"template"}
    assert frame["prompt"].n_unique() == frame.height == 4
    for prompt in frame["prompt"]:
        assert "grey cat" in prompt
        assert "red fox" in prompt
        assert "_" not in prompt
    assert schema_problem(PROMPTS, frame) is None


def test_the_mixed_provider_fills_gaps_and_says_so() -> None:
    frame = pair_prompts(
        pairs_of((0, 1), (0, 2)), TEMPLATES, store_of((1, 0)), "store_or_template", 1
    )
    by_pair = frame.group_by("paired_class", maintain_order=True).agg(pl.col("source").unique())
    assert by_pair.rows() == [("red_fox", ["a friend"]), ("sand_cat", ["template"])]


def test_without_a_store_the_mixed_provider_is_the_template() -> None:
    pairs = pairs_of((0, 1), (1, 2))
    assert pair_prompts(pairs, TEMPLATES, None, "store_or_template", 2).equals(
        pair_prompts(pairs, TEMPLATES, None, "template", 2)
    )


@pytest.mark.parametrize("store", [None, store_of((0, 1))])
def test_the_store_alone_must_hold_every_pair(store: PromptStore | None) -> None:
    with pytest.raises(CaptError, match="no stored prompts for") as caught:
        pair_prompts(pairs_of((0, 1), (0, 2), (2, 1)), TEMPLATES, store, "store", 2)
    message = str(caught.value)
    assert "grey_cat/sand_cat" in message
    assert "sand_cat/red_fox" in message
    assert f"for {2 if store else 3} pairs" in message
    assert ("grey_cat/red_fox" in message) == (store is None)
    assert "generate_prompts.provider=store_or_template" in message
    assert "\n" not in message


def test_no_pairs_give_no_prompts() -> None:
    frame = pair_prompts(pairs_of((0, 1)).clear(), TEMPLATES, None, "store", 2)
    assert frame.is_empty()
    assert schema_problem(PROMPTS, frame) is None


@pytest.mark.parametrize("spec", DATASETS.values(), ids=lambda spec: str(spec.name))
def test_templates_of_every_data_set_make_distinct_prompts(spec: Any) -> None:
    prompts = [
        prompt
        for kind in ("commonality", "difference")
        for prompt in template_prompts(kind, spec.template, "A_{braced}_one", "the_other")
    ]
    assert len(set(prompts)) == len(prompts) == 4
    for prompt in prompts:
        assert "A {braced} one" in prompt
        assert "the other" in prompt
        assert "." not in prompt  # no sentence ends before the other class is named
