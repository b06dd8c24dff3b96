"""The texts of prompts: their words, the classes they name, repetition, filled templates."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from capt_core.text import normal

PLACEHOLDER = "<>"
SHARED_BY = 3  # prompts of one pattern that make it a template


def words_of(text: str) -> tuple[str, ...]:
    """Lower-case words and numbers of a text, without punctuation; underscores separate words."""
    return tuple(re.findall(r"\w+", normal(text).replace("_", " ").casefold()))


def one_line(text: str) -> str:
    """A text in one line with single blanks; a terminal would obey control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


class NameFinder:
    """Finds class names in texts word by word; the plural of a name's last word counts.

    Where names overlap the longest one counts: "polka-dotted" does not name the class "dotted".
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._by_first: dict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
        for name in names:
            words = words_of(name)
            if not words:
                continue
            for ending in ("", "s", "es"):
                variant = (*words[:-1], words[-1] + ending)
                self._by_first[variant[0]].append((variant, name))
        for variants in self._by_first.values():
            variants.sort(key=lambda item: -len(item[0]))

    def find(self, text: str) -> list[str]:
        """Names in a text, in order of their first appearance."""
        return list(dict.fromkeys(name for name in self._parse(text) if isinstance(name, str)))

    def shape(self, text: str) -> str:
        """The text's words with every name replaced by one placeholder."""
        parts = self._parse(text)
        return " ".join(PLACEHOLDER if isinstance(part, str) else part[0] for part in parts)

    def _parse(self, text: str) -> list[str | tuple[str]]:
        """Names as strings, other words as 1-tuples."""
        words = words_of(text)
        parts: list[str | tuple[str]] = []
        position = 0
        while position < len(words):
            for variant, name in self._by_first.get(words[position], ()):
                if words[position : position + len(variant)] == variant:
                    parts.append(name)
                    position += len(variant)
                    break
            else:
                parts.append((words[position],))
                position += 1
        return parts


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
