"""The texts of prompts: their words, repetition, filled templates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from capt_core.data.names import PLACEHOLDER, NameFinder, tokens_of

SHARED_BY = 3  # prompts of one pattern that make it a template


def words_of(text: str) -> tuple[str, ...]:
    """Lower-case words and numbers of a text, without punctuation; underscores separate words."""
    return tuple(token.text for token in tokens_of(text) if token.word)


def one_line(text: str) -> str:
    """A text in one line with single blanks; a terminal would obey control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def duplicates(texts: Iterable[str]) -> list[str]:
    """Texts that repeat an earlier one, apart from case and punctuation."""
    seen: set[tuple[str, ...]] = set()
    found = []
    for text in texts:
        words = words_of(text)
        if words in seen:
            found.append(text)
        seen.add(words)
    return found


def template_filled(texts: Sequence[str], finder: NameFinder) -> dict[str, int]:
    """Patterns that several texts share once class names are taken out, with how many do.

    A text without any class name is not a filled template, however often it occurs. The most
    frequent pattern comes first.
    """
    shapes = Counter(finder.shape(text) for text in dict.fromkeys(texts))
    return {
        pattern: count
        for pattern, count in shapes.most_common()
        if count >= SHARED_BY and PLACEHOLDER in pattern
    }


def template_note(texts: Sequence[str], finder: NameFinder) -> str | None:
    """A sentence about the texts that are filled templates, None if there are none."""
    filled = template_filled(texts, finder)
    if not filled:
        return None
    return (
        f"{sum(filled.values())} of {len(set(texts))} prompts are template-filled, from "
        f"{len(filled)} patterns; the most frequent: {next(iter(filled))[:90]!r}"
    )
