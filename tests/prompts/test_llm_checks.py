"""Which answers can be used; instruction texts and their version; money."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from capt_core.prompts.llm.answers import Tokens
from capt_core.prompts.llm.asking import ConfusedPair
from capt_core.prompts.llm.checks import judge, parse_text
from capt_core.prompts.llm.costs import Spending, price_of
from capt_core.prompts.llm.failures import asked_delay
from capt_core.prompts.llm.instructions import STEPS, load_instructions
from capt_core.prompts.llm.questions import Question, medium_words
from capt_core.prompts.llm.reasoning import confused_pairs
from tests.prompts.conftest import rules
from tests.refusals import refusal

PROMPTS = Question("prompts", "m", "v", "textures", ("dotted", "polka-dotted"), 1)
GOOD: dict[str, Any] = {
    "commonality": ["a texture of dotted or polka-dotted ground with round marks"],
    "difference": [
        {"class_name": "Dotted", "prompts": ["a dotted texture of tiny specks"]},
        {"class_name": "polka dotted", "prompts": ["a polka-dotted texture of big spots"]},
    ],
}


def problems(question: Question, answer: Any, stop: str = "end_turn", limit: int = 77) -> str:
    verdict = judge(question, answer, stop, rules(limit))
    return "; ".join(verdict) if isinstance(verdict, list) else ""


def changed(*path: Any, value: Any) -> dict[str, Any]:
    document = copy.deepcopy(GOOD)
    node: Any = document
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return document


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        # "polka-dotted" does not name the class "dotted".
        (
            changed("difference", 0, "prompts", value=["a polka-dotted texture of specks"]),
            'does not name "dotted"',
        ),
        (changed("commonality", value=["dotted texture"]), 'does not name "polka-dotted"'),
        (changed("commonality", value=[]), "0 prompts in commonality; 1 are needed"),
        (changed("commonality", value=[" "]), "a prompt is empty"),
        (changed("commonality", 0, value="dotted, polka-dotted\n texture"), "line breaks"),
        (changed("commonality", 0, value="dotted, polka-dotted \x1b[2J texture"), "control char"),
        (changed("commonality", 0, value="dotted and polka-dotted"), "what kind of image"),
        (changed("difference", 0, "class_name", value="banded"), "one entry each"),
        (changed("difference", 1, "class_name", value="dotted"), "one entry each"),
        (
            changed("difference", value=[*GOOD["difference"], GOOD["difference"][0]]),
            "one entry each",
        ),
        (
            changed("difference", 1, "prompts", value=["a polka-dotted texture of tiny specks"]),
            "says the same of both classes",
        ),
        (
            changed("difference", 0, "prompts", value=["a dotted texture"] * 2),
            "occurs twice",
        ),
        (changed("commonality", value="text"), "another form: commonality"),
        (changed("commonality", value=[1]), "another form: commonality.0"),
        (changed("more", value=1), "another form: more"),
        ({}, "another form"),
        ([], "another form"),
        ("no JSON", "no JSON"),
    ],
)
def test_what_is_wrong_is_said(answer: Any, words: str) -> None:
    assert words in problems(PROMPTS, answer)


def test_length_is_counted_in_tokens_with_start_and_end() -> None:
    # The longest prompt has 10 words.
    assert problems(PROMPTS, GOOD, limit=12) == ""
    assert "has 12 tokens, more than 11" in problems(PROMPTS, GOOD, limit=11)


@pytest.mark.parametrize("stop", ["max_tokens", "refusal", "pause_turn", None])
def test_an_answer_that_was_not_finished_is_not_used(stop: Any) -> None:
    assert problems(PROMPTS, GOOD, stop)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"class_name": "lined", "attributes": ["a", "b", "c"]}, 'asked was "dotted"'),
        ({"class_name": "dotted", "attributes": ["a", "b"]}, "2 attributes"),
        ({"class_name": "dotted", "attributes": [str(i) for i in range(13)]}, "13 attributes"),
        ({"class_name": "dotted", "attributes": ["a", "b", " "]}, "empty"),
        ({"class_name": "dotted", "attributes": ["a", "b", "c" * 200]}, "longer than"),
        ({"class_name": "dotted", "attributes": ["a", "b", "A."]}, "twice"),
        ({"class_name": "dotted", "attributes": ["a", "b", "c\x1b[2J"]}, "control characters"),
        ({"class_name": "dotted", "attributes": ["a", "b", "c"]}, ""),
    ],
)
def test_attributes(answer: Any, words: str) -> None:
    found = problems(Question("attributes", "m", "v", "d", ("dotted",)), answer)
    assert words in found
    assert bool(words) == bool(found)


def test_reasons() -> None:
    question = Question("reason", "m", "v", "d", ("a", "b"))
    for text, good in (("Both have dots.", True), ("", False), ("x" * 1000, False)):
        assert (problems(question, {"reason": text}) == "") == good
    assert "control characters" in problems(question, {"reason": "Both\x1b[2J."})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ("[1]", [1]),
        ("3", "3"),
        ("Sure! {}", "Sure! {}"),
        ("", ""),
        ("[" * 50_000, "[" * 50_000),
    ],
)
def test_text_is_parsed_where_it_is_json(text: str, value: Any) -> None:
    assert parse_text(text) == value


@pytest.mark.parametrize(
    ("template", "domain", "words"),
    [
        ("{} texture.", "photographs of textures", ["texture", "photo"]),
        (
            "a photo of a {}, a type of pet.",
            "cat and dog breeds",
            ["photo", "pet", "cat", "dog", "breed"],
        ),
        ("a photo of {}, a type of food.", "dishes", ["photo", "food", "dish"]),
        ("a centered satellite photo of {}.", "satellite images", ["satellite", "photo", "image"]),
    ],
)
def test_medium_words(template: str, domain: str, words: list[str]) -> None:
    assert medium_words(template, domain) == words


def test_counts_of_both_directions_belong_to_one_pair() -> None:
    rows = [("lined", "banded", 4), ("banded", "lined", 1), ("banded", "dotted", 0)]
    assert confused_pairs(rows) == [
        ConfusedPair(("banded", "dotted"), (0, 0)),
        ConfusedPair(("banded", "lined"), (1, 4)),
    ]


def test_own_instructions_replace_the_packaged_ones(tmp_path: Path) -> None:
    packaged = load_instructions()
    text = "Why, for $class_a and $class_b?  \r\nSay.\n"
    (tmp_path / "reason.md").write_text(text, "utf-8-sig")
    own = load_instructions(tmp_path)
    assert own.fill("reason", {"class_a": "x", "class_b": "y"}) == "Why, for x and y?\nSay."
    assert own.system == packaged.system
    # Later steps build on the reason; the attributes do not.
    assert [own.version(step) == packaged.version(step) for step in STEPS] == [True, False, False]
    assert load_instructions(tmp_path).version("prompts") == own.version("prompts")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("prompts.md", "Write $cuont prompts", "unknown placeholder $cuont; known: "),
        ("system.md", "for $$5 or $ 5", "a $ that begins no placeholder"),
        ("attributes.md", " \n", "empty"),
        ("other.md", "x", "holds none of"),
        ("reason.md", "\xe9", "reason.md: not UTF-8 text"),
    ],
)
def test_unusable_instructions_are_refused(
    tmp_path: Path, name: str, text: str, words: str
) -> None:
    (tmp_path / name).write_text(text, "latin-1")
    assert words in refusal(load_instructions, tmp_path)


def test_money_by_hand() -> None:
    price = price_of("claude-opus-5-20260724")
    assert price is not None
    tokens = Tokens(input=1_000_000, output=100_000, cache_read=2_000_000, cache_write=400_000)
    # 5 + 25 * 0.1 + 5 * 0.1 * 2 + 5 * 1.25 * 0.4
    assert price.of(tokens, batch=False) == pytest.approx(5 + 2.5 + 1 + 2.5)
    assert price.of(tokens, batch=True) == pytest.approx(5.5)
    spending = Spending(price)
    spending.add(tokens, batch=False)
    spending.add(tokens, batch=True)
    assert spending.text() == "$16.50"
    assert spending.calls == 2


def test_a_model_without_a_known_price_is_told_in_tokens() -> None:
    spending = Spending(price_of("unheard-of"))
    spending.add(Tokens(input=1000, output=200), batch=False)
    assert spending.text() == "1,200 tokens"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "3", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_asked_delay(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_delay(headers) == seconds
