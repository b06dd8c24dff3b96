"""What a job of a queue runs: a command line, in a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

_GRACE = 60  # seconds that an interrupted command gets to finish what it must


def queued_command(words: Sequence[str], variables: Mapping[str, str | None]) -> QueuedCommand:
    """A command line of this program, to run in the current folder."""
    return QueuedCommand(
        [sys.executable, "-m", f"{__package__}.cli", *words], os.getcwd(), variables
    )


class QueuedCommand:
    """A command line as submitit calls it: a pickle of words, which holds no environment.

    A job that reaches its time limit is queued again, as every command goes on where it was.

    Attributes:
        words: the program and its arguments.
        folder: that it runs in.
        variables: of its environment, beside those of the job; None takes one away.
    """

    def __init__(
        self, words: Sequence[str], folder: str, variables: Mapping[str, str | None]
    ) -> None:
        self.words, self.folder, self.variables = list(words), folder, dict(variables)

    def __call__(self) -> None:
        """Run it.

        Raises:
            RuntimeError: it failed, so that jobs that wait for this one are not started.
            SystemExit: it was ended from outside, and perhaps queued again: no result is left.
        """
        process = self._started()
        ended = False

        def end(*_: object) -> None:
            nonlocal ended
            ended = True
            process.terminate()

        # submitit ignores this signal, by which queues end jobs.
        signal.signal(signal.SIGTERM, end)
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
            raise
        if code and ended:
            sys.exit(code)
        if code < 0:  # it could not say so itself
            why = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
            print(f"error: ended by signal {-code}{why}", file=sys.stderr, flush=True)
        if code:
            sys.tracebacklimit = 0  # the command has said what is wrong
            raise RuntimeError(f"exit code {code}")

    def checkpoint(self) -> Any:
        """What submitit queues after the time limit: the same once more."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _started(self) -> subprocess.Popen[bytes]:
        # Slurm tells all processes of the time limit; this one then ends the command.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        try:
            return subprocess.Popen(self.words, cwd=self.folder, env=self._environment())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _environment(self) -> dict[str, str]:
        changed = {**os.environ, **self.variables}
        return {name: value for name, value in changed.items() if value is not None}
