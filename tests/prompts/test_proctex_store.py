"""The shipped prompt store of proctex: complete, short enough for CLIP, and without repetition."""

from __future__ import annotations

import json
from collections import Counter
from importlib import resources
from itertools import combinations
from typing import Any

import pytest

from capt_core.data.proctex import CLASS_NAMES
from capt_core.torchvision_ops import ensure_torchvision

ensure_torchvision()

from open_clip.tokenizer import SimpleTokenizer  # noqa: E402

MOST_WORDS = 24
MOST_TOKENS = 32  # start and end tokens included
HALF = len(CLASS_NAMES) // 2


@pytest.fixture(scope="module")
def store() -> dict[str, Any]:
    path = resources.files("capt_core.prompts") / "stores" / "proctex.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def words(text: str) -> list[str]:
    """Words without punctuation; ``polka-dotted`` is one word and not the class ``dotted``."""
    return [word.strip(".,:;") for word in text.split()]


def prompts(store: dict[str, Any]) -> list[str]:
    return [
        prompt
        for pair in store["pairs"]
        for group in (pair["commonality"], *pair["difference"].values())
        for prompt in group
    ]


def test_form(store: dict[str, Any]) -> None:
    assert set(store) == {"schema_version", "dataset", "domain", "source", "classes", "pairs"}
    assert (store["schema_version"], store["dataset"]) == (1, "proctex")
    for pair in store["pairs"]:
        assert set(pair) == {"classes", "reason", "commonality", "difference"}
        assert set(pair["difference"]) == set(pair["classes"])
        assert len(pair["commonality"]) == 2, pair["classes"]
        assert all(len(texts) == 2 for texts in pair["difference"].values()), pair["classes"]


def test_every_class_has_its_attributes(store: dict[str, Any]) -> None:
    assert tuple(store["classes"]) == CLASS_NAMES
    phrases = [phrase for entry in store["classes"].values() for phrase in entry["attributes"]]
    assert all(5 <= len(entry["attributes"]) <= 6 for entry in store["classes"].values())
    assert len(set(phrases)) == len(phrases)


def test_every_pair_within_a_half_is_written_once_in_label_order(store: dict[str, Any]) -> None:
    written = [tuple(pair["classes"]) for pair in store["pairs"]]
    assert written == [
        *combinations(CLASS_NAMES[:HALF], 2),
        *combinations(CLASS_NAMES[HALF:], 2),
    ]


def test_prompts_name_their_own_classes_and_no_third_one(store: dict[str, Any]) -> None:
    for pair in store["pairs"]:
        both = set(pair["classes"])
        for prompt in pair["commonality"]:
            assert set(words(prompt)) & set(CLASS_NAMES) == both, prompt
        for name, texts in pair["difference"].items():
            for prompt in texts:
                named = set(words(prompt)) & set(CLASS_NAMES)
                assert name in named, prompt
                assert named <= both, prompt


def test_prompts_are_short_and_plain(store: dict[str, Any]) -> None:
    tokenizer = SimpleTokenizer()
    for prompt in prompts(store):
        assert len(words(prompt)) <= MOST_WORDS, prompt
        assert len(tokenizer.encode(prompt)) + 2 <= MOST_TOKENS, prompt
        assert prompt == prompt.lower().strip(), prompt
        assert not prompt.endswith("."), prompt


def test_reasons_are_single_sentences(store: dict[str, Any]) -> None:
    reasons = [pair["reason"] for pair in store["pairs"]]
    assert all(reason[0].isupper() and reason.find(".") == len(reason) - 1 for reason in reasons)
    assert len(set(reasons)) == len(reasons)


def test_no_prompt_repeats_another_even_with_other_class_names(store: dict[str, Any]) -> None:
    shapes = Counter(
        " ".join("*" if word in CLASS_NAMES else word for word in words(prompt))
        for prompt in prompts(store)
    )
    assert [shape for shape, count in shapes.items() if count > 1] == []
