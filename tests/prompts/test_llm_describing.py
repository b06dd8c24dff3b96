"""Descriptions of single classes: asked once, checked, kept, and in the methods' shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from capt_core.errors import CaptError
from capt_core.params import GeneratePrompts
from capt_core.prompts.generation import class_descriptions
from capt_core.prompts.llm.answers import AnswerStore
from capt_core.prompts.llm.asking import Task
from capt_core.prompts.llm.checks import Rules, judge
from capt_core.prompts.llm.describing import Describing
from capt_core.prompts.llm.instructions import load_instructions
from capt_core.prompts.llm.questions import Question
from capt_core.prompts.llm.writing import estimate_descriptions, write_descriptions
from capt_core.prompts.shapes import attribute_tree, class_phrases
from tests.prompts.conftest import NAMES, quiet
from tests.prompts.llm_server import KEY, LlmServer, message
from tests.refusals import refusal

ATTRIBUTES = ("colour", "shape")
TEMPLATES = dict.fromkeys((*NAMES, "ear", "swimming pool"), "a photo of a {} texture.")


def describing(folder: Path, limit: int = 77, **settings: Any) -> Describing:
    chosen = {"provider": "anthropic", "retries": 0, "timeout": 1.0, "sentences": 2}
    return Describing(
        dataset="dtd",
        domain="photographs of textures",
        templates=TEMPLATES,
        words=40,
        settings=GeneratePrompts.model_validate({**chosen, **settings}),
        instructions=load_instructions(),
        rules=Rules(lambda text: len(text.split()) + 2, limit, ("texture",), TEMPLATES),
        answers=AnswerStore(folder),
        attributes=ATTRIBUTES,
    )


def write(folder: Path, **settings: Any) -> int:
    return write_descriptions(
        describing(folder, **settings), NAMES, KEY, quiet, lambda _: None
    ).calls


@pytest.mark.parametrize("provider", ["anthropic", "anthropic-batch"])
def test_every_class_is_asked_once_by_its_name(
    server: LlmServer, tmp_path: Path, provider: str
) -> None:
    assert write(tmp_path, provider=provider) == 3
    assert write(tmp_path, provider=provider) == 0
    assert write(tmp_path) == 0  # another way to the same service
    store = describing(tmp_path).written(TEMPLATES)
    assert set(store.class_prompts) == set(NAMES)
    for prompts in store.class_prompts.values():
        assert {name: len(texts) for name, texts in prompts.by_attribute.items()} == {
            "colour": 2,
            "shape": 2,
        }
    # Other attributes or counts are other questions.
    assert describing(tmp_path, sentences=3).missing(NAMES) == list(NAMES)


def test_answers_serve_in_each_method_s_shape(server: LlmServer, tmp_path: Path) -> None:
    write(tmp_path)
    classes = pl.DataFrame({"class_name": NAMES, "template": ["a photo of a {} texture."] * 3})
    table = class_descriptions(
        classes.with_row_index("class_id"), [describing(tmp_path).written(NAMES)]
    )
    assert attribute_tree(table)["polka-dotted"]["shape"] == [
        "polka-dotted, shape number 0",
        "polka-dotted, shape number 1",
    ]
    assert class_phrases(table)["lined"][:2] == ["colour number 0", "colour number 1"]
    assert "a photo of a lined texture, colour number 0." in table["description"].to_list()


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("lacks", 'the attribute "shape" stands there 0 times; give it once'),
        ("wrong-class", 'class_name is "something else", asked was "banded"'),
        ("few", '1 phrases of "colour"; 2 are needed'),
        ("twice", '"shape number 0" occurs twice'),
        ("long", "tokens behind the class, more than 77; shorten it"),
    ],
)
def test_an_answer_with_a_fault_is_asked_again(
    server: LlmServer, tmp_path: Path, fault: str, told: str
) -> None:
    server.faults = [fault]
    assert write(tmp_path, concurrency=1) == 4
    messages = server.asked[1]["messages"]
    assert [each["role"] for each in messages] == ["user", "assistant", "user"]
    assert told in messages[2]["content"]
    assert describing(tmp_path).missing(NAMES) == []


def test_attempts_end_and_are_named(server: LlmServer, tmp_path: Path) -> None:
    server.faults = ["lacks"] * 2
    found = refusal(write, tmp_path, concurrency=1, attempts=2)
    assert "1 questions have no usable answer, first descriptions of banded" in found
    assert "generate_prompts.attempts (2)" in found
    assert len(server.asked) == 4
    assert set(describing(tmp_path).written(NAMES).class_prompts) == set(NAMES[1:])


def judged(folder: Path, name: str, phrases: list[str]) -> list[str]:
    question = describing(folder, sentences=len(phrases) // 2).question(name)
    half = len(phrases) // 2
    answer = {
        "class_name": name,
        "attributes": [
            {"attribute": "Shape", "phrases": phrases[half:]},
            {"attribute": "colour ", "phrases": phrases[:half]},
            {"attribute": "not asked for", "phrases": []},
        ],
    }
    found = judge(question, answer, "end_turn", describing(folder).rules)
    return found if isinstance(found, list) else []


def test_rivals_are_told_from_words(tmp_path: Path) -> None:
    assert judged(tmp_path, "banded", ["an ear", "fine lined edges", "grey", "broad"]) == []
    (several,) = judged(tmp_path, "banded", ["near a swimming pool", "a", "b", "c"])
    assert several == '"near a swimming pool" names "swimming pool", another class'
    (most,) = judged(tmp_path, "banded", ["lined red", "thin lined", "lined", "broad"])
    assert most == '3 of 4 phrases speak of "lined"'
    assert judged(tmp_path, "lined", ["lined red", "thin lined", "lined", "broad"]) == []
    assert "line breaks" in judged(tmp_path, "banded", ["a\nb", "\x1b[31mred", "c", "d"])[0]
    assert "a phrase is empty" in judged(tmp_path, "banded", ["", "!", "c", "d"])


def test_what_asking_takes_is_told(server: LlmServer, tmp_path: Path) -> None:
    first, last = estimate_descriptions(describing(tmp_path), NAMES, None)
    assert first.startswith("descriptions: 3 calls, ")
    assert last.startswith("in all 3 calls")
    write(tmp_path)
    assert "0 calls" in "".join(estimate_descriptions(describing(tmp_path), NAMES, None))


def test_a_name_without_room_is_refused_before_it_is_paid_for(
    server: LlmServer, tmp_path: Path
) -> None:
    with pytest.raises(CaptError, match=r"class .banded.: its name leaves no room"):
        write_descriptions(describing(tmp_path, limit=9), NAMES, KEY, quiet, lambda _: None)
    assert server.asked == []


def test_keys_of_earlier_questions_stay() -> None:
    fields = ("m", "0" * 16, "d", ("a",))
    assert Question("attributes", *fields).key.startswith("25050c017513")


def test_an_answer_s_file_reads_back_as_it_was(server: LlmServer, tmp_path: Path) -> None:
    write(tmp_path)
    own = describing(tmp_path)
    entries = [entry for _, entry in own.answers.entries()]
    assert {entry.question for entry in entries if not isinstance(entry, str)} == {
        own.question(name) for name in NAMES
    }
    text = json.loads(next((tmp_path / "descriptions").glob("banded-*")).read_text("utf-8"))
    assert text["question"]["attributes"] == list(ATTRIBUTES)
    request, _ = own.next_request(Task(own.question("ear")), own.answers.read(own.question("ear")))
    assert message(dict(request))["stop_reason"] == "end_turn"
