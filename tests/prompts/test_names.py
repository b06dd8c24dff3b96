"""Class names in texts: plurals, punctuation, scripts, words of any sentence."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from capt_core.data.names import NameFinder, indistinguishable
from capt_core.data.preparation import Source, prepare_dataset
from capt_core.data.readers import read_split
from capt_core.data.registry import dataset_spec
from capt_core.params import Data
from capt_core.prompts.llm.checks import judge
from capt_core.prompts.llm.questions import Question
from tests.data.own_images import dtd
from tests.prompts.conftest import rules
from tests.refusals import refusal


@pytest.mark.parametrize(
    ("names", "text", "found"),
    [
        (("sunglass", "sunglasses"), "two sunglasses", ["sunglasses"]),
        (("sunglass", "sunglasses"), "a sunglass, no sunglasses", ["sunglass", "sunglasses"]),
        (("bus", "car"), "buses", ["bus"]),
        (("boss", "bosse"), "bosses", []),  # the plural of either
        (("C", "C#", "C++"), "C++ or C#", ["C++", "C#"]),
        (("C", "D"), "C# code", []),
        (("C", "D"), "(C), d's", ["C", "D"]),
        ((".NET", "net"), "a net of .NET", ["net", ".NET"]),
        (("t-shirt", "t shirt"), "t-shirt", ["t-shirt"]),
        (("t-shirt", "tshirt"), "tshirts and t shirts", ["tshirt", "t-shirt"]),
        (("A", "A-"), "A - a letter", ["A"]),
        (("A", "A-"), "A-, A", ["A-", "A"]),
        (("bolt 1-2", "bolt 1⁄2"), "bolt 1⁄2", ["bolt 1⁄2"]),
        (("+", "x"), "C++ by t-shirt", []),
        (("St Bernard", "x"), "St. Bernards", ["St Bernard"]),
        (("cat", "cat fish"), "cat fish", ["cat fish"]),
        (("cat", "cat fish"), "cat - fish", ["cat"]),
        (("a b", "b c"), "a b c", ["a b", "b c"]),
        (("कि", "की"), "की", ["की"]),
        (("猫", "熊猫"), "熊猫和狗", ["熊猫"]),
        (("cafe", "café"), "cafe\u0301", ["café"]),
        (("child’s", "x"), "child's", ["child’s"]),
    ],
)
def test_names_in_texts(names: tuple[str, ...], text: str, found: list[str]) -> None:
    assert NameFinder(names).find(text) == found


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["C", "C#", "C++", ".NET", "net", "A", "A-", "-1", "1", "?", "!", "(", ")"], []),
        (["t-shirt", "t shirt", "tshirt", "glass", "glasses", "the", "a"], []),
        (["cat", "dog", "Cat"], [("cat", "Cat")]),
        (["café", "cafe\u0301", "cafe"], [("café", "cafe\u0301")]),
        (["St.", "St", "(st)"], [("St.", "St"), ("St.", "(st)")]),
        (["a dog", "dog", "or dog"], [("a dog", "dog"), ("a dog", "or dog")]),
        (["child’s", "child's"], [("child’s", "child's")]),
    ],
)
def test_names_that_no_text_can_tell_apart(names: list[str], pairs: list[tuple[str, str]]) -> None:
    assert indistinguishable(names) == pairs


def test_prepare_refuses_names_that_no_text_can_tell_apart(tmp_path: Path) -> None:
    source = read_split(dataset_spec("dtd"), Data(root=str(dtd(tmp_path, ("St", "St.")))))
    message = refusal(prepare_dataset, dataset_spec("dtd"), Source(*source), "decode", False)
    assert "dtd: the classes 'St' and 'St.' cannot be told apart in any text" in message


def faithful(first: str, second: str, form: str) -> dict[str, Any]:
    """An answer that names the classes as its question asks."""

    def difference(name: str, mark: str) -> dict[str, Any]:
        return {"class_name": name, "prompts": [form.format(name) + f" {mark}{i}" for i in (1, 2)]}

    return {
        "commonality": [f"a photo of {first} or {second}, trait {i}" for i in (1, 2)],
        "difference": [difference(first, "broad"), difference(second, "thin")],
    }


def exchanged(answer: dict[str, Any]) -> dict[str, Any]:
    first, second = answer["difference"]
    swapped = [{**first, "prompts": second["prompts"]}, {**second, "prompts": first["prompts"]}]
    return {**answer, "difference": swapped}


WORDS = "cat cats cat-fish bus buses glass glasses C C# c++ .NET NET A-1 1-2 1⁄2"
PIECES = st.sampled_from([*WORDS.split(), "é", "e\u0301", "猫", "熊", "कि", "की", "ß", "İ", "🙂"])
LETTERS = st.characters(codec="utf-8", exclude_categories=("C", "Z"))
NAMES = st.one_of(
    st.sampled_from(["a", "the", "of", "or", "photo"]),
    st.lists(PIECES, min_size=1, max_size=3).map(" ".join),
    st.lists(PIECES, min_size=1, max_size=2).map("".join),
    st.text(st.sampled_from("aAsScC#+-.'’(&/ 12_é"), min_size=1, max_size=4),
    st.text(LETTERS, min_size=1, max_size=4),
).map(lambda name: " ".join(name.replace("_", " ").split()))
FORMS = st.sampled_from(
    ["a photo of {},", "{} in a photo,", "a photo of ({}),", 'a photo of "{}" with', "photo: {};"]
)


@settings(max_examples=300, deadline=None)
@example("sunglass", "sunglasses", "a photo of {},")
@example("C", "C#", "a photo of ({}),")
@example("of", "photo", "a photo of {},")
@example("a", "photo", "a photo of {},")
@given(NAMES, NAMES, FORMS)
def test_a_faithful_answer_is_told_from_an_exchanged_one(
    first: str, second: str, form: str
) -> None:
    assume(first and second and not indistinguishable([first, second]))
    question = Question("prompts", "m", "v", "d", tuple(sorted((first, second))), 2)
    answer = faithful(first, second, form)
    names = (unicodedata.normalize("NFC", name) for name in (first, second))
    composed = faithful(next(names), next(names), form)
    for good in (answer, composed):
        assert not isinstance(judge(question, good, "end_turn", rules()), list)
        assert isinstance(judge(question, exchanged(good), "end_turn", rules()), list)
