"""What is said while a command is silent, and how progress is shown without a terminal."""

from __future__ import annotations

import threading

import pytest

from capt_core.reporter import SILENT, Reporter, active, announced, reporting_to
from stages import activity, console


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is broken at once."""
    for name in ("FIRST", "AGAIN", "_LOOK"):
        monkeypatch.setattr(activity, name, 0.001)


def test_the_innermost_step_is_said() -> None:
    said: list[str] = []
    told = threading.Event()

    def say() -> None:
        said.append(activity.current())
        told.set()

    with activity.broken_silence(say), activity.doing("train"):
        with activity.doing("loading the weights"):
            told.clear()
            assert told.wait(60)
            assert said[-1].startswith("loading the weights ...")
        told.clear()
        assert told.wait(60)
    assert said[-1].startswith("train ...")


def test_a_step_that_cannot_be_said_stops_nothing() -> None:
    tried = threading.Event()

    def say() -> None:
        tried.set()
        raise ValueError

    with activity.broken_silence(say), activity.doing("work"):
        assert tried.wait(60)
        tried.clear()
        assert tried.wait(60)


def test_progress_is_said_in_silence_and_at_every_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with activity.broken_silence(console.silence_broken), console.progress("read", 20) as advance:
        for _ in range(20):
            advance(1)
        assert "read: 20/20" in activity.current()
    printed = capsys.readouterr().err
    assert [f"read: {count}/20" in printed for count in range(2, 21, 2)] == [True] * 10


def test_a_bar_within_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with console.progress("classified", 2) as outer, console.progress("encoded texts", 2) as inner:
        inner(2)
        outer(2)
        assert console._bar is not None
        assert [task.completed for task in console._bar.tasks] == [2, 2]
    assert console._bar is None


def test_the_active_reporter_is_told_of_announced_calls() -> None:
    begun: list[str] = []

    def doing(what: str):  # type: ignore[no-untyped-def]
        begun.append(what)
        return SILENT.doing(what)

    @announced(lambda name, times: f"loading {name}")
    def load(name: str, times: int) -> str:
        return name * times

    assert load("a", 2) == "aa"
    with reporting_to(Reporter(doing=doing)):
        assert active().doing is doing
        assert load("b", times=1) == "b"
    assert active() is SILENT
    assert begun == ["loading b"]


def test_nothing_is_said_while_a_command_waits_for_others() -> None:
    said: list[str] = []
    with activity.doing("loading libraries"):
        with activity.waiting(), pytest.raises(IndexError):
            activity.current()
        said.append(activity.current())
    assert said == ["loading libraries ..."]
