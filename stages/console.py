"""What a command prints: progress and notes, which can be silenced, and results."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from capt_core.errors import CaptError
from capt_core.reporter import Reporter

from . import activity

if TYPE_CHECKING:
    from rich.progress import Progress


@dataclass
class Output:
    """How much is printed, set by options of the command line.

    Attributes:
        quiet: only errors and results.
        verbose: also settings, device and versions, and tracebacks of errors.
        json: the result is one JSON document on standard output, all else is on standard error.
        inner: results are those of a command that another one runs, which has its own.
    """

    quiet: bool = False
    verbose: bool = False
    json: bool = False
    inner: bool = False


output = Output()
_bar: Progress | None = None


def first_process() -> bool:
    """Whether this process prints and writes: the only one, or the first that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """Print one line of what a stage found or wrote; nothing with --quiet."""
    if not first_process() or output.quiet:
        return
    if output.json:
        note(text)
    else:
        _print(text)


def result(document: object, *lines: str) -> None:
    """Print what a command was called for: `lines`, or with --json the document.

    Args:
        document: of plain values, as JSON has them.
        lines: the same for people; printed with --quiet, too.
    """
    if not first_process():
        return
    if output.inner:
        for line in lines:
            say(line)
    elif output.json:
        # A terminal of another encoding gets escapes, which are JSON, too.
        plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
        _print(json.dumps(document, indent=2, ensure_ascii=plain))
    elif lines:
        _print("\n".join(lines))


@contextlib.contextmanager
def inner_results() -> Iterator[None]:
    """Print results in the block as what a stage says: the running command has its own."""
    output.inner = True
    try:
        yield
    finally:
        output.inner = False


def note(text: str) -> None:
    """Print one line on standard error; nothing with --quiet."""
    if first_process() and not output.quiet:
        _print_aside(text)


def warn(text: str) -> None:
    """Print one line of what the user should look at, apart from the results."""
    note(f"warning: {text}")


def problem(text: str) -> None:
    """Print what stops this process alone, of several that have work of their own."""
    _print_aside(f"error: process {os.environ.get('RANK', '0')}: {text}")


def _print(text: str) -> None:
    """Print on standard output.

    Raises:
        CaptError: nobody takes it: a closed pipe, a full disk.
    """
    activity.printed()
    try:
        print(text, file=sys.stdout, flush=True)
    except OSError as error:
        discard(sys.stdout)
        raise CaptError(
            f"standard output cannot be written ({error.strerror}); nothing more is done: "
            "run again with another place for the output"
        ) from error


def _print_aside(text: str) -> None:
    """Print on standard error; what cannot be shown there stops no work."""
    activity.printed()
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Let what is still written to a stream that takes no more go nowhere."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def reporter() -> Reporter:
    """Progress and findings of library code, shown as the stages show theirs."""
    return Reporter(progress, say, warn, activity.doing)


def silence_broken() -> None:
    """Say what is being done where nothing has been printed for a while; see `activity`."""
    if _bar is None:
        note(activity.current())


@contextlib.contextmanager
def progress(
    what: str, total: int, note: Callable[[], str] = lambda: ""
) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes a number of finished units; threads may call it.

    A bar with time left on a terminal; elsewhere a plain line at every tenth and after every
    longer silence, with time left; nothing with --quiet. `note` gives what else is worth knowing,
    such as the money spent.
    """
    if output.quiet or not first_process():
        yield lambda _: None
    elif sys.stderr.isatty():
        with _live() as bar:
            task = bar.add_task(what, total=total, note="")
            yield lambda count: bar.update(task, advance=count, note=note())
            bar.remove_task(task)
    else:
        plain = _PlainProgress(what, total, note)
        with activity.doing(plain.line):
            yield plain.advance


@contextlib.contextmanager
def _live() -> Iterator[Progress]:
    """The display of bars; a progress within another one adds its bar to it."""
    global _bar
    if _bar is not None:
        yield _bar
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeColumn

    more = TextColumn("{task.fields[note]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeColumn())
    with Progress(*columns, more, console=Console(stderr=True), transient=True) as bar:
        _bar = bar
        try:
            yield bar
        finally:
            _bar = None


class _PlainProgress:
    """Progress as lines of text."""

    def __init__(self, what: str, total: int, note: Callable[[], str]) -> None:
        self._what, self._total, self._note = what, total, note
        self._done, self._started = 0, time.monotonic()
        self._lock = threading.Lock()

    def advance(self, count: int) -> None:
        with self._lock:
            before, self._done = self._done, self._done + count
            total = self._total
            if count and total >= 10 and before * 10 // total != self._done * 10 // total:
                note(self.line())

    def line(self) -> str:
        done, total = self._done, self._total
        passed = time.monotonic() - self._started
        left = passed / done * (total - done) if done else 0
        time_left = f"about {left:.0f} s left" if left >= 1 else ""
        since = f"{passed:.0f} s so far" if not done and passed >= 1 else ""
        count = f"{self._what}: {done}/{total}" if total else f"{self._what} ..."
        told = (count, time_left, since, self._note())
        return ", ".join(filter(None, told))
