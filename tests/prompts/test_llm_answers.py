"""The store of answers: one file per question, damage detected, set aside and named."""

from __future__ import annotations

import errno
import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from capt_core.errors import CaptError
from capt_core.prompts.llm.answers import (
    LOCKS,
    AnswerStore,
    Attempt,
    Entry,
    Tokens,
    default_root,
    entry_text,
    read_entry,
)
from capt_core.prompts.llm.questions import Question
from tests.prompts.conftest import rules
from tests.refusals import refusal

QUESTION = Question("reason", "some-model", "v1", "textures", ("banded", "lined"))


def attempt(answer: Any = None, **changes: Any) -> Attempt:
    made = Attempt(
        asked=["Why?"],
        answer={"reason": "both have lines"} if answer is None else answer,
        stop_reason="end_turn",
        model="some-model",
        parameters={"max_tokens": 100},
        tokens=Tokens(input=10, output=5),
        date="2026-01-01T00:00:00+00:00",
        via="live",
    )
    return made.model_copy(update=changes)


def filled(folder: Path) -> tuple[AnswerStore, list[str], Path]:
    warned: list[str] = []
    store = AnswerStore(folder / "answers", warned.append)
    store.add(Entry(QUESTION), attempt())
    return store, warned, store.path(QUESTION)


def test_an_answer_is_read_back(tmp_path: Path) -> None:
    store, warned, path = filled(tmp_path)
    assert store.read(QUESTION) == Entry(QUESTION, (attempt(),))
    assert path.parent.name == "reason"
    assert path.name == f"banded--lined-{QUESTION.key[:16]}.json"
    record = json.loads(path.read_text())
    assert record["question"]["classes"] == ["banded", "lined"]
    assert record["attempts"][0]["answer"] == {"reason": "both have lines"}
    assert warned == []


def test_attempts_follow_each_other(tmp_path: Path) -> None:
    store, _, _ = filled(tmp_path)
    entry = store.add(store.read(QUESTION), attempt({"reason": "more"}))
    assert store.read(QUESTION) == entry
    assert [a.answer["reason"] for a in entry.attempts] == ["both have lines", "more"]
    answer = entry.accepted(rules())
    assert answer is not None
    assert answer.model_dump() == {"reason": "both have lines"}


@pytest.mark.parametrize(
    "change",
    [
        {"step": "prompts"},
        {"model": "other"},
        {"instructions": "v2"},
        {"domain": "flowers"},
        {"classes": ("banded", "dotted")},
        {"prompts": 3},
        {"provider": "other"},
    ],
)
def test_every_field_is_part_of_the_key(tmp_path: Path, change: dict[str, Any]) -> None:
    other = replace(QUESTION, **change)
    assert other.key != QUESTION.key
    store, _, path = filled(tmp_path)
    assert store.path(other) != path
    assert store.read(other).attempts == ()


QUESTIONS = TypeAdapter(Question)
NAMES = st.text(min_size=1, max_size=60)


@given(NAMES, NAMES)
def test_any_class_name_makes_a_plain_file_name(first: str, second: str) -> None:
    question = replace(QUESTION, classes=(first, second))
    name = question.file_name
    assert "/" not in name
    assert name.isascii()
    assert not name.startswith(".")
    assert len(name) < 120
    assert QUESTIONS.validate_json(QUESTIONS.dump_json(question)) == question


@given(st.recursive(st.text() | st.integers() | st.none(), lambda c: st.lists(c), max_leaves=5))
def test_any_answer_survives_the_file(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any-answer.json"
    entry = Entry(QUESTION, (attempt({"value": value}),))
    path.write_text(entry_text(entry), encoding="utf-8")
    assert read_entry(path) == entry


def damaged(text: str) -> dict[str, bytes]:
    record = json.loads(text)
    renamed = {**record, "question": {**record["question"], "classes": ["a", "b"]}}
    odd = {**record["question"], "classes": 3}
    return {
        "empty": b"",
        "half": text.encode()[: len(text) // 2],
        "one byte less": text.encode()[:-3],
        "another word": text.replace("both have", "none has").encode(),
        "another class": json.dumps(renamed).encode(),
        "a merge": b"<<<<<<< ours\n" + text.encode(),
        "no UTF-8": b"\xff\xfe" + text.encode(),
        "other JSON": b"[1, 2]",
        "null": b"null",
        "no attempts": json.dumps({k: record[k] for k in record if k != "attempts"}).encode(),
        "other format": json.dumps({**record, "format": 2}).encode(),
        "deep": b"[" * 100_000,
        "no question": json.dumps({**record, "question": {"step": "reason"}}).encode(),
        "odd classes": json.dumps({**record, "question": odd}).encode(),
    }


@pytest.mark.parametrize("how", damaged(entry_text(Entry(QUESTION, (attempt(),)))))
def test_a_damaged_file_is_set_aside_and_named(tmp_path: Path, how: str) -> None:
    store, warned, path = filled(tmp_path)
    content = damaged(path.read_text())[how]
    path.write_bytes(content)
    assert [entry for _, entry in store.entries() if not isinstance(entry, str)] == []
    assert path.exists()
    assert store.read(QUESTION) == Entry(QUESTION)
    assert not path.exists()
    (kept,) = (store.root / "set-aside").iterdir()
    assert kept.read_bytes() == content
    assert len(warned) == 1
    assert str(path) in warned[0]
    assert str(kept) in warned[0]
    store.add(store.read(QUESTION), attempt())
    assert len(store.read(QUESTION).attempts) == 1


def test_a_file_that_cannot_be_opened_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, warned, path = filled(tmp_path)

    def deny(*_: object) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", deny)
        assert "Too many open files" in refusal(store.read, QUESTION)
        ((_, found),) = store.entries()
        assert found == "cannot be read (Too many open files)"
    assert path.exists()
    assert warned == []
    assert store.read(QUESTION).attempts


def test_locks_that_cannot_be_made_are_a_mistake_of_the_user(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path)
    for shard in range(LOCKS):
        (tmp_path / "locks" / f"{shard:02x}.lock").mkdir(parents=True)
    with pytest.raises(CaptError, match=r"locks/.*\.lock: cannot write"), store.claim(QUESTION):
        pass
    with pytest.raises(CaptError, match=r"locks/00\.lock: cannot write"), store.claim_all():
        pass


def test_a_second_damaged_file_does_not_replace_the_first(tmp_path: Path) -> None:
    store, _, path = filled(tmp_path)
    for content in ("one", "two"):
        path.write_text(content)
        store.read(QUESTION)
    assert {p.read_text() for p in (store.root / "set-aside").iterdir()} == {"one", "two"}


def test_a_file_under_another_name_is_no_answer(tmp_path: Path) -> None:
    store, warned, path = filled(tmp_path)
    other = replace(QUESTION, model="other")
    store.path(other).write_bytes(path.read_bytes())
    assert store.read(other).attempts == ()
    assert "another question" in warned[0]


def test_two_stores_are_merged_by_copying(tmp_path: Path) -> None:
    store, warned, _ = filled(tmp_path)
    other = AnswerStore(tmp_path / "other")
    second = replace(QUESTION, classes=("banded", "dotted"))
    other.add(Entry(second), attempt())
    shutil.copytree(other.root, store.root, dirs_exist_ok=True)
    assert len(list(store.entries())) == 2
    assert len(store.read(second).attempts) == 1
    assert warned == []


def test_a_question_is_claimed_by_one_at_a_time(tmp_path: Path) -> None:
    first, second = AnswerStore(tmp_path), AnswerStore(tmp_path)
    with first.claim(QUESTION) as mine:
        assert mine
        with second.claim(QUESTION) as also:
            assert not also
    with second.claim(QUESTION) as mine:
        assert mine


def test_claiming_all_waits_for_every_claim(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path)
    order: list[str] = []

    def take_all() -> None:
        with AnswerStore(tmp_path).claim_all():
            order.append("all")

    with store.claim(QUESTION):
        thread = threading.Thread(target=take_all)
        thread.start()
        thread.join(0.2)
        order.append("one")
    thread.join()
    assert order == ["one", "all"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with (
        pytest.raises(CaptError, match=r"generate_prompts.answers"),
        AnswerStore(tmp_path / "taken").claim(QUESTION),
    ):
        pass


def test_experiments_of_dvc_use_the_store_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert default_root() == Path("cache/llm")
    monkeypatch.setenv("DVC_ROOT", "/project")
    assert default_root() == Path("/project/cache/llm")
