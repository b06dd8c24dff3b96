"""One question on its way: what to send for its next attempt, and how its answer is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from capt_core.params import GeneratePrompts
from capt_core.prompts.llm.answers import AnswerStore, Attempt, Entry
from capt_core.prompts.llm.checks import FINISHED, Rules, parse_text
from capt_core.prompts.llm.costs import Spending
from capt_core.prompts.llm.instructions import Instructions
from capt_core.prompts.llm.questions import FORMS, Question
from capt_core.prompts.llm.service import Reply, Request, Service

LIVE: Final = "live"  # `Attempt.via` of a single call; else it is the id of a batch
MOST_TOKENS: Final = 32_768  # how far the limit of a truncated answer is raised


@dataclass(frozen=True)
class Task:
    """A question with its text, made only when it is asked."""

    question: Question
    text: Callable[[], str]


class Pending(BaseModel):
    """An attempt under way; `number` counts the attempts at its question before this one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: Question
    number: int
    asked: str
    parameters: dict[str, int | str]


@dataclass(frozen=True)
class Attempting:
    """What is needed to make attempts at tasks."""

    settings: GeneratePrompts
    instructions: Instructions
    rules: Rules

    def is_open(self, entry: Entry) -> bool:
        """Whether a question has no usable answer and may be asked (again)."""
        return len(entry.attempts) < self.settings.attempts and entry.accepted(self.rules) is None

    def next_request(self, task: Task, entry: Entry) -> tuple[Request, Pending]:
        """The call for the next attempt, and what is to be stored with its answer.

        After an answer that cannot be used, the question is put again together with the answer and
        what is wrong with it; after none (a refusal, a truncated answer) as it was.
        """
        question = task.question
        asked = "\n".join(entry.attempts[0].asked) if entry.attempts else task.text()
        messages = [{"role": "user", "content": asked}]
        limit = self.settings.max_tokens
        if entry.attempts:
            last = entry.attempts[-1]
            if last.stop_reason in FINISHED and last.answer not in ("", None):
                problems = "\n".join(f"- {problem}" for problem in entry.problems(self.rules))
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


@dataclass
class Run:
    """What live calls and batches have in common.

    Attributes:
        say: called with lines for the user.
        refused: questions that the service did not take, with its message, by key.
    """

    service: Service
    store: AnswerStore
    attempting: Attempting
    spending: Spending
    say: Callable[[str], None]
    refused: dict[str, str] = field(default_factory=dict)

    def keep(self, entry: Entry, pending: Pending, reply: Reply, via: str) -> Entry:
        """Write a reply to the store as it came, usable or not, and count what it cost."""
        attempt = Attempt(
            asked=pending.asked.split("\n"),
            answer=parse_text(reply.text),
            stop_reason=reply.stop_reason,
            model=reply.model,
            parameters=pending.parameters,
            tokens=reply.tokens,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            via=via,
            request_id=reply.request_id,
        )
        kept = self.store.add(entry, attempt)
        self.spending.add(reply.tokens, batch=via != LIVE)
        return kept


def _as_text(answer: Any) -> str:
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
