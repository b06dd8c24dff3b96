"""What makes an answer usable, and what is wrong with one that is not."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from capt_core.data.names import NameFinder
from capt_core.data.splits import prompt_name
from capt_core.prompts.llm.questions import (
    FORMS,
    AttributesAnswer,
    DescriptionsAnswer,
    DescriptionsQuestion,
    PromptsAnswer,
    Question,
    ReasonAnswer,
)
from capt_core.prompts.texts import duplicates, one_line, words_of

FEWEST_ATTRIBUTES = 3
MOST_ATTRIBUTES = 12
LONGEST_PHRASE = 160  # characters
LONGEST_REASON = 900
DEEPER = 8  # levels above an answer in its file, and some
MOST_SHOWN = 4  # class names of an answer that a problem quotes

FINISHED = frozenset({"end_turn", "stop_sequence", "tool_use"})

PLAIN_TEMPLATE = "a photo of a {}."

Answer = AttributesAnswer | ReasonAnswer | PromptsAnswer | DescriptionsAnswer


@dataclass(frozen=True)
class Rules:
    """The limits on prompts.

    Attributes:
        token_count: tokens of a text with start and end, as the text encoder counts them.
        context_length: most tokens the text encoder takes.
        medium: words of which each prompt must contain one; none means no such rule.
        templates: class name to its hand-written prompt template, of all classes of the data set;
            none where they are not known.
    """

    token_count: Callable[[str], int]
    context_length: int
    medium: Sequence[str]
    templates: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def finder(self) -> NameFinder:
        """Finds the classes of the data set in texts."""
        return NameFinder(self.templates)


def judge(
    question: Question, answer: Any, stop_reason: str | None, rules: Rules
) -> Answer | list[str]:
    """An answer in its form, or the reasons why it cannot be used.

    Args:
        answer: the model's JSON, or its text where it is none.
        stop_reason: as the service reports it.
    """
    if stop_reason == "refusal":
        return ["the model refused to answer"]
    if stop_reason not in FINISHED:
        return [f"the answer was cut off ({stop_reason}); keep it shorter"]
    if isinstance(answer, str):
        return ["the answer is no JSON; answer with the JSON object alone"]
    try:
        parsed = FORMS[question.step].model_validate(answer)
    except ValidationError as error:
        return [f"the JSON has another form: {_place(p)}" for p in error.errors()[:5]]
    if isinstance(parsed, AttributesAnswer):
        return list(_of_attributes(question, parsed)) or parsed
    if isinstance(parsed, ReasonAnswer):
        return list(_of_reason(parsed)) or parsed
    if isinstance(parsed, DescriptionsAnswer):
        assert isinstance(question, DescriptionsQuestion)
        return list(_of_descriptions(question, parsed, rules)) or parsed
    assert isinstance(parsed, PromptsAnswer)
    return list(_of_prompts(question, parsed, rules)) or parsed


def parse_text(text: str) -> Any:
    """The JSON of an answer's text, also when a code fence surrounds it; else the text itself."""
    bare = re.sub(r"^\s*```(?:json)?\s*\n(.*)\n\s*```\s*$", r"\1", text, flags=re.DOTALL)
    try:
        value = json.loads(bare)
        # Escapes can stand for characters that no file can hold; NaN and infinity are no JSON. The
        # file of the answer must be readable, which holds the value some levels deep.
        encoded = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        from_json(b"[" * DEEPER + encoded + b"]" * DEEPER)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict | list) else text


def difference_of(answer: PromptsAnswer, classes: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Difference prompts by the data set's class names; names that fit no class are left out."""
    finder = NameFinder(classes)
    named = [(finder.name_of(entry.class_name), entry.prompts) for entry in answer.difference]
    return {name: texts for name, texts in named if name is not None}


def prompt_problems(
    text: str, named: Sequence[str], finder: NameFinder, rules: Rules
) -> Iterator[str]:
    """What is wrong with one prompt that must name the given classes."""
    shown = _quoted(text)
    if not words_of(text):
        yield "a prompt is empty"
        return
    # Names may hold joiners of their script and blanks that no line ends at.
    if not _without(text, "".join(named)).isprintable() or text != text.strip():
        yield f"{shown} has line breaks, control characters or blanks around it"
    found = finder.find(text)
    for name in named:
        if name not in found:
            yield f'{shown} does not name "{prompt_name(name)}"'
    tokens = rules.token_count(text)
    if tokens > rules.context_length:
        yield f"{shown} has {tokens} tokens, more than {rules.context_length}; shorten it"
    if rules.medium and not any(
        word.startswith(medium) for word in words_of(text) for medium in rules.medium
    ):
        yield f"{shown} does not say what kind of image it is ({', '.join(rules.medium)})"


def by_attribute(
    question: DescriptionsQuestion, answer: DescriptionsAnswer
) -> dict[str, list[str]]:
    """Phrases by the attributes that were asked for, in their order; others are left out."""
    given = {words_of(entry.attribute): entry.phrases for entry in answer.attributes}
    found = {name: given.get(words_of(name)) for name in question.attributes}
    return {name: phrases[: question.prompts] for name, phrases in found.items() if phrases}


def in_template(name: str, phrase: str, rules: Rules) -> str:
    """A phrase behind a class in its template."""
    photo = rules.templates.get(name, PLAIN_TEMPLATE).format(prompt_name(name)).rstrip(".")
    return f"{photo}, {phrase.rstrip('.')}."


def _of_descriptions(
    question: DescriptionsQuestion, answer: DescriptionsAnswer, rules: Rules
) -> Iterator[str]:
    yield from _of_name(question, answer.class_name)
    given = [words_of(entry.attribute) for entry in answer.attributes]
    kept = by_attribute(question, answer)
    for name in question.attributes:
        count, times = len(kept.get(name, ())), given.count(words_of(name))
        if times != 1:
            yield f'the attribute "{name}" stands there {times} times; give it once'
        elif count < question.prompts:
            yield f'{count} phrases of "{name}"; {question.prompts} are needed'
    phrases = [phrase for texts in kept.values() for phrase in texts]
    for phrase in phrases:
        yield from _phrase_problems(question.classes[0], phrase, rules)
    for phrase in duplicates(phrases):
        yield f"{_quoted(phrase)} occurs twice"
    yield from _of_rivals(question.classes[0], phrases, rules)


def _phrase_problems(name: str, phrase: str, rules: Rules) -> Iterator[str]:
    if not words_of(phrase):
        yield "a phrase is empty"
    elif one_line(phrase) != phrase:
        yield f"{_quoted(phrase)} has line breaks, control characters or blanks around it"
    else:
        tokens = rules.token_count(in_template(name, phrase, rules))
        if tokens > rules.context_length:
            yield (
                f"{_quoted(phrase)} makes {tokens} tokens behind the class, more than "
                f"{rules.context_length}; shorten it"
            )


def _of_rivals(name: str, phrases: Sequence[str], rules: Rules) -> Iterator[str]:
    """Phrases about another class.

    A name of one word may be any word of a sentence ("ear", "lined"), so it counts only where most
    phrases have it.
    """
    named = [set(rules.finder.find(phrase)) - {name} for phrase in phrases]
    for phrase, rivals in zip(phrases, named, strict=True):
        if long := sorted(each for each in rivals if len(words_of(prompt_name(each))) > 1):
            yield f'{_quoted(phrase)} names "{prompt_name(long[0])}", another class'
    for rival, count in Counter(each for rivals in named for each in rivals).items():
        if count > len(phrases) / 2 and len(phrases) > 1:
            yield f'{count} of {len(phrases)} phrases speak of "{prompt_name(rival)}"'


def _of_name(question: Question, given: str) -> Iterator[str]:
    if NameFinder(question.classes).name_of(given) is None:
        asked = prompt_name(question.classes[0])
        yield f'class_name is {_quoted(given)}, asked was "{asked}"'


def _of_attributes(question: Question, answer: AttributesAnswer) -> Iterator[str]:
    yield from _of_name(question, answer.class_name)
    count = len(answer.attributes)
    if not FEWEST_ATTRIBUTES <= count <= MOST_ATTRIBUTES:
        yield f"{count} attributes; give 4 to 8"
    if any(not words_of(text) or len(text) > LONGEST_PHRASE for text in answer.attributes):
        yield f"an attribute is empty or longer than {LONGEST_PHRASE} characters"
    if any(map(_has_controls, answer.attributes)):
        yield "an attribute has control characters"
    if duplicates(answer.attributes):
        yield f"{_quoted(duplicates(answer.attributes)[0])} occurs twice"


def _of_reason(answer: ReasonAnswer) -> Iterator[str]:
    if not words_of(answer.reason) or len(answer.reason) > LONGEST_REASON:
        yield f"the reason is empty or longer than {LONGEST_REASON} characters"
    if _has_controls(answer.reason):
        yield "the reason has control characters"


def _of_prompts(question: Question, answer: PromptsAnswer, rules: Rules) -> Iterator[str]:
    finder = NameFinder(question.classes)
    given = [entry.class_name for entry in answer.difference]
    difference = difference_of(answer, question.classes)
    if len(given) != 2 or len(difference) != 2:
        asked = " and ".join(f'"{prompt_name(name)}"' for name in question.classes)
        listed = ", ".join(map(_quoted, given[:MOST_SHOWN]))
        yield f"difference is for {listed or 'no class'}; it must have one entry each for {asked}"
    groups: list[tuple[str, Sequence[str], Sequence[str]]] = [
        ("commonality", question.classes, answer.commonality)
    ]
    for name, texts in difference.items():
        groups.append((f'difference of "{prompt_name(name)}"', (name,), texts))
    for title, named, texts in groups:
        if len(texts) < question.prompts:
            yield f"{len(texts)} prompts in {title}; {question.prompts} are needed"
        for text in texts:
            yield from prompt_problems(text, named, finder, rules)
    every = [text for _, _, texts in groups for text in texts]
    for text in duplicates(every):
        yield f"{_quoted(text)} occurs twice"
    if len(difference) == 2:
        first, second = ({finder.shape(t) for t in ts} for ts in difference.values())
        if first & second:
            yield "a difference prompt says the same of both classes, with the names exchanged"
        if _exchanged(difference, finder):
            yield "the difference prompts of the two classes are exchanged"


def _exchanged(difference: Mapping[str, Sequence[str]], finder: NameFinder) -> bool:
    """Whether each class is named more often in the prompts of the other.

    Told only where every prompt names both, as with names that are words of any sentence.
    """
    (a, of_a), (b, of_b) = difference.items()
    counts_a, counts_b = (list(map(finder.count, texts)) for texts in (of_a, of_b))
    if not all(count[a] and count[b] for count in (*counts_a, *counts_b)):
        return False

    def mean(counts: Sequence[Counter[str]], name: str) -> float:
        return sum(count[name] for count in counts) / max(1, len(counts))

    return mean(counts_a, a) < mean(counts_b, a) and mean(counts_b, b) < mean(counts_a, b)


def _without(text: str, characters: str) -> str:
    """A text without some characters, line breaks and other control characters excepted."""
    drop = {ord(c): None for c in characters if unicodedata.category(c) in ("Cf", "Zs", "Co")}
    return text.translate(drop)


def _has_controls(text: str) -> bool:
    """Whether a text has characters that a terminal would obey, line ends and tabs excepted."""
    return any(unicodedata.category(c) == "Cc" and c not in "\n\r\t" for c in text)


def _quoted(text: str) -> str:
    return f'"{text[:120]}"'


def _place(problem: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where or 'answer'}: {problem['msg']}"
