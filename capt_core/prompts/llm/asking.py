"""Questions with their answers: which are open, and what the next call says."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from capt_core.params import GeneratePrompts
from capt_core.prompts.llm.answers import AnswerStore, Entry
from capt_core.prompts.llm.checks import FINISHED, Answer, Rules
from capt_core.prompts.llm.instructions import Instructions
from capt_core.prompts.llm.questions import FORMS, AnyQuestion, Question
from capt_core.prompts.llm.service import Request

MOST_TOKENS: Final = 32_768  # how far the limit of a truncated answer is raised


@dataclass(frozen=True)
class ConfusedPair:
    """An unordered pair: class names in sorted order; how often each was taken for the other."""

    classes: tuple[str, str]
    counts: tuple[int, int]


@dataclass(frozen=True)
class Task:
    """A question to be asked.

    Attributes:
        question: of a pair or of a class alone.
        pair: that its text takes counts and reason from; None for a class alone.
    """

    question: Question
    pair: ConfusedPair | None = None


class Pending(BaseModel):
    """An attempt under way; `number` counts the attempts at its question before this one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: AnyQuestion
    number: int
    asked: str
    parameters: dict[str, int | str]


@dataclass
class Asking(ABC):
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

    @abstractmethod
    def text_of(self, task: Task) -> str:
        """What the first message about a question says."""

    def is_open(self, entry: Entry) -> bool:
        """Whether a question has no usable answer and may be asked (again)."""
        return len(entry.attempts) < self.settings.attempts and entry.accepted(self.rules) is None

    def next_request(self, task: Task, entry: Entry) -> tuple[Request, Pending]:
        """The call for the next attempt, and what is to be stored with its answer.

        After an answer that cannot be used, the question is put again together with the answer and
        what is wrong with it; after none (a refusal, a truncated answer) as it was.
        """
        question = task.question
        asked = "\n".join(entry.attempts[0].asked) if entry.attempts else self.text_of(task)
        messages = [{"role": "user", "content": asked}]
        limit = self.settings.max_tokens
        if entry.attempts:
            last = entry.attempts[-1]
            if last.stop_reason in FINISHED and last.answer not in ("", None):
                problems = listed(entry.problems(self.rules))
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

    def accepted(self, question: Question) -> Answer | None:
        """The answer to a question that can be used, None if there is none yet."""
        # An accepted answer stays accepted; other questions may have been asked meanwhile.
        if question not in self._found:
            answer = self.answers.read(question).accepted(self.rules)
            if answer is None:
                return None
            self._found[question] = answer
        return self._found[question]


def listed(phrases: Sequence[object]) -> str:
    """Phrases as a list, for a message to the model."""
    return "\n".join(f"- {phrase}" for phrase in phrases)


def _as_text(answer: Any) -> str:
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
