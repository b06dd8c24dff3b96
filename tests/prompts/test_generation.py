"""Prompts of class pairs: which provider gives them, how many, and what they say."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from capt_core.artifacts.schemas import CLASS_DESCRIPTIONS, PROMPTS
from capt_core.artifacts.tables import schema_problem
from capt_core.data.registry import DATASETS
from capt_core.prompts.generation import (
    Written,
    class_descriptions,
    pair_prompts,
    template_prompts,
)
from capt_core.prompts.store import ClassEntry, ClassPrompts, PromptStore
from tests.refusals import refusal

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
    frame = pair_prompts(pairs_of((0, 2), (2, 0)), TEMPLATES, [store_of((0, 2))], 2, fill=False)
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
    frame = pair_prompts(pairs_of((0, 1)), TEMPLATES, [store_of((0, 1))], count, fill=False)
    assert frame.height == given
    assert frame.group_by("kind").len()["len"].to_list() == [given // 2] * 2


def test_templates_name_both_classes() -> None:
    frame = pair_prompts(pairs_of((0, 1)), TEMPLATES, [], 2, fill=True)
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
    frame = pair_prompts(pairs_of((0, 1), (0, 2)), TEMPLATES, [store_of((1, 0))], 1, fill=True)
    by_pair = frame.group_by("paired_class", maintain_order=True).agg(pl.col("source").unique())
    assert by_pair.rows() == [("red_fox", ["a friend"]), ("sand_cat", ["template"])]


@pytest.mark.parametrize("store", [None, store_of((0, 1))])
def test_without_templates_every_pair_must_be_written(store: PromptStore | None) -> None:
    pairs = pairs_of((0, 1), (0, 2), (2, 0), (2, 1))
    message = refusal(pair_prompts, pairs, TEMPLATES, [store] if store else [], 2, fill=False)
    assert "no prompts are written for" in message
    assert "grey_cat/sand_cat" in message
    assert "sand_cat/red_fox" in message
    assert f"for {2 if store else 3} pairs" in message
    assert ("grey_cat/red_fox" in message) == (store is None)
    for way in ("ANTHROPIC_API_KEY", "generate_prompts.store", "provider=store-or-template"):
        assert way in message


def test_an_earlier_store_wins_pair_by_pair() -> None:
    first = store_of((0, 1))
    second = store_of((0, 1), (0, 2)).model_copy(update={"source": "another"})
    frame = pair_prompts(pairs_of((0, 1), (0, 2)), TEMPLATES, [first, second], 1, fill=False)
    assert dict(frame.select("paired_class", "source").unique().iter_rows()) == {
        "red_fox": "a friend",
        "sand_cat": "another",
    }


CLASS_LEVEL = {
    "grey_cat": {
        "commonality": ["a cat or other animal"],
        "difference": [
            "a grey cat, not a red fox",
            "a grey cat is grey",
            "red foxes and sand cats",
        ],
    },
    "red_fox": {"commonality": ["some animal"], "difference": []},
}


def test_prompts_of_a_class_serve_where_no_pair_is_written() -> None:
    store = store_of((1, 2)).model_copy(
        update={"class_prompts": {n: ClassPrompts(**e) for n, e in CLASS_LEVEL.items()}}
    )
    store = store.model_copy(update={"classes": {n: ClassEntry(attributes=["x"]) for n in NAMES}})
    written = Written(store)
    # Those that name the partner, else those that name nobody else.
    assert written.texts("grey_cat", "red_fox", "difference") == ["a grey cat, not a red fox"]
    assert written.texts("grey_cat", "sand_cat", "difference") == ["a grey cat is grey"]
    assert written.texts("red_fox", "grey_cat", "difference") == []
    assert written.texts("red_fox", "sand_cat", "difference") == [
        "1 not 2 0",
        "1 not 2 1",
        "1 not 2 2",
    ]
    assert not written.describes("grey_cat", "red_fox")
    assert written.describes("red_fox", "sand_cat")
    frame = pair_prompts(pairs_of((1, 0)), TEMPLATES, [store], 1, fill=True)
    assert told(frame)[0][4:] == ("some animal", "a friend")
    assert told(frame)[1][5] == "template"


def test_no_pairs_give_no_prompts() -> None:
    frame = pair_prompts(pairs_of((0, 1)).clear(), TEMPLATES, [], 2, fill=False)
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


def described(**changes: Any) -> PromptStore:
    return PromptStore.model_validate(store_of().model_dump() | changes)


def test_descriptions_of_classes() -> None:
    classes = pl.DataFrame(
        {"class_id": [2, 0, 1], "class_name": [NAMES[2], *NAMES[:2]]}
    ).with_columns(template=pl.lit(TEMPLATES[NAMES[0]]))
    attributes = {
        NAMES[0]: {"attributes": ["grey fur", "green eyes."]},
        NAMES[1]: {"attributes": ["a bushy tail"]},
    }
    sentences = {
        NAMES[0]: {"difference": ["unlike a red fox, it purrs"], "commonality": ["it has fur"]},
        NAMES[1]: {"difference": ["A red fox barks.", "its tail is no grey cat's"]},
    }
    first = described(classes=attributes, class_prompts=sentences)
    second = described(classes={name: {"attributes": ["teeth"]} for name in NAMES}, source="b")
    about = {"pairs": store_of((0, 2)).pairs}
    second = second.model_copy(update=about)
    frame = class_descriptions(classes, [first, second])
    assert schema_problem(CLASS_DESCRIPTIONS, frame) is None
    alone = frame.filter(pl.col("paired_class_id").is_null())
    kept = alone.select("class_id", "class_name", "position", "description", "source").rows()
    assert kept == [
        # Its one difference prompt names another class: its attributes serve.
        (0, NAMES[0], 0, "a photo of a grey cat, a type of animal, grey fur.", "a friend"),
        (0, NAMES[0], 1, "a photo of a grey cat, a type of animal, green eyes.", "a friend"),
        # A sentence about the class alone serves as it stands, before attributes.
        (1, NAMES[1], 0, "A red fox barks.", "a friend"),
        # The first store says nothing.
        (2, NAMES[2], 0, "a photo of a sand cat, a type of animal, teeth.", "b"),
    ]
    told = ("class_id", "paired_class_id", "paired_class", "position", "description", "source")
    assert frame.filter(pl.col("paired_class_id").is_not_null()).select(told).rows() == [
        # Numbered behind the sentences about the class alone.
        *((0, 2, NAMES[2], 2 + i, f"0 not 2 {i}", "b") for i in range(3)),
        (2, 0, NAMES[0], 1, "2 not 0 0", "b"),
    ]
    # What the first store says of a pair counts.
    both = class_descriptions(classes, [first.model_copy(update=about), second])
    assert set(both.drop_nulls("paired_class_id")["source"]) == {"a friend"}
    assert schema_problem(CLASS_DESCRIPTIONS, class_descriptions(classes, [])) is None


def test_descriptions_by_attribute() -> None:
    classes = pl.DataFrame({"class_id": [0], "class_name": [NAMES[0]]})
    classes = classes.with_columns(template=pl.lit(TEMPLATES[NAMES[0]]))
    by_attribute = {"size": ["as long as an arm."], "fur": ["The grey cat has short fur.", "soft"]}
    first = described(class_prompts={NAMES[0]: {"by_attribute": by_attribute}})
    second = described(classes={NAMES[0]: {"attributes": ["teeth"]}}, source="b")
    frame = class_descriptions(classes, [first, second])
    assert schema_problem(CLASS_DESCRIPTIONS, frame) is None
    assert frame.select("position", "attribute", "description", "phrase", "source").rows() == [
        (0, None, "a photo of a grey cat, a type of animal, teeth.", "teeth", "b"),
        (
            1,
            "size",
            "a photo of a grey cat, a type of animal, as long as an arm.",
            "as long as an arm",
            "a friend",
        ),
        (2, "fur", "The grey cat has short fur.", None, "a friend"),
        (3, "fur", "a photo of a grey cat, a type of animal, soft.", "soft", "a friend"),
    ]
