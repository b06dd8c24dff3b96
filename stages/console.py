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


@dataclass
class Output:
    """How much is printed, set by options of the command line.

    Attributes:
        quiet: only errors and results.
        verbose: also settings, device and versions, and tracebacks of errors.
        json: the result is one JSON document on standard output, all else is on standard error.
    """

    quiet: bool = False
    verbose: bool = False
    json: bool = False


output = Output()


def first_process() -> bool:
    """Whether this process prints and writes: the only one, or the first that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """Print one line of what a stage found or wrote; nothing with --quiet."""
    if first_process() and not output.quiet:
        print(text, file=sys.stderr if output.json else sys.stdout, flush=True)


def result(document: object, *lines: str) -> None:
    """Print what a command was called for: `lines`, or with --json the document.

    Args:
        document: of plain values, as JSON has them.
        lines: the same for people; printed with --quiet, too.
    """
    if not first_process():
        return
    if output.json:
        print(json.dumps(document, indent=2, ensure_ascii=False), flush=True)
    else:
        print(*lines, sep="\n", end="\n" if lines else "", flush=True)


def note(text: str) -> None:
    """Print one line on standard error; nothing with --quiet."""
    if first_process() and not output.quiet:
        print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Print one line of what the user should look at, apart from the results."""
    note(f"warning: {text}")


@contextlib.contextmanager
def progress(
    what: str, total: int, note: Callable[[], str] = lambda: ""
) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes a number of finished units; threads may call it.

    A bar with time left on a terminal; elsewhere a plain line at every tenth, with time left;
    nothing with --quiet. `note` gives what else is worth knowing, such as the money spent.
    """
    if output.quiet or not first_process():
        yield lambda _: None
        return
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=total, note="")
            yield lambda count: bar.update(task, advance=count, note=note())
        return

    done = 0
    started = time.monotonic()
    lock = threading.Lock()

    def advance(count: int) -> None:
        nonlocal done
        with lock:
            before, done = done, done + count
            if count and total >= 10 and before * 10 // total != done * 10 // total:
                left = (time.monotonic() - started) / done * (total - done)
                more = [f"about {left:.0f} s left" if left >= 1 else "", note()]
                print(
                    ", ".join(filter(None, (f"{what}: {done}/{total}", *more))),
                    file=sys.stderr,
                    flush=True,
                )

    yield advance
