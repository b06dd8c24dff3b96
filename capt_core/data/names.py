"""Finding class names in texts, also names that differ in punctuation, plurals or little words.

A name is compared token by token: words, and single characters of punctuation. Its spelling goes
before its words alone, and both go before their plurals. A form that two names share belongs to
the one whose better form it is, else to none.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from capt_core.errors import CaptError, shown

PLACEHOLDER = "<>"

# Punctuation that sentences put around and into names; all other belongs to a name: C#, C++.
_SOFT_CATEGORIES: Final = frozenset({"Pd", "Ps", "Pe", "Pi", "Pf", "Pc"})
_SOFT: Final = frozenset("'\"`.,;:!?/*·…¿¡、。")
_AROUND: Final = frozenset({"Ps", "Pe", "Pi", "Pf"})
_BEFORE: Final = frozenset("'\"`¿¡")
_AFTER: Final = frozenset("'\"`.,;:!?…、。")
_ALIKE: Final = str.maketrans({"_": " ", **dict.fromkeys("’‘ʼ", "'"), **dict.fromkeys("“”", '"')})
_DASHES: Final = str.maketrans(dict.fromkeys("‐‑‒–—―", "-"))
_LEADING: Final = frozenset({"a", "an", "the", "of", "or", "and"})
_TRAILING: Final = frozenset({"or", "and"})
_ENDINGS: Final = ("s", "es")

Form = tuple[str, ...]


class Token(NamedTuple):
    """A word, or one character of punctuation or of a script that writes words without blanks.

    Attributes:
        text: lower-case, in Unicode's composed form.
        word: whether it is no punctuation.
        glued: whether no blank stands before it.
    """

    text: str
    word: bool
    glued: bool

    @property
    def soft(self) -> bool:
        """Whether it is punctuation that a name may lack in a text."""
        return not self.word and _is_soft(self.text)

    @property
    def hard(self) -> bool:
        """Whether it is punctuation that belongs to a name."""
        return not self.word and not _is_soft(self.text)

    @property
    def spelling(self) -> str:
        """Its text, apart from the same punctuation behind a blank: "A-" is not in "A - B"."""
        return self.text if self.word or self.glued else f" {self.text}"


class _Match(NamedTuple):
    start: int
    end: int
    tier: int
    name: str


def normal_form(text: str) -> str:
    """The text as names are compared: composed, without case; quotes and dashes are all alike."""
    alike = text.translate(_ALIKE).translate(_DASHES)
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", alike).casefold())


def tokens_of(text: str) -> list[Token]:
    """Words, numbers and punctuation of a text."""
    found: list[Token] = []
    end = 0
    folded = normal_form(text)
    pattern = _ASCII if folded.isascii() else _pattern()
    for match in pattern.finditer(folded):
        token = match[0]
        glued = match.start() == end and end > 0
        found.append(Token(token, match.lastgroup == "word", glued))
        end = match.end()
    return found


class NameFinder:
    """Finds class names in texts.

    An occurrence inside a longer name does not count: "polka-dotted" does not name "dotted", nor
    does "C++" name "C". The plural of a name's last word counts, unless it is another name.
    """

    def __init__(self, names: Iterable[str]) -> None:
        tiers: list[dict[Form, set[str]]] = [defaultdict(set) for _ in range(4)]
        for name in names:
            for tier, forms in enumerate(_forms(name)):
                for form in forms:
                    tiers[tier][form].add(name)
        self._whole: dict[Form, str] = {}
        self._spelled, self._loose = _Forms(), _Forms()
        taken: set[Form] = set()
        for tier, forms_of in enumerate(tiers):
            for form, owners in forms_of.items():
                if len(owners) == 1 and form not in taken:
                    (name,) = owners
                    self._whole.setdefault(form, name)
                    (self._loose if tier % 2 else self._spelled).add(form, tier, name)
                elif len(owners) == 1 and self._whole.get(form) in owners and tier % 2:
                    # The words alone are the spelling, too: hyphens in the text do not matter.
                    (name,) = owners
                    self._loose.add(form, tier, name)
            taken.update(forms_of)

    def name_of(self, text: str) -> str | None:
        """The name that a text is, and nothing besides; None if it is none of them."""
        tokens = tokens_of(text)
        return self._whole.get(_spelled(tokens)) or self._whole.get(_bare(tokens))

    def find(self, text: str) -> list[str]:
        """Names in a text, in order of their first appearance."""
        return list(self.count(text))

    def count(self, text: str) -> Counter[str]:
        """How often each name stands in a text, in order of first appearance."""
        matches = self._matches(tokens_of(text))
        counted: Counter[str] = Counter()
        end = 0
        # Sorted by start, longer ones first: a match that ends by then lies inside an earlier one.
        for match in matches:
            if match.end > end:
                counted[match.name] += 1
                end = match.end
        return counted

    def shape(self, text: str) -> str:
        """The text's words with every name replaced by one placeholder."""
        tokens = tokens_of(text)
        parts: list[str] = []
        position = 0
        for match in (*self._matches(tokens), _Match(len(tokens), len(tokens), 0, "")):
            if match.start >= position:
                parts += [token.text for token in tokens[position : match.start] if token.word]
                parts += [PLACEHOLDER] if match.name else []
                position = match.end
        return " ".join(parts)

    def _matches(self, tokens: Sequence[Token]) -> list[_Match]:
        """Occurrences by start, longest first; of those of one place only the one of best tier."""
        everything = range(len(tokens))
        bare = [i for i in everything if not _joins(tokens, i)]
        found: dict[tuple[int, int], _Match] = {}
        for forms, places, form_of in (
            (self._spelled, everything, _spelled),
            (self._loose, bare, _texts),
        ):
            for number, start in enumerate(places):
                for length in forms.lengths.get(tokens[start].text, ()):
                    span = places[number : number + length]
                    owner = forms.owners.get(form_of([tokens[i] for i in span]))
                    if owner is None:
                        continue
                    match = _Match(start, span[-1] + 1, *owner)
                    if _stands_alone(tokens, match):
                        place = (match.start, match.end)
                        found[place] = min(match, found.get(place, match))
        return sorted(found.values(), key=lambda match: (match.start, -match.end))


class _Forms:
    """Forms of names by their tokens.

    Attributes:
        owners: tier and name of a form; the best tier where several are the same.
        lengths: first token to the lengths of the forms that begin with it.
    """

    def __init__(self) -> None:
        self.owners: dict[Form, tuple[int, str]] = {}
        self.lengths: dict[str, set[int]] = defaultdict(set)

    def add(self, form: Form, tier: int, name: str) -> None:
        self.owners.setdefault(form, (tier, name))
        self.lengths[form[0]].add(len(form))


def indistinguishable(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names of which no text can say which one it names, in the order given.

    They differ at most in case, blanks, punctuation that a sentence may put around them, or an
    article or the like that it may put before them.
    """
    first: dict[Form, str] = {}
    pairs = []
    for name in names:
        key = _core(name)
        if key in first:
            pairs.append((first[key], name))
        first.setdefault(key, name)
    return pairs


def told_apart(first: str, second: str) -> str:
    """What to do about two names that `indistinguishable` finds."""
    return (
        f"the classes {shown(first, 60)} and {shown(second, 60)} cannot be told apart in any text: "
        "they differ at most in case, punctuation around them or an article; rename one "
        "(data.classes takes a file of names)"
    )


def check_distinguishable(names: Sequence[str], where: str) -> None:
    """Refuse class names that no text can tell apart.

    Raises:
        CaptError: see `indistinguishable`; `where` is named.
    """
    if pairs := indistinguishable(names):
        raise CaptError(f"{where}: {told_apart(*pairs[0])}")


def _core(name: str) -> Form:
    """The tokens of a name without what a sentence may put around it."""
    everything = tokens_of(name)
    tokens = list(everything)
    while tokens and _is_around(tokens[-1], _AFTER):
        tokens.pop()
    while tokens and _is_around(tokens[0], _BEFORE):
        tokens.pop(0)
    while len(tokens) > 1 and tokens[0].text in _LEADING and _apart(*tokens[:2]):
        tokens.pop(0)
    while len(tokens) > 1 and tokens[-1].text in _TRAILING and _apart(*tokens[-2:]):
        tokens.pop()
    return tuple(token.text for token in tokens or everything)


def _apart(first: Token, second: Token) -> bool:
    """Whether the words of two neighbours are read alone, unlike those of "A-" or "x-or"."""
    return not (second.glued and (first.soft or second.soft))


def _is_around(token: Token, marks: frozenset[str]) -> bool:
    return not token.word and (token.text in marks or unicodedata.category(token.text) in _AROUND)


def _forms(name: str) -> tuple[list[Form], ...]:
    """Spelling, words alone, and the plurals of both."""
    tokens = tokens_of(name)
    spelled = _spelled(tokens)
    bare = _bare(tokens)
    singular = [[form] if form else [] for form in (spelled, bare)]
    plural: list[list[Form]] = [
        [(*form[:-1], form[-1] + ending) for form in forms for ending in _ENDINGS]
        if tokens and tokens[-1].word
        else []
        for forms in singular
    ]
    return (*singular, *plural)


def _spelled(tokens: Sequence[Token]) -> Form:
    # What stands before the first token is no part of the spelling.
    return tuple(token.spelling if i else token.text for i, token in enumerate(tokens))


def _texts(tokens: Sequence[Token]) -> Form:
    return tuple(token.text for token in tokens)


def _bare(tokens: Sequence[Token]) -> Form:
    return tuple(token.text for token in tokens if not token.soft)


def _joins(tokens: Sequence[Token], index: int) -> bool:
    """Whether a token may be left out between two words: St. Bernard, polka-dotted, jack-o'."""
    text = tokens[index].text
    if text == "-":
        after = tokens[index + 1] if index + 1 < len(tokens) else None
        return tokens[index].glued and after is not None and after.glued
    return text == "'" or (text in ".·" and tokens[index].glued)


def _stands_alone(tokens: Sequence[Token], match: _Match) -> bool:
    """Whether nothing that could belong to a longer word or name touches a match."""
    start, end = match.start, match.end
    before = tokens[start - 1] if start and tokens[start].glued else None
    after = tokens[end] if end < len(tokens) and tokens[end].glued else None
    return not (_binds(before, tokens[start]) or _binds(after, tokens[end - 1]))


def _binds(neighbour: Token | None, edge: Token) -> bool:
    if neighbour is None:
        return False
    if neighbour.hard:
        return True
    return neighbour.word and not edge.word


@lru_cache(maxsize=4096)
def _is_soft(character: str) -> bool:
    return character in _SOFT or unicodedata.category(character) in _SOFT_CATEGORIES


_ASCII: Final = re.compile(r"(?P<word>[a-z0-9]+)|(?P<mark>[^a-z0-9\s])")


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern[str]:
    """Tokens of any text: vowel signs and accents belong to their letter, ideographs are words."""
    marks = "".join(
        re.escape(chr(code))
        for code in range(0x300, 0x1E900)
        if unicodedata.category(chr(code)).startswith("M")
    )
    # Scripts without blanks between words: Thai to Myanmar, Khmer, kana and ideographs.
    run_on = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uf900-\ufaff"
    run_on += "\U00020000-\U0003ffff"
    part = rf"[{marks}\u200c\u200d]*"
    return re.compile(
        rf"(?P<word>(?![\W_])[{run_on}]{part}|(?:(?![{run_on}])[^\W_]{part})+)|(?P<mark>[^\s])"
    )
