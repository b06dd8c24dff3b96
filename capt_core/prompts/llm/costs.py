"""Tokens and money: what was spent, and what a run would take."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from capt_core.prompts.llm.answers import Tokens


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens of one model.

    Attributes:
        input, output: list prices.
        cache_read, cache_write: factors on `input`.
        batch: factor on everything in a batch.
    """

    input: float
    output: float
    cache_read: float
    cache_write: float
    batch: float

    def of(self, tokens: Tokens, batch: bool) -> float:
        """Dollars for the tokens of some calls."""
        read = tokens.input + self.cache_read * tokens.cache_read
        read += self.cache_write * tokens.cache_write
        dollars = (self.input * read + self.output * tokens.output) / 1e6
        return dollars * (self.batch if batch else 1)


def price_of(model: str) -> Price | None:
    """List price of a model, with or without the date in its name; None if it is not known here."""
    table = _table()
    entry = table["models"].get(re.sub(r"-\d{8}$", "", model))
    if entry is None:
        return None
    return Price(**entry, cache_write=table["cache_write"], batch=table["batch"])


@dataclass
class Spending:
    """Calls and tokens of a run; several threads may add."""

    price: Price | None
    calls: int = 0
    tokens: Tokens = field(default_factory=Tokens)
    dollars: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, tokens: Tokens, batch: bool) -> None:
        with self._lock:
            self.calls += 1
            self.tokens = Tokens(
                **{k: v + getattr(tokens, k) for k, v in self.tokens.model_dump().items()}
            )
            if self.price is not None:
                self.dollars += self.price.of(tokens, batch)

    def text(self) -> str:
        """Money if the price is known, else tokens."""
        if self.price is not None:
            return f"${self.dollars:.4f}" if self.dollars < 1 else f"${self.dollars:,.2f}"
        return f"{self.tokens.input + self.tokens.output:,} tokens"


@cache
def _table() -> dict[str, Any]:
    file = resources.files("capt_core.prompts.llm") / "prices.json"
    table: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return table
