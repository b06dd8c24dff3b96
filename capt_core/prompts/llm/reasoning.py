"""The three steps (attributes, reason, prompts) for a set of confused pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from capt_core.params import GeneratePrompts
from capt_core.prompts.llm.answers import AnswerStore
from capt_core.prompts.llm.checks import Answer, Rules, difference_of
from capt_core.prompts.llm.instructions import STEPS, Instructions, Step
from capt_core.prompts.llm.questions import (
    AttributesAnswer,
    Context,
    PromptsAnswer,
    Question,
    ReasonAnswer,
    wording,
)
from capt_core.prompts.llm.tasks import Attempting, Task
from capt_core.prompts.store import SCHEMA_VERSION, ClassEntry, PairEntry, PromptStore


@dataclass(frozen=True)
class ConfusedPair:
    """An unordered pair: class names in sorted order; how often each was taken for the other."""

    classes: tuple[str, str]
    counts: tuple[int, int]


Answerer = Callable[[Step, Sequence[Task]], None]
"""Has tasks of one step answered, as far as possible."""


@dataclass
class Reasoning:
    """Questions, texts and answers of one data set.

    Attributes:
        dataset: its name, for the store of prompts made from the answers.
        domain: what its images show.
        context: fills the instruction texts.
        settings: model, number of prompts.
    """

    dataset: str
    domain: str
    context: Context
    settings: GeneratePrompts
    instructions: Instructions
    rules: Rules
    answers: AnswerStore
    attempting: Attempting = field(init=False)
    _found: dict[Question, Answer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.attempting = Attempting(self.settings, self.instructions, self.rules)

    @property
    def source(self) -> str:
        """What the table of prompts calls these answers."""
        return f"anthropic/{self.settings.model}"

    def question(self, step: Step, classes: Sequence[str]) -> Question:
        return Question(
            step=step,
            model=self.settings.model,
            instructions=self.instructions.version(step),
            domain=self.domain,
            classes=tuple(sorted(classes)),
            prompts=self.settings.prompts if step == "prompts" else 0,
        )

    def written(self, pairs: Sequence[ConfusedPair]) -> PromptStore:
        """The answers about the pairs in the form of a store of written prompts."""
        classes: dict[str, ClassEntry] = {}
        entries = []
        for pair in pairs:
            answer = self._prompts(pair)
            if answer is None:
                continue
            for name in pair.classes:
                attributes = self._attributes(name)
                if attributes:
                    classes[name] = ClassEntry(attributes=list(attributes))
            entries.append(
                PairEntry(
                    classes=pair.classes,
                    reason=self._reason(pair) or "",
                    commonality=answer.commonality,
                    difference={
                        name: list(texts)
                        for name, texts in difference_of(answer, pair.classes).items()
                    },
                )
            )
        return PromptStore(
            schema_version=SCHEMA_VERSION,
            dataset=self.dataset,
            domain=self.domain,
            source=self.source,
            classes=dict(sorted(classes.items())),
            pairs=entries,
        )

    def missing(self, pairs: Sequence[ConfusedPair]) -> list[ConfusedPair]:
        """Pairs without usable prompts."""
        return [pair for pair in pairs if self._prompts(pair) is None]

    def run(self, pairs: Sequence[ConfusedPair], answer: Answerer) -> None:
        """Ask what is missing, step by step; what gets no usable answer is left missing."""
        for step in STEPS:
            if tasks := list(self.tasks(step, pairs)):
                answer(step, tasks)

    def tasks(
        self, step: Step, pairs: Sequence[ConfusedPair], planned: bool = False
    ) -> Iterator[Task]:
        """Open tasks of a step for the pairs that have no prompts yet, each question once.

        Args:
            planned: with placeholders for earlier answers that are not there yet; else a pair
                whose earlier steps are not answered has no task, since its text depends on them.
        """
        seen: set[Question] = set()
        for pair in self.missing(pairs):
            questions = self._questions(pair)
            earlier = [q for q in questions if STEPS.index(q.step) < STEPS.index(step)]
            if not planned and any(self._accepted(question) is None for question in earlier):
                continue
            for question in questions:
                if question.step != step or question in seen:
                    continue
                seen.add(question)
                if self.attempting.is_open(self.answers.read(question)):
                    yield Task(question, partial(self._text_of, question, pair))

    def failures(self, pairs: Sequence[ConfusedPair]) -> Mapping[Question, str]:
        """For every pair without prompts the first question without a usable answer, and why."""
        found: dict[Question, str] = {}
        for pair in self.missing(pairs):
            for question in self._questions(pair):
                entry = self.answers.read(question)
                if entry.accepted(self.rules) is None:
                    found[question] = "; ".join(entry.problems(self.rules)[:3])
                    break
        return found

    def _questions(self, pair: ConfusedPair) -> list[Question]:
        """The questions about a pair, in the order of the steps."""
        attributes = [self.question("attributes", (name,)) for name in pair.classes]
        return attributes + [self.question(step, pair.classes) for step in STEPS[1:]]

    def _text_of(self, question: Question, pair: ConfusedPair) -> str:
        attributes = {name: self._attributes(name) or _ATTRIBUTES for name in question.classes}
        reason = self._reason(pair) or _REASON if question.step == "prompts" else ""
        return wording(question, self.instructions, self.context, attributes, pair.counts, reason)

    def _attributes(self, name: str) -> Sequence[str] | None:
        answer = self._accepted(self.question("attributes", (name,)))
        return answer.attributes if isinstance(answer, AttributesAnswer) else None

    def _reason(self, pair: ConfusedPair) -> str | None:
        answer = self._accepted(self.question("reason", pair.classes))
        return answer.reason if isinstance(answer, ReasonAnswer) else None

    def _prompts(self, pair: ConfusedPair) -> PromptsAnswer | None:
        answer = self._accepted(self.question("prompts", pair.classes))
        return answer if isinstance(answer, PromptsAnswer) else None

    def _accepted(self, question: Question) -> Answer | None:
        # An accepted answer stays accepted; other questions may have been asked meanwhile.
        if question not in self._found:
            answer = self.answers.read(question).accepted(self.rules)
            if answer is None:
                return None
            self._found[question] = answer
        return self._found[question]


# Placeholders of the length that answers have; only an estimate asks with them.
_ATTRIBUTES = ("an attribute of about the length that such phrases have in answers",) * 6
_REASON = " ".join(["a sentence about the shared traits and the conditions"] * 5)


def confused_pairs(rows: Sequence[tuple[str, str, int]]) -> list[ConfusedPair]:
    """Unordered pairs from rows (class, partner, images of the class taken for the partner).

    A direction that is not among the rows counts 0. Sorted by names.
    """
    counts: dict[tuple[str, str], list[int]] = {}
    for name, paired, count in rows:
        first, second = sorted((name, paired))
        counts.setdefault((first, second), [0, 0])[0 if name == first else 1] += count
    return [ConfusedPair(pair, (ab, ba)) for pair, (ab, ba) in sorted(counts.items())]
