"""Reading what a service answers, which may be anything, without credentials."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from capt_core.prompts.llm.answers import Tokens
from capt_core.prompts.llm.failures import DETAIL, QuestionRefusedError, TransientError
from capt_core.prompts.llm.redaction import Redaction

LARGEST_COUNT = 2**53  # tokens; more is a broken number

_NAME = re.compile(r"[\w.:-]{1,100}")
_REFUSED_MEMBERS = frozenset({"invalid_request_error", "not_found_error"})


@dataclass(frozen=True)
class Reply:
    """One message of the model."""

    text: str
    stop_reason: str | None
    model: str
    tokens: Tokens
    request_id: str


class Reader:
    """Reads messages, counts and batches of the client library."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction

    def check(self, value: Any) -> None:
        """Raise TransientError for a reply that lacks what is read from it."""
        from anthropic import types

        batches = getattr(value, "data", [value])
        if isinstance(value, types.Message):
            self.reply(value)
        elif isinstance(value, types.MessageTokensCount):
            if not isinstance(value.input_tokens, int):
                raise TransientError("the answer holds no token count")
        elif not all(isinstance(batch, types.messages.MessageBatch) for batch in batches):
            raise TransientError("the answer is of another kind")
        else:
            for batch in batches:
                words = (batch.id, batch.processing_status)
                named = all(isinstance(w, str) and _NAME.fullmatch(w) for w in words)
                if self._redaction.found_in(f"{batch.id} {batch.processing_status}"):
                    raise TransientError("the batch has the key in its name")
                if not named or not isinstance(batch.created_at, datetime):
                    raise TransientError("the answer is not a batch")

    def reply(self, message: Any) -> Reply:
        """A message as a reply.

        Raises:
            TransientError: it is not a message.
        """
        try:
            usage = getattr(message, "usage", None)
            blocks = (b for b in message.content if getattr(b, "type", None) == "text")
            text = "".join(block.text for block in blocks)
            stop = message.stop_reason
            if not isinstance(stop, str) and not text:
                raise TypeError("neither a text nor a reason to stop")
            return Reply(
                text=self._redaction.clean(text),
                stop_reason=self._redaction.clean(stop) if isinstance(stop, str) else None,
                model=self._redaction.line(message.model, DETAIL),
                tokens=Tokens(
                    input=_count(usage, "input_tokens"),
                    output=_count(usage, "output_tokens"),
                    cache_read=_count(usage, "cache_read_input_tokens"),
                    cache_write=_count(usage, "cache_creation_input_tokens"),
                ),
                request_id=self._redaction.line(message.id, DETAIL),
            )
        except (AttributeError, TypeError, ValueError) as error:
            raise TransientError("the answer is not a message") from error

    def outcome(self, result: Any) -> Reply | Exception:
        """What became of a member of a batch."""
        try:
            if result.type == "succeeded":
                return self.reply(result.message)
            if result.type == "errored":
                detail = result.error.error
                refused = detail.type in _REFUSED_MEMBERS
                text = self._redaction.line(detail.message, DETAIL)
                return QuestionRefusedError(text) if refused else TransientError(text)
            return TransientError(f"the batch left it {self._redaction.line(result.type, 40)}")
        except (AttributeError, TransientError) as error:
            return TransientError(self._redaction.line(error, DETAIL))


def _count(usage: object, name: str) -> int:
    """A token count; 0 where the service gives none, for an answer is worth keeping without."""
    value = getattr(usage, name, None)
    return value if type(value) is int and 0 <= value < LARGEST_COUNT else 0
