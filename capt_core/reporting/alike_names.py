"""Class names that say the same in other words' clothes: plurals, participles, further words."""

from __future__ import annotations

from capt_core.data.names import tokens_of

_JOINTS = frozenset("-_'./")
"""Characters between the words of a name that say nothing themselves."""

_LEAST_ROOT = 3  # letters; shorter ones are other words more often than roots


def same_words(first: str, second: str) -> bool:
    """Whether the words of one class name are all in the other: "shirt" and "t-shirts".

    A word is the same in the plural and with -ed: "dots" and "dotted".
    """
    words = [
        [_roots(token.text) for token in tokens_of(name) if token.text not in _JOINTS]
        for name in (first, second)
    ]
    return all(words) and (_within(*words) or _within(*reversed(words)))


def _within(inner: list[set[str]], outer: list[set[str]]) -> bool:
    return all(any(roots & others for others in outer) for roots in inner)


def _roots(word: str) -> set[str]:
    """The word, and what it may be made from."""
    found = {word}
    if word.endswith("s") and not word.endswith("ss"):
        found.add(word[:-1])
    if word.endswith(("ses", "xes", "zes", "shes", "ches")):
        found.add(word[:-2])
    if word.endswith("ed"):
        found |= {word[:-2], word[:-1]}
        if word[-3:-2] == word[-4:-3]:
            found.add(word[:-3])
    return {root for root in found if len(root) >= _LEAST_ROOT or root == word}
