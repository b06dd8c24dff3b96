"""Written prompts as pages to read, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from capt_core.data.names import NameFinder
from capt_core.data.splits import prompt_name
from capt_core.errors import CaptError, cut, shown
from capt_core.prompts.exchange import Finding, some_of
from capt_core.prompts.llm.answers import AnswerStore
from capt_core.prompts.llm.asking import ConfusedPair
from capt_core.prompts.llm.checks import Rules
from capt_core.prompts.llm.reasoning import Reasoning
from capt_core.prompts.store import PromptStore
from capt_core.prompts.texts import duplicates, template_note
from capt_core.text import normal


def answered_pairs(reasoning: Reasoning) -> list[ConfusedPair]:
    """Pairs that are answered with the present settings."""
    found = []
    for _, entry in reasoning.answers.entries():
        if isinstance(entry, str) or entry.question.step != "prompts":
            continue
        first, second = entry.question.classes
        if entry.question == reasoning.question("prompts", (first, second)):
            found.append(ConfusedPair((first, second), (0, 0)))
    return found


def class_page(
    stores: Sequence[PromptStore], name: str, partner: str | None = None
) -> Iterator[str]:
    """What is written about a class, and about it and one partner or all, in lines for people.

    Raises:
        CaptError: nothing is written about the class, or the two.
    """
    lines = []
    for store in stores:
        name_of = NameFinder(sorted(_names(store))).name_of
        own = name_of(name)
        if own is None:
            continue
        other = name_of(partner) if partner else None
        if partner is None:
            if own in store.classes:
                lines.append(f"{own}: visible attributes ({store.source})")
                lines += [f"  - {text}" for text in store.classes[own].attributes]
            prompts = store.class_prompts.get(own)
            if prompts and (prompts.commonality or prompts.difference):
                lines.append(f"{own}: prompts against any other class ({store.source})")
                lines += [f"  commonality: {text}" for text in prompts.commonality]
                lines += [f"  difference:  {text}" for text in prompts.difference]
            if prompts and prompts.by_attribute:
                lines.append(f"{own}: by attribute ({store.source})")
                lines += [
                    f"  {attribute}: {text}"
                    for attribute, texts in prompts.by_attribute.items()
                    for text in texts
                ]
        for entry in store.pairs:
            if own not in entry.classes or (partner and other not in entry.classes):
                continue
            lines.append(f"{' / '.join(entry.classes)} ({store.source})")
            lines += [f"  why: {entry.reason}"] if entry.reason else []
            lines += [f"  both: {text}" for text in entry.commonality]
            for which in sorted(entry.classes, key=lambda c: c != own):
                lines += [f"  {which}: {text}" for text in entry.difference[which]]
    if not lines:
        known = ", ".join(map(cut, sorted({n for store in stores for n in _names(store)})[:50]))
        subject = f"{cut(name)} and {cut(partner)}" if partner else cut(name)
        raise CaptError(f"nothing is written about {subject}; known: {known or 'no class'}")
    yield from lines


def store_findings(
    store: PromptStore, rules: Rules, class_names: Sequence[str] | None
) -> Iterator[Finding]:
    """What is wrong with a written store.

    Args:
        class_names: classes of the data set, None if it is not prepared.
    """
    names = _names(store)
    finder = NameFinder(names)
    foreign = sorted(names - set(map(normal, class_names or names)))
    if foreign:
        yield Finding("note", f"not in the data set: {some_of(foreign)}")
    every: list[str] = []
    for entry in store.pairs:
        title = cut("/".join(entry.classes))
        groups: list[tuple[str, tuple[str, ...], list[str]]] = [
            ("commonality", entry.classes, entry.commonality),
            *((f"difference of {cut(n)}", (n,), texts) for n, texts in entry.difference.items()),
        ]
        texts_of_pair = [text for _, _, texts in groups for text in texts]
        every += texts_of_pair
        for text in duplicates(texts_of_pair):
            yield Finding("problem", f"{title}: {shown(text, 80)} occurs twice")
        for group, named, texts in groups:
            for text in texts:
                unnamed = [name for name in named if name not in finder.find(text)]
                if unnamed:
                    yield Finding(
                        "note",
                        f"{title}, {group}: {shown(text, 80)} does not name "
                        f"{' or '.join(cut(prompt_name(name)) for name in unnamed)}",
                    )
    for name, prompts in store.class_prompts.items():
        of_attributes = [text for texts in prompts.by_attribute.values() for text in texts]
        lists = (prompts.commonality, prompts.difference, of_attributes)
        every += [text for texts in lists for text in texts]
        for text in (text for texts in lists for text in duplicates(texts)):
            yield Finding("problem", f"{cut(name)}: {shown(text, 80)} occurs twice")
    for text in dict.fromkeys(every):
        tokens = rules.token_count(text)
        if tokens > rules.context_length:
            yield Finding(
                "problem", f"{shown(text)} has {tokens} tokens, more than {rules.context_length}"
            )
    if note := template_note(every, finder):
        yield Finding("note", note)


def answer_findings(answers: AnswerStore, domain: str, rules: Rules) -> Iterator[Finding | None]:
    """What is wrong with a store of answers; None for every file that is sound.

    Answers about other domains are only checked for damage: other rules hold for them.
    """
    for path, entry in answers.entries():
        if isinstance(entry, str):
            yield Finding("problem", f"{path}: {entry}")
        elif entry.question.domain == domain and entry.accepted(rules) is None:
            why = entry.problems(rules)[0]
            yield Finding(
                "problem", f"{path}: none of {len(entry.attempts)} answers can be used: {why}"
            )
        else:
            yield None
    for folder, what in (("set-aside", "damaged, set aside"), ("batches", "a batch under way")):
        for path in sorted((answers.root / folder).glob("*.json")):
            yield Finding("note", f"{path}: {what}")


def _names(store: PromptStore) -> set[str]:
    paired = {name for entry in store.pairs for name in entry.classes}
    return {*store.classes, *store.class_prompts, *paired}
