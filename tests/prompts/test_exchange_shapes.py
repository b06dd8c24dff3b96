"""Attribute trees and files of pairs: what is taken, what is reported, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from capt_core.prompts.exchange import Findings, imported_store
from capt_core.prompts.exchange_shapes import read_attribute_trees, read_names, read_pairs
from capt_core.prompts.generation import Written
from capt_core.prompts.store import PromptStore, store_text
from tests.prompts.conftest import rules
from tests.refusals import refusal

NAMES = ["banded", "lined", "polka-dotted"]
TREE: dict[str, Any] = {
    "banded": {"size": ["banded, broad"], "edges": ["banded, hard"]},
    "Lined": {"size": ["thin"], "edges": ["lined, sharp", "lined, clear"]},
    "polka dotted": {"size": ["polka dotted, large"], "edges": ["polka dotted, round"]},
}


def entry(first: object, second: object) -> dict[str, Any]:
    return {"attr_type": "size", "prompt_pair": [first, second]}


PAIRS: dict[str, Any] = {
    "0_1": {"classes": [0, 1], "prompt_pairs": [entry("broad.", "thin."), entry("few.", "many.")]},
    "2_1": {"classes": [2, 1], "prompt_pairs": [entry("round.", "straight.")]},
}


def write(folder: Path, content: Any) -> Path:
    path = folder / "file.json"
    path.write_text(json.dumps(content))
    return path


def told(found: Findings, severity: str) -> str:
    return "; ".join(each.text for each in found.findings if each.severity == severity)


def test_a_tree_is_taken(tmp_path: Path) -> None:
    found = read_attribute_trees(write(tmp_path, TREE), NAMES, rules(12))
    assert found.findings == []
    assert list(found.trees) == NAMES
    path = tmp_path / "file.json"
    store = imported_store("dtd", "textures", [path], {}, NAMES, found.trees)
    assert store.source == "imported from file.json"
    assert PromptStore.model_validate_json(store_text(store)) == store
    lined = Written(store).by_attribute("lined", "a photo of a {}.")
    assert [(each.attribute, each.text) for each in lined] == [
        ("size", "a photo of a lined, thin."),
        ("edges", "lined, sharp"),
        ("edges", "lined, clear"),
    ]


@pytest.mark.parametrize(
    ("change", "severity", "words", "left"),
    [
        ({"banded": {}}, "problem", "banded: no attribute", []),
        ({"banded": ["broad"]}, "problem", "--cupl reads such lists", None),
        ({"banded": None}, "problem", "banded: expected attribute -> list", None),
        (
            {"banded": {"size": "broad", "edges": ["hard"]}},
            "problem",
            "banded, size: expected a list",
            ["edges"],
        ),
        ({"banded": {"size": [], "edges": ["hard"]}}, "problem", "size: 1 classes lack", ["edges"]),
        ({"banded": {"size": ["w " * 20]}}, "problem", "banded, size: 1 sentences have more", []),
        ({"banded": {" ": ["a"], "size": ["b"]}}, "problem", "names no attribute", ["size"]),
        ({"Banded": {"size": ["b"]}}, "problem", "banded has several keys", ["size", "edges"]),
        ({"weird": {"size": ["b"]}}, "note", "1 classes are not in", ["size", "edges"]),
    ],
)
def test_what_is_wrong_with_a_tree(
    tmp_path: Path, change: dict[str, Any], severity: str, words: str, left: list[str] | None
) -> None:
    found = read_attribute_trees(write(tmp_path, TREE | change), NAMES, rules(12))
    assert words in told(found, severity)
    tree = found.trees.get("banded")
    assert (None if tree is None else list(tree)) == left
    assert found.trees["lined"]["edges"] == ["lined, sharp", "lined, clear"]


def test_missing_classes_of_a_tree(tmp_path: Path) -> None:
    found = read_attribute_trees(write(tmp_path, {"lined": TREE["Lined"]}), NAMES, rules(12))
    assert "2 classes are missing: banded, polka-dotted" in told(found, "problem")
    message = refusal(read_attribute_trees, write(tmp_path, []), NAMES, rules(12))
    assert "expected an object of class -> attribute -> list of sentences" in message


def test_pairs_are_taken(tmp_path: Path) -> None:
    found = read_pairs(write(tmp_path, PAIRS), NAMES, rules(12))
    assert told(found, "problem") == ""
    assert "1 of 3 pairs are not in it: banded/polka-dotted" in told(found, "note")
    store = imported_store(
        "dtd", "textures", [tmp_path / "file.json"], {}, NAMES, None, found.pairs
    )
    written = Written(store)
    assert written.differences("banded") == {"lined": ["broad.", "few."]}
    assert written.differences("lined") == {
        "banded": ["thin.", "many."],
        "polka-dotted": ["straight."],
    }
    assert not written.describes("banded", "lined")  # nothing is said of both
    other = read_pairs(write(tmp_path, PAIRS), NAMES, rules(12), ["lined", "Polka_dotted", "x"])
    assert [pair.difference for pair in other.pairs] == [
        {"lined": ["broad.", "few."], "polka-dotted": ["thin.", "many."]}
    ]
    assert "1 classes are not in the data set: x" in told(other, "note")


@pytest.mark.parametrize(
    ("change", "words", "left"),
    [
        ({"0_1": [0, 1]}, "0_1: expected classes and prompt_pairs", 1),
        ({"0_1": {"classes": [0], "prompt_pairs": []}}, "expected classes", 1),
        ({"0_1": PAIRS["0_1"] | {"classes": [0, 3]}}, "classes [0, 3], there are 3", 1),
        ({"0_1": PAIRS["0_1"] | {"classes": [True, 1]}}, "classes [True, 1]", 1),
        ({"0_1": PAIRS["0_1"] | {"classes": [1, "lined"]}}, "lined against itself", 1),
        ({"0_1": {"classes": [0, 1], "prompt_pairs": []}}, "0_1, banded: the list is empty", 1),
        (
            {"0_1": {"classes": [0, 1], "prompt_pairs": [entry("a.", 3), entry("b.", "c.")]}},
            "0_1, lined: 1 entries are empty",
            2,
        ),
        (
            {"0_1": {"classes": [0, 1], "prompt_pairs": ["a.", entry("b.", "c.")]}},
            "1 entries have no prompt_pair",
            2,
        ),
    ],
)
def test_what_is_wrong_with_pairs(
    tmp_path: Path, change: dict[str, Any], words: str, left: int
) -> None:
    found = read_pairs(write(tmp_path, PAIRS | change), NAMES, rules(12))
    assert words in told(found, "problem")
    assert len(found.pairs) == left


def test_a_pair_that_stands_twice_is_joined(tmp_path: Path) -> None:
    again = {"classes": ["Lined", "banded"], "prompt_pairs": [entry("narrow.", "wide.")]}
    found = read_pairs(write(tmp_path, PAIRS | {"more": again}), NAMES, rules(12))
    (first, _) = found.pairs
    assert first.difference["banded"] == ["broad.", "few.", "wide."]


def test_pairs_of_other_data_sets_are_refused(tmp_path: Path) -> None:
    found = read_pairs(write(tmp_path, PAIRS), NAMES, rules(12), ["a", "b", "c"])
    assert "no pair of its classes is in the data set" in told(found, "problem")
    for content in ([], [1], {"a": "b"}, None):
        assert "expected a list of class names" in refusal(read_names, write(tmp_path, content))
    assert read_names(write(tmp_path, NAMES)) == NAMES


def test_attributes_of_the_same_words_are_one(tmp_path: Path) -> None:
    names = {"Size": ["thin"], "size ": ["narrow", "thin"], "edges\x1b[31m": ["sharp"]}
    found = read_attribute_trees(write(tmp_path, {**TREE, "Lined": names}), NAMES, rules())
    assert found.trees["lined"]["size"] == ["thin", "narrow"]
    assert "the attribute has several keys; their sentences are joined" in told(found, "note")
    assert all(name.isprintable() for tree in found.trees.values() for name in tree)
    store = imported_store("dtd", "textures", [tmp_path / "file.json"], {}, NAMES, found.trees)
    assert PromptStore.model_validate_json(store_text(store)) == store


def test_names_of_attributes_hold_a_word(tmp_path: Path) -> None:
    for name in ("", " ", "\u200b", "--"):
        tree = {**TREE, "Lined": {**TREE["Lined"], name: ["thin"]}}
        found = read_attribute_trees(write(tmp_path, tree), NAMES, rules())
        assert "names no attribute" in told(found, "problem")
        assert list(found.trees["lined"]) == ["size", "edges"]


def test_sentences_about_another_class_are_noted(tmp_path: Path) -> None:
    tree = {**TREE, "banded": {"size": ["lined, broad"], "edges": ["unlike lined, banded is hard"]}}
    found = read_attribute_trees(write(tmp_path, tree), NAMES, rules())
    assert told(found, "problem") == ""
    assert "1 sentences name another class and not their own" in told(found, "note")


def test_a_pair_told_apart_by_the_same_words_is_left_out(tmp_path: Path) -> None:
    pairs = {"x": {"classes": [0, 1], "prompt_pairs": [entry("broad.", "broad.")]}}
    found = read_pairs(write(tmp_path, {**PAIRS, **pairs}), NAMES, rules())
    assert "x: 1 entries say the same of both classes" in told(found, "problem")
    assert len(found.pairs) == 2
