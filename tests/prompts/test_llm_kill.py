"""Processes that are killed, or that share a store: no answer lost, none asked for twice."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import time
from collections import Counter
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from capt_core.prompts.llm.answers import AnswerStore, Entry
from tests.processes import PROCESSES
from tests.prompts import write_once
from tests.prompts.conftest import Desk
from tests.prompts.llm_server import KEY, LlmServer, title_of
from tests.prompts.test_llm_batches import everything

PAIRS = 12
QUESTIONS = PAIRS + 1 + 2 * PAIRS
AT_ONCE = 3


_numbers = itertools.count()


def start(server: LlmServer, folder: Path, provider: str) -> tuple[ForkServerProcess, Path]:
    """A process that has prompts written, and the file with what it says."""
    folder.mkdir(exist_ok=True)
    output = folder.parent / f"output{next(_numbers)}"
    output.touch()
    arguments = (server.url, folder, provider, PAIRS, output)
    process = PROCESSES.Process(target=write_once.main, args=arguments)
    process.start()
    return process, output


def finish(process: ForkServerProcess, output: Path) -> None:
    process.join(60)
    assert process.exitcode == 0, output.read_text()
    assert KEY not in output.read_text()


def entries(folder: Path) -> list[Entry]:
    found = [entry for _, entry in AnswerStore(folder).entries()]
    return [entry for entry in found if isinstance(entry, Entry)]


def check_complete(folder: Path) -> None:
    pairs = write_once.pairs_of(PAIRS)
    reasoning = Desk(folder, [name for pair in pairs for name in pair.classes]).reasoning()
    assert reasoning.missing(pairs) == []
    assert len(entries(folder)) == QUESTIONS
    assert all(len(entry.attempts) == 1 for entry in entries(folder))
    assert not (folder / "set-aside").exists()
    for path in folder.rglob("*"):
        assert path.is_dir() or KEY not in path.read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "answers"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_at_random_moments(server: LlmServer, folder: Path, how: signal.Signals) -> None:
    server.delay = 0.01
    generator = random.Random(how)
    in_flight = 0
    for _ in range(2 if how == signal.SIGKILL else 1):
        process, _ = start(server, folder, "anthropic")
        moment = len(server.asked) + generator.randrange(2, QUESTIONS // 4)

        def kill(_: object, process: ForkServerProcess = process, n: int = moment) -> None:
            if len(server.asked) == n:
                assert process.pid
                os.kill(process.pid, how)

        server.on_ask = kill
        process.join(60)
        assert process.exitcode != 0
        # Every answer that was followed by another question of its thread is on disk.
        stored = sum(len(entry.attempts) for entry in entries(folder))
        in_flight += AT_ONCE
        assert stored >= len(server.asked) - in_flight
    server.on_ask = lambda _: None
    finish(*start(server, folder, "anthropic"))
    check_complete(folder)
    # A killed process cannot store what is still on its way; an interrupted one waits for it.
    allowed = in_flight if how == signal.SIGKILL else 0
    assert len(server.asked) <= QUESTIONS + allowed


def test_two_processes_share_the_work(server: LlmServer, folder: Path) -> None:
    server.delay = 0.02
    for started in [start(server, folder, "anthropic") for _ in range(2)]:
        finish(*started)
    check_complete(folder)
    assert Counter(map(title_of, server.asked)).most_common(1)[0][1] == 1


def test_a_batch_beside_live_calls(server: LlmServer, folder: Path) -> None:
    server.delay = 0.02
    live, _ = start(server, folder, "anthropic")
    finish(*start(server, folder, "anthropic-batch"))
    live.join(60)  # it may have met a question in a batch and ended
    check_complete(folder)
    both = everything(server) + Counter(map(title_of, server.asked))
    assert both.most_common(1)[0][1] == 1


def test_batches_killed_while_they_are_under_way(server: LlmServer, folder: Path) -> None:
    server.looks = 3
    for number in (1, 3):
        process, output = start(server, folder, "anthropic-batch")
        while not re.search(rf"msgbatch_{number}: .* submitted", output.read_text()):
            assert process.is_alive()
            time.sleep(0.001)
        process.kill()
        process.join()
        assert len(server.batches) == number
    finish(*start(server, folder, "anthropic-batch"))
    check_complete(folder)
    assert set(everything(server).values()) == {1}
    assert len(server.batches) == 3
