"""Names: one normal form, how they are spoken, and which say nothing."""

from __future__ import annotations

import pytest

from capt_core.text import clean_name, name_key, normal, spoken, tells_nothing


def test_equal_names_are_equal_strings() -> None:
    assert normal("Ka\u0308fer") == normal("K\u00e4fer") == "K\u00e4fer"
    assert clean_name(" \u00a0Ka\u0308fer\u200b\ufeff\t") == "K\u00e4fer"
    assert clean_name(" \u200b ") == ""
    assert name_key("Hex_Bolt") == name_key(" hex  bolt") == name_key("001.HEX bolt")
    assert name_key("C++") != name_key("C#")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("001.Black_footed_Albatross", "Black footed Albatross"),
        ("n02085620-Chihuahua", "Chihuahua"),
        ("12. cat", "cat"),
        ("3.5mm_jack", "3.5mm jack"),
        ("1.0", "1.0"),
        ("747 jet", "747 jet"),
        ("n02085620", "n02085620"),
        ("2012 Audi A5", "2012 Audi A5"),
        ("Boeing 747-100", "Boeing 747-100"),
    ],
)
def test_numbering_is_not_spoken(name: str, words: str) -> None:
    assert spoken(name) == words


NUMBERS = ["0", "-1", "10.0", "1e3", "007", "[0]", "[0, 1]", "nan", "None", "NULL", "n01440764"]
NUMBERS += ["class_3", "c7", "3f2a9bc81d", "\u0663", "123e4567-e89b-12d3-a456-426614174000"]


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_and_ids_tell_nothing(name: str) -> None:
    assert tells_nothing(name)


@pytest.mark.parametrize(
    "name",
    ["cat", "747 jet", "A300B4", "hex_m8", "001.Cat", "defaced", "facade", "Nancy", "7-up", "z4"],
)
def test_words_tell_something(name: str) -> None:
    assert not tells_nothing(name)
