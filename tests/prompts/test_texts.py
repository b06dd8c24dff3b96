"""Words, names and patterns of prompts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capt_core.data.names import NameFinder
from capt_core.prompts.texts import duplicates, template_filled, words_of


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a polka-dotted cloth", ["polka-dotted"]),
        ("polka-dotted, not dotted", ["polka-dotted", "dotted"]),
        ("dotted or Polka dotted", ["dotted", "polka-dotted"]),
        ("annual crop lands", ["Annual_Crop_Land"]),
        ("a crop of land", []),
        ("Boeing 737-800 beside two 737-200s", ["737-800", "737-200"]),
        ("grasses", ["grass"]),
        ("dotteds and dottedness", ["dotted"]),
        ("", []),
    ],
)
def test_names_in_texts(text: str, found: list[str]) -> None:
    names = ["dotted", "polka-dotted", "Annual_Crop_Land", "737-800", "737-200", "grass"]
    assert NameFinder(names).find(text) == found


def test_the_shape_of_a_filled_template_is_the_same_for_all_classes() -> None:
    finder = NameFinder(["dotted", "polka-dotted"])
    shapes = {finder.shape(f"A photo of {n}, blurred.") for n in ("dotted", "polka-dotted")}
    assert shapes == {"a photo of <> blurred"}


WORD = st.text(alphabet="abcxyz", min_size=1, max_size=4)


@given(st.lists(WORD, min_size=1, max_size=4, unique=True), st.lists(WORD, max_size=6))
def test_a_name_that_stands_alone_is_always_found(names: list[str], words: list[str]) -> None:
    finder = NameFinder(names)
    others = [word for word in words if not finder.find(word)]
    for name in names:
        assert name in finder.find(" ".join([*others, name]))
    assert finder.find(" ".join(others)) == []


def test_duplicates_ignore_case_and_punctuation() -> None:
    assert duplicates(["a b", "A, b.", "ab", "a b"]) == ["A, b.", "a b"]
    assert words_of("A_b-C, d'e") == ("a", "b", "c", "d", "e")


def test_template_filled_texts_are_recognised() -> None:
    finder = NameFinder(["cat", "dog", "fox"])
    texts = ["a cat here", "a dog here", "a fox here", "a fox with red fur", "no name", "no name"]
    assert template_filled(texts, finder) == {"a <> here": 3}
    assert template_filled(texts[1:], finder) == {}
