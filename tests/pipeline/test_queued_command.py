"""A command as a job of a queue runs it: what signals do, and what is left of one that is ended."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest

from stages.queued_command import QueuedCommand


@pytest.fixture(autouse=True)
def _as_job(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a job changes in its process is undone."""
    monkeypatch.setattr(sys, "tracebacklimit", 1000, raising=False)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, before)


def test_the_warning_of_slurm_reaches_the_job_and_not_its_command() -> None:
    # Slurm sends it to all processes; what it does not end can be ended as a signal would.
    QueuedCommand(["sh", "-c", "kill -USR2 $$"], os.getcwd(), {})()


def test_a_command_that_is_killed_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="exit code -9"):
        QueuedCommand(["sh", "-c", "kill -KILL $$"], os.getcwd(), {})()
    assert capsys.readouterr().err == "error: ended by signal 9, perhaps for want of memory\n"


def test_a_job_that_is_ended_has_no_result() -> None:
    ends = "while :; do kill -TERM $PPID; sleep 0.02; done"
    with pytest.raises(SystemExit):
        QueuedCommand(["sh", "-c", ends], os.getcwd(), {})()
