"""How library code reports progress and findings, without knowing where they are shown."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

Advance = Callable[[int], None]


@contextlib.contextmanager
def _no_progress(_what: str, _total: int) -> Iterator[Advance]:
    yield lambda _: None


def _nowhere(_line: str) -> None:
    return None


@dataclass(frozen=True)
class Reporter:
    """Where progress and lines of text go; nowhere by default.

    Attributes:
        progress: opens a progress display of a total; what it yields takes finished units.
        say: takes a line about what was found or written.
        warn: takes a line that needs the user's attention.
    """

    progress: Callable[[str, int], AbstractContextManager[Advance]] = _no_progress
    say: Callable[[str], None] = _nowhere
    warn: Callable[[str], None] = _nowhere


SILENT = Reporter()
