"""Prompt files of others in other shapes: attribute trees (TAP) and pairs of classes (FuDD)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from capt_core.data.names import NameFinder
from capt_core.errors import CaptError, cut, shown
from capt_core.prompts.exchange import Findings, read_object, some_of, sound_texts, tell_classes
from capt_core.prompts.llm.checks import Rules
from capt_core.prompts.store import PairEntry
from capt_core.prompts.texts import one_line, words_of
from capt_core.text_file import read_json


@dataclass
class ClassTrees(Findings):
    """Sentences per class of the data set and attribute."""

    trees: dict[str, dict[str, list[str]]] = field(default_factory=dict)


@dataclass
class ClassPairs(Findings):
    """What tells two classes of the data set apart."""

    pairs: list[PairEntry] = field(default_factory=list)


def read_attribute_trees(path: Path, class_names: Sequence[str], rules: Rules) -> ClassTrees:
    """Read a file of class -> attribute -> sentences and keep what is sound.

    Keys are matched to classes as in `read_class_lists`.

    Args:
        path: a JSON file ``{class: {attribute: [sentence, ...]}}``.
        class_names: classes of the data set.
        rules: for the length of sentences.

    Raises:
        CaptError: the file cannot be read or is no such JSON at all.
    """
    document = read_object(path, "class -> attribute -> list of sentences")
    finder = NameFinder(class_names)
    found, class_of = ClassTrees(path.name), finder.name_of
    spelled: dict[tuple[str, ...], str] = {}
    for key, value in document.items():
        name = class_of(key)
        if name is None:
            continue
        if not isinstance(value, dict):
            hint = "; --cupl reads such lists" if isinstance(value, list) else ""
            expected = "expected attribute -> list of sentences"
            found.problem(f"{cut(key)}: {expected}, found {shown(value)}{hint}")
        elif name in found.trees:
            found.problem(f"class {cut(name)} has several keys; the first one counts")
        else:
            found.trees[name] = _sound_tree(key, value, rules, found, spelled)
    unknown = [key for key in document if class_of(key) is None]
    tell_classes(class_names, found.trees, unknown, len(document), found)
    for attribute in dict.fromkeys(each for tree in found.trees.values() for each in tree):
        lacking = [name for name, tree in found.trees.items() if attribute not in tree]
        if lacking:
            found.problem(f"{cut(attribute)}: {len(lacking)} classes lack it: {some_of(lacking)}")
    _note_rivals(found.trees, finder, found)
    return found


def _sound_tree(
    key: str,
    tree: Mapping[str, Any],
    rules: Rules,
    found: Findings,
    spelled: dict[tuple[str, ...], str],
) -> dict[str, list[str]]:
    """Attributes of one class that have a sentence that can be used.

    Attributes of the same words are one, in the spelling that came first in the file; `spelled`
    holds those so far.
    """
    if not tree:
        found.problem(f"{cut(key)}: no attribute")
    kept: dict[str, list[str]] = {}
    for attribute, value in tree.items():
        words = words_of(attribute)
        title = f"{cut(key)}, {cut(one_line(attribute))}"
        if not words:
            found.problem(f"{cut(key)}: {shown(attribute)} names no attribute")
        elif not isinstance(value, list):
            found.problem(f"{title}: expected a list of sentences, found {shown(value)}")
        elif texts := sound_texts(title, value, rules, found):
            own = kept.setdefault(spelled.setdefault(words, one_line(attribute)), [])
            if own:
                found.note(f"{title}: the attribute has several keys; their sentences are joined")
            own += [text for text in texts if text not in own]
    return kept


def _note_rivals(
    trees: Mapping[str, Mapping[str, Sequence[str]]], finder: NameFinder, found: Findings
) -> None:
    foreign = [
        text
        for name, tree in trees.items()
        for texts in tree.values()
        for text in texts
        if (named := finder.find(text)) and name not in named
    ]
    if foreign:
        found.note(
            f"{len(foreign)} sentences name another class and not their own, such as "
            f"{shown(foreign[0], 60)}"
        )


def read_pairs(
    path: Path, class_names: Sequence[str], rules: Rules, numbered: Sequence[str] | None = None
) -> ClassPairs:
    """Read FuDD's file of pairs and keep what is sound.

    Args:
        path: a JSON file ``{any key: {"classes": [0, 1], "prompt_pairs": [{"attr_type": ...,
            "prompt_pair": [of the first, of the second]}, ...]}}``; names may stand for numbers.
        class_names: classes of the data set.
        rules: for the length of sentences.
        numbered: the names that the file's numbers stand for; None takes the data set's own order.

    Raises:
        CaptError: the file cannot be read or is no such JSON at all.
    """
    document = read_object(path, "pair -> classes and prompt_pairs")
    found, class_of = ClassPairs(path.name), NameFinder(class_names).name_of
    names = class_names if numbered is None else numbered
    told: dict[tuple[str, str], dict[str, list[str]]] = {}
    foreign: dict[str, None] = {}
    for key, value in document.items():
        if not _is_pair(value):
            found.problem(f"{cut(key)}: expected classes and prompt_pairs, found {shown(value)}")
            continue
        given = [_named(each, names) for each in value["classes"]]
        if None in given:
            found.problem(f"{cut(key)}: classes {shown(value['classes'])}, there are {len(names)}")
            continue
        known = [class_of(str(each)) for each in given]
        foreign |= {str(name): None for name, own in zip(given, known, strict=True) if own is None}
        first, second = known
        if first is None or second is None:
            continue
        if first == second:
            found.problem(f"{cut(key)}: {cut(first)} against itself")
            continue
        sides = list(_sides(key, value["prompt_pairs"], found))
        texts = told.setdefault((min(first, second), max(first, second)), {})
        for name, side in ((first, 0), (second, 1)):
            own = [each[side] for each in sides]
            title = f"{cut(key)}, {cut(name)}"
            texts.setdefault(name, []).extend(sound_texts(title, own, rules, found))
    for classes, difference in told.items():
        if all(difference.values()):
            found.pairs.append(PairEntry(classes=classes, reason="", difference=difference))
    _tell_pairs(class_names, list(foreign), found)
    return found


def read_names(path: Path) -> list[str]:
    """A JSON list of class names in the order of another file's numbers.

    Raises:
        CaptError: no such list.
    """
    names = read_json(path)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise CaptError(f"{path}: expected a list of class names, found {shown(names)}")
    return names


def _is_pair(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    classes, texts = value.get("classes"), value.get("prompt_pairs")
    return isinstance(classes, list) and len(classes) == 2 and isinstance(texts, list)


def _named(given: object, names: Sequence[str]) -> str | None:
    """The class that a number, or a name, stands for; None where there is no such number."""
    if isinstance(given, str):
        return given
    if not isinstance(given, int) or isinstance(given, bool):
        return None
    return names[given] if 0 <= given < len(names) else None


def _sides(key: str, entries: Sequence[Any], found: Findings) -> Iterator[tuple[object, object]]:
    """Both sentences of every sound entry of a pair."""
    wrong = same = 0
    for entry in entries:
        texts = entry.get("prompt_pair") if isinstance(entry, dict) else None
        if isinstance(texts, list) and len(texts) == 2:
            if texts[0] == texts[1]:
                same += 1
                continue
            yield texts[0], texts[1]
        else:
            wrong += 1
    if wrong:
        found.problem(f"{cut(key)}: {wrong} entries have no prompt_pair of two sentences")
    if same:
        found.problem(f"{cut(key)}: {same} entries say the same of both classes")


def _tell_pairs(class_names: Sequence[str], foreign: Sequence[str], found: ClassPairs) -> None:
    if foreign:
        found.note(f"{len(foreign)} classes are not in the data set: {some_of(foreign)}")
    if not found.pairs:
        found.problem("no pair of its classes is in the data set")
        return
    written = {entry.classes for entry in found.pairs}
    every = [(min(pair), max(pair)) for pair in combinations(class_names, 2)]
    missing = ["/".join(pair) for pair in every if pair not in written]
    if missing:
        found.note(f"{len(missing)} of {len(every)} pairs are not in it: {some_of(missing)}")
