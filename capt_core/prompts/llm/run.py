"""What live calls and batches have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from capt_core.prompts.llm.answers import AnswerStore, Attempt, Entry
from capt_core.prompts.llm.asking import Asking, Pending
from capt_core.prompts.llm.checks import parse_text
from capt_core.prompts.llm.costs import Spending
from capt_core.prompts.llm.replies import Reply
from capt_core.prompts.llm.service import Service

LIVE: Final = "live"  # `Attempt.via` of a single call; else it is the id of a batch


@dataclass
class Run:
    """Asks the questions of a data set and keeps the answers.

    Attributes:
        say: called with lines for the user.
        refused: questions that the service did not take, with its message, by key.
    """

    service: Service
    asking: Asking
    spending: Spending
    say: Callable[[str], None]
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def store(self) -> AnswerStore:
        return self.asking.answers

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
