"""Files of others: what is taken, what is reported, damaged ones; export and back again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from capt_core.errors import CaptError
from capt_core.prompts.exchange import (
    ClassLists,
    class_lists,
    exported,
    imported_store,
    merged,
    read_class_lists,
)
from capt_core.prompts.generation import Written
from capt_core.prompts.inspection import class_page, store_findings
from capt_core.prompts.store import PromptStore, load_store, shipped_store, store_text
from tests.prompts.conftest import rules
from tests.refusals import refusal

NAMES = ["banded", "lined", "polka-dotted"]
SOUND = {
    "banded": ["banded cloth with broad stripes"],
    "Lined": ["lined paper"],
    "polka dotted": ["polka-dotted dress", "a dress, polka-dotted, with spots"],
}


def write(folder: Path, content: Any, name: str = "prompts.json") -> Path:
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def read(folder: Path, content: Any) -> ClassLists:
    return read_class_lists(write(folder, content), NAMES, rules(12))


def told(lists: ClassLists, severity: str) -> str:
    return "; ".join(found.text for found in lists.findings if found.severity == severity)


def test_keys_are_matched_by_their_words(tmp_path: Path) -> None:
    lists = read(tmp_path, SOUND)
    assert lists.findings == []
    assert list(lists.texts) == NAMES
    assert lists.texts["polka-dotted"] == SOUND["polka dotted"]


@pytest.mark.parametrize(
    ("change", "severity", "words", "left"),
    [
        ({"banded": []}, "problem", "banded: the list is empty", 0),
        ({"banded": ["", " ", "bands"]}, "problem", "banded: 2 entries are empty", 1),
        ({"banded": [3, None, ["a"], "bands"]}, "problem", "banded: 3 entries are empty", 1),
        ({"banded": "bands"}, "problem", "banded: expected a list", 0),
        ({"banded": {"a": 1}}, "problem", "banded: expected a list", 0),
        ({"banded": None}, "problem", "banded: expected a list", 0),
        ({"banded": ["word " * 20, "bands"]}, "problem", "more than 12 tokens", 1),
        ({"banded": ["bands", "Bands."]}, "note", "1 sentences occur twice", 1),
        ({"Banded": ["more"]}, "note", "several keys", 2),
        ({"weird": ["x"]}, "note", "1 classes are not in the data set: weird", 1),
        (
            {"weird": [], "banded": ["banded, not weird", "bands"]},
            "note",
            "1 sentences name such classes",
            1,
        ),
    ],
)
def test_what_is_wrong_is_reported_and_the_rest_kept(
    tmp_path: Path, change: dict[str, Any], severity: str, words: str, left: int
) -> None:
    lists = read(tmp_path, {**SOUND, **change})
    assert words in told(lists, severity)
    assert len(lists.texts.get("banded", [])) == left
    assert lists.texts["lined"] == ["lined paper"]


def test_a_sentence_is_one_line_that_no_terminal_obeys(tmp_path: Path) -> None:
    lists = read(tmp_path, {**SOUND, "banded": [" banded\x1b[2J \n cloth "]})
    assert lists.texts["banded"] == ["banded [2J cloth"]


def test_the_spelling_of_a_key_counts_before_its_words(tmp_path: Path) -> None:
    names = ["C", "C#", "C++", "caf\u00e9", "hex_bolt"]
    content = {"c++": ["a"], "c#": ["b"], "C": ["c"], "cafe\u0301": ["d"], "Hex-Bolt": ["e"]}
    lists = read_class_lists(write(tmp_path, content), names, rules(12))
    assert lists.texts == {
        "C": ["c"],
        "C#": ["b"],
        "C++": ["a"],
        "caf\u00e9": ["d"],
        "hex_bolt": ["e"],
    }
    # A key that three names answer to means none of them.
    lists = read_class_lists(write(tmp_path, {"C+": ["a"], "C": ["c"]}), names, rules(12))
    assert lists.texts == {"C": ["c"]}
    assert "1 classes are not in the data set: C+" in told(lists, "note")


def test_what_is_quoted_is_cut(tmp_path: Path) -> None:
    lists = read(tmp_path, {"k" * 5000: ["x"], "banded": "x" * 5000, "lined": ["bands " * 900]})
    for found in lists.findings:
        assert len(found.text) < 300


def test_missing_classes_are_named(tmp_path: Path) -> None:
    lists = read(tmp_path, {"banded": ["x"]})
    assert "2 classes are missing: lined, polka-dotted" in told(lists, "problem")
    assert "none of its classes" in told(read(tmp_path, {"foo": ["x"]}), "problem")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b'{"banded": ["a"', "not valid JSON"),
        (b"\xff\xfe\x00", "not UTF-8"),
        ("[]", "expected an object"),
        ("{}", "expected an object"),
        ("null", "expected an object"),
        ('{"banded": ["\\ud800"]}', "no characters"),
        ('{"\\udfff": ["a"]}', "no characters"),
        ("[" * 100_000, "nested too deeply"),
        ('{"banded": ["a"], "banded": ["b"]}', "'banded' occurs twice"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: Any, words: str) -> None:
    message = refusal(read, tmp_path, content)
    assert words in message
    assert str(tmp_path / "prompts.json") in message


def test_a_missing_file_and_a_byte_order_mark(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(read_class_lists, tmp_path / "no.json", NAMES, rules())
    marked = b"\xef\xbb\xbf" + json.dumps(SOUND).encode()
    assert list(read(tmp_path, marked).texts) == NAMES


def test_template_filled_files_are_recognised(tmp_path: Path) -> None:
    filled = {name: [f"a photo of a {name}.", f"a bad photo of a {name}."] for name in NAMES}
    lists = read(tmp_path, filled)
    assert "6 of 6 prompts are template-filled, from 2 patterns" in told(lists, "note")
    files = {"difference": tmp_path / "prompts.json"}
    store = imported_store("dtd", "textures", list(files.values()), {"difference": lists}, NAMES)
    assert store.source == "imported from prompts.json, partly template-filled"
    assert str(tmp_path) not in store_text(store)


@pytest.fixture(scope="module")
def store() -> PromptStore:
    path = shipped_store("proctex")
    assert path is not None
    return load_store(path)


def test_an_export_can_be_imported_again(tmp_path: Path, store: PromptStore) -> None:
    names = list(store.classes)
    lists = {}
    files = {}
    for (name, content), kind in zip(
        exported([store], "release", "proctex"), ("commonality", "difference"), strict=True
    ):
        files[kind] = write(tmp_path, content, name)
        lists[kind] = read_class_lists(files[kind], names, rules())
        assert told(lists[kind], "problem") == ""
    again = imported_store("proctex", store.domain, list(files.values()), lists, names)
    written, back = Written(store), Written(again)
    for entry in store.pairs:
        first, second = entry.classes
        # A commonality prompt names its pair; a difference prompt may name its own class alone.
        assert set(back.texts(first, second, "commonality")) == set(entry.commonality)
        texts = set(back.texts(first, second, "difference"))
        assert texts
        if all(second in text for text in entry.difference[first]):
            assert texts >= set(entry.difference[first])
    assert written.source != back.source
    assert load_store(write(tmp_path, store_text(again)), "proctex") == again


def test_a_store_survives_its_own_text(tmp_path: Path, store: PromptStore) -> None:
    path = shipped_store("proctex")
    assert path is not None
    assert store_text(store) == path.read_text(encoding="utf-8")
    assert load_store(write(tmp_path, store_text(store))) == store


def test_cupl_export_holds_the_difference_prompts(store: PromptStore) -> None:
    ((name, content),) = exported([store], "cupl", "proctex")
    assert name == "proctex_prompt.json"
    assert content == class_lists([store], "difference")
    assert set(content) == {key.replace("_", " ") for key in store.classes}
    entry = store.pairs[0]
    assert set(entry.difference[entry.classes[0]]) <= set(content[entry.classes[0]])


def test_the_first_store_counts_when_stores_are_merged(store: PromptStore) -> None:
    other = store.model_copy(
        update={
            "source": "other",
            "pairs": [store.pairs[0].model_copy(update={"reason": "another reason"})],
        }
    )
    both = merged([other, store], "proctex", store.domain)
    assert both.source == "other; hand-written"
    assert len(both.pairs) == len(store.pairs)
    assert both.by_pair()[frozenset(store.pairs[0].classes)].reason == "another reason"


def test_a_page_about_a_class(store: PromptStore) -> None:
    entry = next(e for e in store.pairs if "lined" in e.classes)
    partner = next(name for name in entry.classes if name != "lined")
    page = "\n".join(class_page([store], "LINED"))
    assert f"why: {entry.reason}" in page
    assert f"lined: {entry.difference['lined'][0]}" in page
    assert "lined: visible attributes (hand-written)" in page
    pair = list(class_page([store], "lined", partner))
    assert len([line for line in pair if not line.startswith(" ")]) == 1
    with pytest.raises(CaptError, match="nothing is written about velvet; known: "):
        list(class_page([store], "velvet"))
    assert "lined and velvet" in refusal(list, class_page([store], "lined", "velvet"))


def test_verification_finds_what_is_wrong_with_a_store(store: PromptStore) -> None:
    names = list(store.classes)
    assert list(store_findings(store, rules(), names)) == []
    first = store.pairs[0]
    name = first.classes[0]
    bad = first.model_copy(
        update={
            "commonality": [first.commonality[0], first.commonality[0].upper()],
            "difference": {**first.difference, name: ["nothing named", f"{name} " * 90]},
        }
    )
    spoilt = store.model_copy(update={"pairs": [bad, *store.pairs[1:]]})
    found = list(store_findings(spoilt, rules(), [n for n in names if n != name]))
    problems = [finding.text for finding in found if finding.severity == "problem"]
    assert any("occurs twice" in text for text in problems)
    assert any("has 92 tokens, more than 77" in text for text in problems)
    assert len(problems) == 2
    notes = [finding.text for finding in found if finding.severity == "note"]
    assert notes[0] == f"not in the data set: {name}"
    assert any(f"'nothing named' does not name {name}" in text for text in notes)


@pytest.mark.parametrize(("stem", "classes"), [("dtd", 47), ("eurosat", 10)])
def test_the_files_of_the_release(shared: Path, stem: str, classes: int) -> None:
    folder = shared / "data" / "prompts"
    for kind, patterns in (("common", 61), ("distinct", 1)):
        path = folder / f"{stem}_prompt_{kind}.json"
        if not path.is_file():
            pytest.skip(f"no prompt files: {path} is not there")
        names = list(json.loads(path.read_text()))
        assert len(names) == classes
        lists = read_class_lists(path, names, rules())
        assert told(lists, "problem") == ""
        note = told(lists, "note")
        assert "template-filled" in note
        if stem == "dtd":
            assert f"from {patterns} patterns" in note


def test_a_python_dictionary_is_read_and_not_run(tmp_path: Path) -> None:
    text = f"import os\nTEMPLATES = {json.dumps(SOUND)}\nos.abort()\n"
    lists = read_class_lists(write(tmp_path, text, "own.py"), NAMES, rules(12))
    assert lists.findings == []
    assert lists.texts["polka-dotted"] == SOUND["polka dotted"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 3", "0 dictionaries"),
        ("a = {'b': []}\nc = {'d': []}", "2 dictionaries"),
        ("a = {'b': ['c'], 'b': ['d']}", "stands there twice"),
        ("a = {'b': open('c')}", "no plain dictionary"),
        ("a = {[1]: 2}", "no plain dictionary"),
        ("a = {", "no plain dictionary"),
        ("a = " + "[" * 3000, "no plain dictionary"),
        ("a = {}", "expected an object"),
    ],
)
def test_other_python_files_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text, "own.py")
    assert said in refusal(read_class_lists, path, NAMES, rules(12))
