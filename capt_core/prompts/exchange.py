"""Prompt files of others: class to list of sentences, as CuPL, TAC, LwEIB and the paper's release
have them.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from capt_core.data.names import NameFinder
from capt_core.data.splits import prompt_name
from capt_core.errors import CaptError, cut, shown
from capt_core.prompts.generation import COMMONALITY, DIFFERENCE, KINDS
from capt_core.prompts.llm.checks import Rules
from capt_core.prompts.store import SCHEMA_VERSION, ClassEntry, ClassPrompts, PairEntry, PromptStore
from capt_core.prompts.texts import (
    duplicates,
    one_line,
    template_note,
    words_of,
)
from capt_core.text_file import read_json, read_text

NAMED = 8  # classes named in one finding


@dataclass(frozen=True)
class Finding:
    """What was seen in a file; a `problem` loses or spoils prompts, a `note` does not."""

    severity: Literal["problem", "note"]
    text: str


@dataclass
class Findings:
    """What was found in a file on the way."""

    file: str
    findings: list[Finding] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.findings.append(Finding("note", f"{self.file}: {text}"))

    def problem(self, text: str) -> None:
        self.findings.append(Finding("problem", f"{self.file}: {text}"))


@dataclass
class ClassLists(Findings):
    """Sentences per class of the data set."""

    texts: dict[str, list[str]] = field(default_factory=dict)


def read_class_lists(path: Path, class_names: Sequence[str], rules: Rules) -> ClassLists:
    """Read a file of class -> sentences and keep what is sound.

    Keys are matched to classes by their words, so case, underscores and hyphens do not matter.

    Args:
        path: a JSON file ``{class: [sentence, ...]}``, or a Python file with one such dictionary,
            as LwEIB has them; it is read, not run.
        class_names: classes of the data set.
        rules: for the length of sentences.

    Raises:
        CaptError: the file cannot be read or is no such JSON at all.
    """
    document = read_object(path, "class -> list of sentences")
    lists = ClassLists(path.name)
    class_of = NameFinder(class_names).name_of
    unknown = [key for key in document if class_of(key) is None]
    finder = NameFinder({*class_names, *unknown})
    for key, value in document.items():
        name = class_of(key)
        if name is None:
            continue
        if name in lists.texts:
            lists.note(f"class {cut(name)} has several keys; their sentences are joined")
        if not isinstance(value, list):
            lists.problem(f"{cut(key)}: expected a list of sentences, found {shown(value)}")
            continue
        lists.texts.setdefault(name, []).extend(sound_texts(cut(key), value, rules, lists))
    tell_classes(class_names, lists.texts, unknown, len(document), lists)
    _leave_out_unknown(unknown, finder, lists)
    every = [text for texts in lists.texts.values() for text in texts]
    if note := template_note(every, finder):
        lists.note(note)
    return lists


def imported_store(
    dataset: str,
    domain: str,
    files: Sequence[Path],
    lists: Mapping[str, ClassLists],
    class_names: Sequence[str],
    trees: Mapping[str, Mapping[str, list[str]]] | None = None,
    pairs: Sequence[PairEntry] = (),
) -> PromptStore:
    """A store of what was read from files of others.

    Args:
        dataset: its name.
        domain: what its images show.
        files: that were read, for the store's source.
        lists: sentences per class by kind.
        class_names: classes of the data set.
        trees: sentences by class and attribute.
        pairs: what tells two classes apart.
    """
    names = ", ".join(dict.fromkeys(path.name for path in files))
    found = [finding.text for entry in lists.values() for finding in entry.findings]
    filled = ", partly template-filled" if any("template-filled" in text for text in found) else ""
    prompts = {}
    for name in class_names:
        texts = {kind: lists[kind].texts.get(name, []) for kind in lists}
        tree = dict((trees or {}).get(name, {}))
        if tree or any(texts.values()):
            prompts[name] = ClassPrompts(**texts, by_attribute=tree)
    return PromptStore(
        schema_version=SCHEMA_VERSION,
        dataset=dataset,
        domain=domain,
        source=f"imported from {names}{filled}",
        classes={},
        pairs=list(pairs),
        class_prompts=prompts,
    )


def class_lists(stores: Sequence[PromptStore], kind: str) -> dict[str, list[str]]:
    """All prompts of a kind by class, in the keys and order that such files have."""
    texts: dict[str, list[str]] = {}
    for store in stores:
        for entry in store.pairs:
            for name in entry.classes:
                own = entry.commonality if kind == COMMONALITY else entry.difference[name]
                texts.setdefault(name, []).extend(own)
        for name, prompts in store.class_prompts.items():
            own = prompts.commonality if kind == COMMONALITY else prompts.difference
            texts.setdefault(name, []).extend(own)
    return {
        prompt_name(name): list(dict.fromkeys(texts[name])) for name in sorted(texts) if texts[name]
    }


def merged(stores: Sequence[PromptStore], dataset: str, domain: str) -> PromptStore:
    """Several stores as one.

    Of a pair, a class, or a kind of prompts of a class that stands in several the first one counts.
    """
    pairs = {}
    classes: dict[str, ClassEntry] = {}
    prompts: dict[str, ClassPrompts] = {}
    for store in reversed(stores):
        pairs.update(store.by_pair())
        classes.update(store.classes)
        for name, entry in store.class_prompts.items():
            filled = {kind: texts for kind, texts in entry if texts}
            prompts[name] = prompts.get(name, ClassPrompts()).model_copy(update=filled)
    return PromptStore(
        schema_version=SCHEMA_VERSION,
        dataset=dataset,
        domain=domain,
        source="; ".join(dict.fromkeys(store.source for store in stores)),
        classes=dict(sorted(classes.items())),
        pairs=sorted(pairs.values(), key=lambda entry: entry.classes),
        class_prompts=dict(sorted(prompts.items())),
    )


def class_trees(stores: Sequence[PromptStore]) -> dict[str, dict[str, list[str]]]:
    """What is said of each class by attribute, each text with the class's name, as TAP has them."""
    trees = {}
    for name, entry in merged(stores, "", "").class_prompts.items():
        finder, spoken = NameFinder([name]), prompt_name(name)
        if entry.by_attribute:
            trees[spoken] = {
                attribute: [text if finder.find(text) else f"{spoken}, {text}" for text in texts]
                for attribute, texts in entry.by_attribute.items()
            }
    return trees


def exported(
    stores: Sequence[PromptStore], layout: str, dataset: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """File names and contents of an export.

    Args:
        layout: `release` gives one file per kind, `cupl` the difference prompts alone, since files
            of that kind describe classes one by one, `tap` what is said by attribute.
    """
    if layout == "tap":
        yield f"{dataset}_tree.json", class_trees(stores)
        return
    if layout == "cupl":
        yield f"{dataset}_prompt.json", class_lists(stores, DIFFERENCE)
        return
    for kind, word in zip(KINDS, ("common", "distinct"), strict=True):
        yield f"{dataset}_prompt_{word}.json", class_lists(stores, kind)


def read_object(path: Path, what: str) -> dict[str, Any]:
    """The object of a JSON file, or the one dictionary of a Python file.

    Raises:
        CaptError: the file cannot be read or holds no such object, described by `what`.
    """
    document = literal(path) if path.suffix == ".py" else read_json(path)
    if not isinstance(document, dict) or not document:
        raise CaptError(f"{path}: expected an object of {what}, found {shown(document)}")
    return {str(key): value for key, value in document.items()}


def literal(path: Path) -> Any:
    """The dictionary that a Python file assigns to a name; nothing is run.

    Raises:
        CaptError: no Python, none or several such dictionaries, or a key twice.
    """
    try:
        body = ast.parse(read_text(path)).body
        nodes = [node.value for node in body if isinstance(node, ast.Assign)]
        tables = [node for node in nodes if isinstance(node, ast.Dict)]
        if len(tables) != 1:
            raise CaptError(f"{path}: {len(tables)} dictionaries, expected one: class -> sentences")
        found = ast.literal_eval(tables[0])
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        # Messages of the parser may hold addresses.
        raise CaptError(
            f"{path}: no plain dictionary of Python; write class -> list of sentences, or as JSON"
        ) from error
    if len(found) < len(tables[0].keys):
        raise CaptError(f"{path}: a key stands there twice; keep one")
    return found


def sound_texts(title: str, value: Sequence[object], rules: Rules, found: Findings) -> list[str]:
    """Those of a list of sentences that can be used; `title` says whose they are."""
    texts = [one_line(v) for v in value if isinstance(v, str) and words_of(v)]
    if len(texts) < len(value):
        found.problem(f"{title}: {len(value) - len(texts)} entries are empty or no sentences")
    elif not texts:
        found.problem(f"{title}: the list is empty")
    long = [text for text in texts if rules.token_count(text) > rules.context_length]
    if long:
        found.problem(
            f"{title}: {len(long)} sentences have more than {rules.context_length} "
            f"tokens, such as {shown(long[0], 60)}"
        )
    short = [text for text in texts if text not in set(long)]
    twice = duplicates(short)
    if twice:
        found.note(f"{title}: {len(twice)} sentences occur twice; kept once")
    return list({words_of(text): text for text in reversed(short)}.values())[::-1]


def tell_classes(
    class_names: Sequence[str],
    described: Collection[str],
    unknown: Sequence[str],
    total: int,
    found: Findings,
) -> None:
    """Say which classes a file of `total` lacks, and which of its own are `unknown`."""
    missing = [name for name in class_names if name not in described]
    if len(unknown) == total:
        found.problem("none of its classes is in the data set")
    elif unknown:
        found.note(f"{len(unknown)} classes are not in the data set: {some_of(unknown)}")
    if missing:
        found.problem(f"{len(missing)} classes are missing: {some_of(missing)}")


def _leave_out_unknown(unknown: Sequence[str], finder: NameFinder, lists: ClassLists) -> None:
    """Sentences that compare with a class outside the data set serve no pair of it."""
    foreign, dropped = set(unknown), 0
    for name, texts in lists.texts.items():
        kept = [text for text in texts if not foreign & set(finder.find(text))]
        dropped += len(texts) - len(kept)
        lists.texts[name] = kept
    if dropped:
        left = [name for name, texts in lists.texts.items() if not texts]
        without = f", which leaves none for {some_of(left)}" if left else ""
        lists.note(f"{dropped} sentences name such classes and are left out{without}")


def some_of(names: Sequence[str]) -> str:
    """The first of many names, for messages."""
    return ", ".join(map(cut, names[:NAMED])) + (", ..." if len(names) > NAMED else "")
