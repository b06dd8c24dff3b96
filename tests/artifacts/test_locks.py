"""Locks: one run at a time, and none that outlives its holder."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from capt_core.artifacts import locks
from capt_core.artifacts.locks import exclusive
from tests.processes import python
from tests.refusals import refusal

_HOLDER = """
import os, signal, sys
from pathlib import Path
from capt_core.artifacts.locks import exclusive

with exclusive(Path(sys.argv[1]), "train"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def hold(path: Path) -> None:
    with exclusive(path, "capt-stage train"):
        pass


def test_a_second_run_is_refused_while_the_first_one_runs(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "train.lock"
    with exclusive(path, "capt-stage train"):
        message = refusal(hold, path)
        assert message.startswith("capt-stage train is running already")
        assert f"process {os.getpid()} holds {path}" in message
        hold(tmp_path / "runs" / "evaluate.lock")
        assert path.exists()
    assert list(path.parent.iterdir()) == []
    hold(path)


def test_the_lock_of_a_killed_run_is_free(tmp_path: Path) -> None:
    path = tmp_path / "train.lock"
    assert python("-c", _HOLDER, path).returncode == -signal.SIGKILL
    assert path.exists()
    hold(path)
    assert not path.exists()


def test_without_locks_in_the_system_runs_are_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    with exclusive(tmp_path / "train.lock", "train"):
        hold(tmp_path / "train.lock")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file in the way")
    assert "cannot write" in refusal(hold, tmp_path / "runs" / "train.lock")
