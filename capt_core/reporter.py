"""How library code reports progress and findings, without knowing where they are shown."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

Advance = Callable[[int], None]
_Given = ParamSpec("_Given")
_R = TypeVar("_R")


@contextlib.contextmanager
def _no_progress(_what: str, _total: int) -> Iterator[Advance]:
    yield lambda _: None


def _nowhere(_line: str) -> None:
    return None


def _not_shown(_what: str) -> AbstractContextManager[None]:
    return contextlib.nullcontext()


@dataclass(frozen=True)
class Reporter:
    """Where progress and lines of text go; nowhere by default.

    Attributes:
        progress: opens a progress display of a total; what it yields takes finished units.
        say: takes a line about what was found or written.
        warn: takes a line that needs the user's attention.
        doing: opens a step that may take long and has no progress; takes what it does.
    """

    progress: Callable[[str, int], AbstractContextManager[Advance]] = _no_progress
    say: Callable[[str], None] = _nowhere
    warn: Callable[[str], None] = _nowhere
    doing: Callable[[str], AbstractContextManager[None]] = _not_shown


SILENT = Reporter()

_active = ContextVar("_active", default=SILENT)


def active() -> Reporter:
    """The reporter of the running command or call, for code that is handed none."""
    return _active.get()


@contextlib.contextmanager
def reporting_to(reporter: Reporter) -> Iterator[None]:
    """Let `active` give a reporter within the block."""
    token = _active.set(reporter)
    try:
        yield
    finally:
        _active.reset(token)


def announced(
    what: Callable[_Given, str],
) -> Callable[[Callable[_Given, _R]], Callable[_Given, _R]]:
    """Report a function to the active reporter as a step, which `what` names from its arguments."""

    def decorate(call: Callable[_Given, _R]) -> Callable[_Given, _R]:
        @functools.wraps(call)
        def announcing(*args: _Given.args, **kwargs: _Given.kwargs) -> _R:
            with active().doing(what(*args, **kwargs)):
                return call(*args, **kwargs)

        return announcing

    return decorate
