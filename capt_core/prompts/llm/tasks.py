"""One question on its way: what to send for its next attempt, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from capt_core.params import GeneratePrompts
from capt_core.prompts.llm.answers import Attempt, Entry
from capt_core.prompts.llm.checks import FINISHED, Rules, judge, parse_text
from capt_core.prompts.llm.instructions import Instructions, Step
from capt_core.prompts.llm.questions import FORMS, Question
from capt_core.prompts.llm.service import Reply, Request

MOST_TOKENS: Final = 32_768  # how far the limit of a truncated answer is raised


@dataclass(frozen=True)
class Task:
    """A question with its text, made only when it is asked."""

    question: Question
    text: Callable[[], str]


@dataclass(frozen=True)
class Attempting:
    """What is needed to make attempts at tasks."""

    settings: GeneratePrompts
    instructions: Instructions
    rules: Rules

    def is_open(self, entry: Entry) -> bool:
        """Whether a question has no usable answer and may be asked (again)."""
        return len(entry.attempts) < self.settings.attempts and entry.accepted(self.rules) is None

    def next_request(self, task: Task, entry: Entry) -> tuple[Request, str, dict[str, int | str]]:
        """The call for the next attempt, the text that is new in it, and its parameters.

        After an answer that cannot be used, the question is put again together with the answer and
        what is wrong with it; after none (a refusal, a truncated answer) as it was.
        """
        question = task.question
        first = "\n".join(entry.attempts[0].asked) if entry.attempts else task.text()
        messages = [{"role": "user", "content": first}]
        asked = first
        limit = self.settings.max_tokens
        if entry.attempts:
            last = entry.attempts[-1]
            if last.stop_reason in FINISHED and last.answer not in ("", None):
                verdict = judge(question, last.answer, last.stop_reason, self.rules)
                problems = "\n".join(f"- {problem}" for problem in verdict.problems)
                asked = self.instructions.fill("correction", {"problems": problems})
                messages += [
                    {"role": "assistant", "content": _as_text(last.answer)},
                    {"role": "user", "content": asked},
                ]
            cut = sum(attempt.stop_reason == "max_tokens" for attempt in entry.attempts)
            limit = max(limit, min(MOST_TOKENS, limit * 2**cut))
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
            "output_config": {"format": {"type": "json_schema", "schema": _schema(question.step)}},
        }
        return request, asked, {"max_tokens": limit}


def attempt_of(asked: str, parameters: Mapping[str, int | str], reply: Reply, via: str) -> Attempt:
    """The record of a reply."""
    return Attempt(
        asked=asked.split("\n"),
        answer=parse_text(reply.text),
        stop_reason=reply.stop_reason,
        model=reply.model,
        parameters=dict(parameters),
        tokens=reply.tokens,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        via=via,
        request_id=reply.request_id,
    )


def _as_text(answer: Any) -> str:
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)


@cache
def _schema(step: Step) -> dict[str, Any]:
    from anthropic import transform_schema

    return transform_schema(FORMS[step])
