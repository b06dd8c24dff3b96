"""From class-level confusion pairs to commonality and difference prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from capt_core.advice import setting
from capt_core.artifacts.schemas import CLASS_DESCRIPTIONS, PROMPTS
from capt_core.data.names import NameFinder
from capt_core.data.splits import prompt_name
from capt_core.errors import CaptError, cut
from capt_core.prompts.store import ClassPrompts, PromptStore
from capt_core.text import normal

COMMONALITY = "commonality"
DIFFERENCE = "difference"
KINDS = (COMMONALITY, DIFFERENCE)
TEMPLATE_SOURCE = "template"
MOST_NAMED = 100  # missing pairs in an error

_TEMPLATES: Mapping[str, tuple[str, str]] = {
    COMMONALITY: ("{photo_a} that could be taken for {b}", "{photo_a} or {b}, which look alike"),
    DIFFERENCE: ("{photo_a}, not {b}", "{photo_a}, unlike {b}"),
}


@dataclass(frozen=True)
class Description:
    """A sentence about a class alone.

    Attributes:
        text: the sentence.
        phrase: what stands behind the class's name in it; None if it was written as a whole.
        attribute: what it speaks of, such as `colour`; None if nothing in particular.
    """

    text: str
    phrase: str | None = None
    attribute: str | None = None


def _behind(name: str, template: str, phrase: str, attribute: str | None = None) -> Description:
    """A phrase behind the class in its template."""
    photo = template.format(prompt_name(name)).rstrip(".")
    phrase = phrase.rstrip(".")
    return Description(f"{photo}, {phrase}.", phrase, attribute)


class Written:
    """A store of prompts, looked up by class, partner and kind."""

    def __init__(self, store: PromptStore) -> None:
        self.source = store.source
        self._store = store
        self._pairs = store.by_pair()
        self._differences: dict[str, dict[str, Sequence[str]]] = {}
        for entry in store.pairs:
            for name, partner in (entry.classes, entry.classes[::-1]):
                self._differences.setdefault(name, {})[partner] = entry.difference[name]
        self._finder = NameFinder({*store.classes, *store.class_prompts})

    def texts(self, name: str, paired: str, kind: str) -> Sequence[str]:
        """What is written for a class against a partner, nothing if nothing is.

        Prompts of the pair come first. Else those of the class serve that name the partner, or,
        where none does, those that name no class but the own one.
        """
        name, paired = normal(name), normal(paired)
        entry = self._pairs.get(frozenset((name, paired)))
        if entry is not None:
            return entry.commonality if kind == COMMONALITY else entry.difference[name]
        own = self._store.class_prompts.get(name)
        if own is None:
            return ()
        texts = own.commonality if kind == COMMONALITY else own.difference
        named = self._naming(texts, name)
        about = [text for text, others in named if others == {paired}]
        return about or [text for text, others in named if not others]

    def descriptions(self, name: str, template: str) -> list[Description]:
        """Sentences about a class alone that speak of no attribute, nothing if nothing is written.

        Difference prompts of the class that name no other serve as they are. Where there are none,
        what is visible in it does, each behind the class in its template.
        """
        name = normal(name)
        own = self._store.class_prompts.get(name, ClassPrompts())
        alone = [text for text, others in self._naming(own.difference, name) if not others]
        entry = self._store.classes.get(name)
        if alone or entry is None:
            return [Description(text) for text in alone]
        return [_behind(name, template, phrase) for phrase in entry.attributes]

    def by_attribute(self, name: str, template: str) -> list[Description]:
        """Sentences about a class alone by attribute, nothing if nothing is written.

        What names the class serves as it is; the rest stands behind the class in its template.
        """
        name = normal(name)
        own = self._store.class_prompts.get(name, ClassPrompts())
        return [
            Description(text, attribute=attribute)
            if name in self._finder.find(text)
            else _behind(name, template, text, attribute)
            for attribute, texts in own.by_attribute.items()
            for text in texts
        ]

    def differences(self, name: str) -> Mapping[str, Sequence[str]]:
        """What is written to tell a class from each other one of its pairs, by the other's name."""
        return self._differences.get(normal(name), {})

    def _naming(self, texts: Sequence[str], name: str) -> list[tuple[str, set[str]]]:
        """Each text with the classes beside `name` that it names."""
        return [(text, set(self._finder.find(text)) - {name}) for text in texts]

    def describes(self, name: str, paired: str) -> bool:
        """Whether both kinds are there in both directions."""
        return all(
            self.texts(a, b, kind) for a, b in ((name, paired), (paired, name)) for kind in KINDS
        )


def pair_prompts(
    class_pairs: pl.DataFrame,
    templates: Mapping[str, str],
    stores: Sequence[PromptStore],
    count: int,
    fill: bool,
) -> pl.DataFrame:
    """Prompts for every class-level pair.

    Args:
        class_pairs: the table `class_pairs`.
        templates: class name to its hand-written prompt template.
        stores: written prompts; the first store that has any for a class, partner and kind counts.
        count: prompts per kind and pair; a store that holds fewer gives what it has.
        fill: let templates serve where no store does.

    Returns:
        Rows as in the table `prompts`; `source` is the store's source or `template`.

    Raises:
        CaptError: pairs are missing from the stores and templates may not fill them.
    """
    written = [Written(store) for store in stores]
    missing: dict[frozenset[str], str] = {}
    rows = []
    columns = ("class_id", "class_name", "paired_class_id", "paired_class")
    for class_id, name, paired_id, paired in class_pairs.select(columns).iter_rows():
        for kind in KINDS:
            for store in written:
                texts, source = store.texts(name, paired, kind), store.source
                if texts:
                    break
            else:
                if not fill:
                    missing.setdefault(frozenset((name, paired)), f"{cut(name)}/{cut(paired)}")
                    continue
                texts, source = list(template_prompts(kind, templates[name], name, paired)), ""
            for position, text in enumerate(texts[:count]):
                row = (class_id, name, paired_id, paired, kind, position, text)
                rows.append((*row, source or TEMPLATE_SOURCE))
    if missing:
        raise missing_prompts(list(missing.values()))
    return pl.DataFrame(rows, schema=dict(PROMPTS.columns), orient="row")


def class_descriptions(classes: pl.DataFrame, stores: Sequence[PromptStore]) -> pl.DataFrame:
    """What is written about each class, by itself and against others.

    Args:
        classes: the table `classes`.
        stores: written prompts; the first one that describes a class, does so by attribute, or
            describes a pair, counts.

    Returns:
        Rows as in the table `class_descriptions`.
    """
    written = [Written(store) for store in stores]
    rows: list[tuple[object, ...]] = []
    columns = ("class_id", "class_name", "template")
    ids = {normal(name): (class_id, name) for class_id, name, _ in classes.select(columns).rows()}
    for class_id, name, template in classes.select(columns).sort("class_id").iter_rows():
        of_class: list[tuple[object, ...]] = []
        for read in (Written.descriptions, Written.by_attribute):
            for store in written:
                if found := read(store, name, template):
                    of_class += [
                        (None, None, said.attribute, said.text, said.phrase, store.source)
                        for said in found
                    ]
                    break
        against: dict[tuple[int, str], tuple[Sequence[str], str]] = {}
        for store in reversed(written):
            for partner, texts in store.differences(name).items():
                if partner in ids:
                    against[ids[partner]] = (texts, store.source)
        for paired, (texts, source) in sorted(against.items()):
            of_class += [(*paired, None, text, None, source) for text in texts]
        for position, (paired_id, paired_name, *rest) in enumerate(of_class):
            rows.append((class_id, name, paired_id, paired_name, position, *rest))
    return pl.DataFrame(rows, schema=dict(CLASS_DESCRIPTIONS.columns), orient="row")


def missing_prompts(pairs: Sequence[str]) -> CaptError:
    """The error for pairs that nothing is written about, with the ways on."""
    named = ", ".join(pairs[:MOST_NAMED]) + (", ..." if len(pairs) > MOST_NAMED else "")
    return CaptError(
        f"no prompts are written for {len(pairs)} pairs ({named}); have them written by a language "
        "model (export ANTHROPIC_API_KEY=..., generate_prompts.provider=anthropic), or name a file "
        "of your own in generate_prompts.store (capt-stage prompts import makes one of other "
        "formats), or let templates serve "
        f"({setting('generate_prompts.provider', 'store-or-template')})"
    )


def template_prompts(kind: str, template: str, name: str, paired: str) -> Iterator[str]:
    """Deterministic prompts that name both classes and describe nothing."""
    photo = template.format(prompt_name(name)).rstrip(".")
    for pattern in _TEMPLATES[kind]:
        yield pattern.format(photo_a=photo, b=prompt_name(paired))
