"""The three steps (attributes, reason, prompts) for a set of confused pairs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from capt_core.data.splits import prompt_name
from capt_core.params import GeneratePrompts
from capt_core.prompts.llm.answers import AnswerStore, Entry
from capt_core.prompts.llm.checks import FINISHED, Answer, Rules, difference_of
from capt_core.prompts.llm.instructions import STEPS, Instructions, Step
from capt_core.prompts.llm.questions import (
    FORMS,
    AttributesAnswer,
    PromptsAnswer,
    Question,
    ReasonAnswer,
)
from capt_core.prompts.llm.service import Request
from capt_core.prompts.store import SCHEMA_VERSION, ClassEntry, PairEntry, PromptStore

MOST_TOKENS: Final = 32_768  # how far the limit of a truncated answer is raised


@dataclass(frozen=True)
class ConfusedPair:
    """An unordered pair: class names in sorted order; how often each was taken for the other."""

    classes: tuple[str, str]
    counts: tuple[int, int]


@dataclass(frozen=True)
class Task:
    """A question to be asked, with the pair that its text takes counts and reason from."""

    question: Question
    pair: ConfusedPair


class Pending(BaseModel):
    """An attempt under way; `number` counts the attempts at its question before this one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: Question
    number: int
    asked: str
    parameters: dict[str, int | str]


@dataclass
class Reasoning:
    """Questions, texts and answers of one data set.

    Attributes:
        dataset: its name, for the store of prompts made from the answers.
        domain: what its images show.
        templates: class name to its hand-written prompt template.
        words: most words a prompt may have.
        settings: model, number of prompts.
    """

    dataset: str
    domain: str
    templates: Mapping[str, str]
    words: int
    settings: GeneratePrompts
    instructions: Instructions
    rules: Rules
    answers: AnswerStore
    _found: dict[Question, Answer] = field(default_factory=dict)

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
                if self.is_open(self.answers.read(question)):
                    yield Task(question, pair)

    def is_open(self, entry: Entry) -> bool:
        """Whether a question has no usable answer and may be asked (again)."""
        return len(entry.attempts) < self.settings.attempts and entry.accepted(self.rules) is None

    def next_request(self, task: Task, entry: Entry) -> tuple[Request, Pending]:
        """The call for the next attempt, and what is to be stored with its answer.

        After an answer that cannot be used, the question is put again together with the answer and
        what is wrong with it; after none (a refusal, a truncated answer) as it was.
        """
        question = task.question
        asked = (
            "\n".join(entry.attempts[0].asked)
            if entry.attempts
            else self._text_of(question, task.pair)
        )
        messages = [{"role": "user", "content": asked}]
        limit = self.settings.max_tokens
        if entry.attempts:
            last = entry.attempts[-1]
            if last.stop_reason in FINISHED and last.answer not in ("", None):
                problems = _listed(entry.problems(self.rules))
                asked = self.instructions.fill("correction", {"problems": problems})
                messages += [
                    {"role": "assistant", "content": _as_text(last.answer)},
                    {"role": "user", "content": asked},
                ]
            cut = sum(attempt.stop_reason == "max_tokens" for attempt in entry.attempts)
            limit = max(limit, min(MOST_TOKENS, limit * 2**cut))
        schema = FORMS[question.step].model_json_schema()
        request: dict[str, Any] = {
            "model": question.model,
            "max_tokens": limit,
            # The instructions are the same in every call: the service may keep them.
            "system": [
                {
                    "type": "text",
                    "text": self.instructions.system,
                    "cache_control": {"type": "ephemeral"},
                }
            ],
            "messages": messages,
            "output_config": {"format": {"type": "json_schema", "schema": schema}},
        }
        return request, Pending(
            question=question,
            number=len(entry.attempts),
            asked=asked,
            parameters={"max_tokens": limit},
        )

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
        first, last = question.classes[0], question.classes[-1]
        values: dict[str, object] = {
            "domain": question.domain,
            "class_a": prompt_name(first),
            "class_b": prompt_name(last),
            "attributes_a": _listed(self._attributes(first) or _ATTRIBUTES),
            "attributes_b": _listed(self._attributes(last) or _ATTRIBUTES),
            "count_ab": pair.counts[0],
            "count_ba": pair.counts[1],
            "reason": self._reason(pair) or _REASON,
            "count": question.prompts,
            "words": self.words,
            "medium": ", ".join(self.rules.medium),
            "photo_a": self.templates[first].format(prompt_name(first)).rstrip("."),
        }
        return self.instructions.fill(question.step, values)

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


def _listed(phrases: Sequence[object]) -> str:
    return "\n".join(f"- {phrase}" for phrase in phrases)


def _as_text(answer: Any) -> str:
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)


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
