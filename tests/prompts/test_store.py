"""The store of written prompts: what is accepted, and how damaged files are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from capt_core.backbone.loading import load_tokenizer
from capt_core.backbone.tiny_clip.tokenizer import Tokenizer
from capt_core.errors import CaptError
from capt_core.params import Backbone, GeneratePrompts
from capt_core.prompts.generation import Written
from capt_core.prompts.sources import written_store
from capt_core.prompts.store import load_store, shipped_store
from tests.refusals import refusal


def sound() -> dict[str, Any]:
    return {
        "schema_version": 1,
        "dataset": "dtd",
        "domain": "textures",
        "source": "written by hand",
        "classes": {"banded": {"attributes": ["parallel bands"]}},
        "pairs": [
            {
                "classes": ["banded", "blotchy"],
                "reason": "both have large areas",
                "commonality": ["large areas of two colours"],
                "difference": {"banded": ["straight edges"], "blotchy": ["irregular edges"]},
            }
        ],
    }


def write(folder: Path, document: object) -> Path:
    path = folder / "prompts.json"
    text = document if isinstance(document, str) else json.dumps(document)
    path.write_text(text, encoding="utf-8")
    return path


def store_refusal(path: Path) -> str:
    message = refusal(load_store, path)
    assert str(path) in message
    return message


def test_a_sound_store_is_read(tmp_path: Path) -> None:
    store = load_store(write(tmp_path, sound()))
    assert (store.dataset, store.source) == ("dtd", "written by hand")
    assert store.classes["banded"].attributes == ["parallel bands"]
    (entry,) = store.pairs
    assert entry.difference["blotchy"] == ["irregular edges"]
    # Pairs are found in either order.
    assert store.by_pair()[frozenset(("blotchy", "banded"))] is entry


def changed(*path: object, value: object = None, remove: bool = False) -> dict[str, Any]:
    """A sound store with one entry replaced, added or removed."""
    document = sound()
    node: Any = document
    for key in path[:-1]:
        node = node[key]
    if remove:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return document


PAIR: dict[str, Any] = sound()["pairs"][0]


@pytest.mark.parametrize(
    ("document", "where"),
    [
        (changed("source", remove=True), "source"),
        (changed("author", value="me"), "author"),
        (changed("classes", value=[]), "classes"),
        (changed("classes", "banded", "attributes", value=[]), "classes.banded.attributes"),
        (changed("classes", "banded", "colour", value="red"), "classes.banded.colour"),
        (changed("pairs", value={}), "pairs"),
        (changed("pairs", 0, "reason", remove=True), "pairs.0.reason"),
        (changed("pairs", 0, "commonality", value=[]), "pairs.0.commonality"),
        (changed("pairs", 0, "commonality", value="one text"), "pairs.0.commonality"),
        (changed("pairs", 0, "commonality", value=[3]), "pairs.0.commonality.0"),
        (changed("pairs", 0, "classes", value=["banded"]), "pairs.0.classes.1"),
        (changed("pairs", 0, "classes", value=["banded"] * 2), "pairs.0"),
        (
            changed("pairs", 0, value={**PAIR, "classes": ["a", "a"], "difference": {"a": ["x"]}}),
            "pairs.0",
        ),
        (changed("pairs", 0, "classes", value=["banded", "braided"]), "pairs.0"),
        (changed("pairs", 0, "difference", "blotchy", remove=True), "pairs.0"),
        (changed("pairs", 0, "difference", "braided", value=["x"]), "pairs.0"),
        (changed("pairs", 0, "difference", "banded", value="text"), "pairs.0.difference.banded"),
        # Nothing would tell this class from the other, and no message would say so.
        (changed("pairs", 0, "difference", "banded", value=[]), "pairs.0.difference.banded"),
        (changed("pairs", 0, "difference", "banded", value=["  "]), "pairs.0.difference.banded.0"),
        (changed("pairs", 0, "commonality", value=["  "]), "pairs.0.commonality.0"),
        (changed("schema_version", value="1"), "schema_version"),
        (changed("dataset", value=3), "dataset"),
        (changed("source", value="a\0b"), "source"),
        (changed("pairs", 0, "reason", value="\x1b[2J"), "pairs.0.reason"),
        (changed("pairs", 0, "commonality", value=["a\0b"]), "pairs.0.commonality.0"),
        (changed("classes", "", value={"attributes": ["x"]}), "classes.."),
        (changed("classes", "k" * 5000, value=3), "classes.kkk"),
        (changed("classes", "banded", "attributes", value="x" * 5000), "classes.banded.attributes"),
        ([], "top level"),
        (3, "top level"),
        (None, "top level"),
    ],
)
def test_the_place_of_a_mistake_is_named(tmp_path: Path, document: object, where: str) -> None:
    path = write(tmp_path, document)
    message = store_refusal(path)
    assert message.startswith(f"{path}: {where}")
    assert len(message) < len(str(path)) + 300


def test_a_pair_written_twice_is_refused(tmp_path: Path) -> None:
    document = sound()
    again = {**document["pairs"][0], "classes": ["blotchy", "banded"], "reason": "other"}
    path = write(tmp_path, {**document, "pairs": [document["pairs"][0], again]})
    assert "pairs" in store_refusal(path)


@pytest.mark.parametrize("content", ["", "{", "not json", '{"pairs": [}'])
def test_a_file_that_is_not_json_is_named(tmp_path: Path, content: str) -> None:
    assert "not valid JSON" in store_refusal(write(tmp_path, content))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_bytes(b"\xff\xfe{}")
    assert "not UTF-8 text (byte 0)" in store_refusal(path)


def test_what_would_be_lost_without_a_word_is_refused(tmp_path: Path) -> None:
    text = json.dumps(sound())
    twice = text.replace('"classes": {', '"classes": {"banded": {"attributes": ["lost"]}, ', 1)
    assert "the key 'banded' occurs twice" in store_refusal(write(tmp_path, twice))
    assert "'pairs' occurs twice" in store_refusal(write(tmp_path, text[:-1] + ', "pairs": []}'))
    unnamed = text.replace('"classes": {', r'"classes": {"\ud800": {"attributes": ["a"]}, ', 1)
    assert "no characters" in store_refusal(write(tmp_path, unnamed))


def test_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeff" + json.dumps(sound()))
    assert load_store(path).dataset == "dtd"


def test_names_are_compared_in_one_unicode_form(tmp_path: Path) -> None:
    document = sound()
    pair = document["pairs"][0]
    pair["classes"][1] = "cafe\u0301"
    pair["difference"] = {"banded": ["a"], "caf\u00e9": ["b"]}
    store = load_store(write(tmp_path, document))
    for name in ("caf\u00e9", "cafe\u0301"):
        assert Written(store).texts(name, "banded", "difference") == ["b"]
    pair["difference"]["cafe\u0301"] = ["c"]
    assert "occurs twice" in store_refusal(write(tmp_path, document))


@pytest.mark.parametrize("version", [0, 2])
def test_another_version_is_refused(tmp_path: Path, version: int) -> None:
    message = store_refusal(write(tmp_path, changed("schema_version", value=version)))
    assert f"schema_version {version}, this program reads 1" in message


def test_a_missing_file_names_the_setting(tmp_path: Path) -> None:
    message = store_refusal(tmp_path / "gone.json")
    assert "No such file" in message
    assert "generate_prompts.store" in message
    assert "Is a directory" in store_refusal(tmp_path)


def test_only_some_data_sets_have_a_shipped_store() -> None:
    assert shipped_store("no_such_data_set") is None
    path = shipped_store("proctex")
    assert path is not None
    assert load_store(path).dataset == "proctex"


def test_another_edition_of_a_shipped_store() -> None:
    usual, sheet = (
        written_store(GeneratePrompts(store=name), "proctex") for name in (None, "contact_sheet")
    )
    assert usual is not None
    assert sheet is not None
    assert sheet.by_pair().keys() > usual.by_pair().keys()
    tokenizer = load_tokenizer(Backbone())
    assert isinstance(tokenizer, Tokenizer)
    sentences = [
        (name, text)
        for entry in sheet.pairs
        for name, texts in entry.difference.items()
        for text in texts
    ]
    assert all(text.startswith(f"a photo of a {name} texture, ") for name, text in sentences)
    assert not {word for _, text in sentences for word in tokenizer.unknown_words(text)}
    with pytest.raises(CaptError, match=r"generate_prompts\.store"):
        written_store(GeneratePrompts(store="contact_sheet"), "dtd")
