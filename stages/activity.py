"""What a command is doing, said where nothing has been printed for a while."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

FIRST = 1.5  # seconds of silence before it is said what is being done
AGAIN = 10.0  # seconds of silence before that is said again
_LOOK = 0.25  # seconds between two looks at the clock


class _Step:
    def __init__(self, what: str | Callable[[], str]) -> None:
        self.what, self.started, self.said = what, time.monotonic(), False

    def line(self) -> str:
        if callable(self.what):
            return self.what()
        passed = time.monotonic() - self.started
        return f"{self.what} ... {passed:.0f} s" if self.said else f"{self.what} ..."


_steps: list[_Step] = []
_printed_at = 0.0


def printed() -> None:
    """Note that a line is printed."""
    global _printed_at
    _printed_at = time.monotonic()


@contextlib.contextmanager
def doing(what: str | Callable[[], str]) -> Iterator[None]:
    """A step that may take long; `what` is its line, or gives it."""
    step = _Step(what)
    _steps.append(step)
    try:
        yield
    finally:
        _steps.remove(step)


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Say nothing in the block: what happens in it is for others to begin."""
    steps, _steps[:] = list(_steps), []
    try:
        yield
    finally:
        _steps[:] = steps


def current() -> str:
    """What is being done at this moment, as a line."""
    step = _steps[-1]
    line, step.said = step.line(), True
    return line


@contextlib.contextmanager
def broken_silence(say: Callable[[], None]) -> Iterator[None]:
    """Call `say` during the block whenever nothing has been printed for a while.

    It is called in a thread of its own, soon after the start of a step that prints nothing, then
    at intervals.
    """
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_LOOK):
            steps = list(_steps)
            if steps and time.monotonic() - _printed_at > (AGAIN if steps[-1].said else FIRST):
                # A line that cannot be made is no reason to stop the work.
                with contextlib.suppress(Exception):
                    say()

    printed()
    threading.Thread(target=watch, name="activity", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
