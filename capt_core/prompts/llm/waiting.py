"""Lines for a user who waits."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

FIRST_LINE = 2.0  # seconds of silence before the first line; the pause doubles up to `RAREST_LINE`
RAREST_LINE = 60.0


@contextlib.contextmanager
def patience(say: Callable[[str], None], text: Callable[[], str]) -> Iterator[None]:
    """Say what is waited for when the block takes longer than two seconds, and again ever rarer.

    Args:
        say: called from a thread of its own.
        text: gives the line; an empty one is not said.
    """
    done = threading.Event()

    def watch() -> None:
        pause = FIRST_LINE
        while not done.wait(pause):
            if line := text():
                say(line)
            pause = min(RAREST_LINE, pause * 2)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
