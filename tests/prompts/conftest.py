"""A language model on this machine, and questions for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from capt_core.params import GeneratePrompts
from capt_core.prompts.llm import batches
from capt_core.prompts.llm.answers import AnswerStore
from capt_core.prompts.llm.asking import ConfusedPair
from capt_core.prompts.llm.checks import Rules
from capt_core.prompts.llm.costs import Spending
from capt_core.prompts.llm.instructions import load_instructions
from capt_core.prompts.llm.reasoning import Reasoning
from capt_core.prompts.llm.writing import write_prompts
from tests.prompts.llm_server import KEY, LlmServer, running

NAMES = ("banded", "lined", "polka-dotted")
PAIRS = [
    ConfusedPair(("banded", "lined"), (7, 3)),
    ConfusedPair(("lined", "polka-dotted"), (0, 1)),
]
STEPS = [
    ["1 banded", "1 lined", "1 polka-dotted"],
    ["2 banded/lined", "2 lined/polka-dotted"],
    ["3 banded/lined", "3 lined/polka-dotted"],
]
"""The questions about them, step by step."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LlmServer]:
    """The server that the client is pointed at; waiting times are short."""
    with running() as found:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", found.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        monkeypatch.setattr("anthropic._base_client.INITIAL_RETRY_DELAY", 0.01)
        monkeypatch.setattr("anthropic._base_client.MAX_RETRY_DELAY", 0.02)
        monkeypatch.setattr(batches, "FIRST_LOOK", 0.01)
        monkeypatch.setattr(batches, "OTHER_PROCESS", 0.01)
        yield found


def rules(limit: int = 77) -> Rules:
    """Tokens are words here."""
    return Rules(lambda text: len(text.split()) + 2, limit, ("texture", "photo"))


class Desk:
    """Has prompts written for the pairs above and remembers what was said."""

    def __init__(self, folder: Path, names: Sequence[str] = NAMES) -> None:
        self.folder = folder
        self.names = names
        self.said: list[str] = []
        self.warned: list[str] = []

    def reasoning(self, limit: int = 77, **settings: Any) -> Reasoning:
        chosen = {"provider": "anthropic", "retries": 3, "timeout": 1.0, "concurrency": 1}
        return Reasoning(
            dataset="dtd",
            domain="photographs of textures",
            templates=dict.fromkeys(self.names, "{} texture."),
            words=40,
            settings=GeneratePrompts.model_validate({**chosen, **settings}),
            instructions=load_instructions(),
            rules=rules(limit),
            answers=AnswerStore(self.folder, self.warned.append),
        )

    def write(self, **settings: Any) -> Spending:
        reasoning = self.reasoning(**settings)
        return write_prompts(reasoning, PAIRS, KEY, quiet, self.said.append)


@contextlib.contextmanager
def quiet(what: str, total: int, note: Callable[[], str]) -> Iterator[Callable[[int], None]]:
    yield lambda _: None


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "answers")
