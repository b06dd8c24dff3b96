"""Processes that are killed, or that share a store: no answer lost, none asked for twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from capt_core.prompts.llm.answers import AnswerStore, Entry
from tests.conftest import PROJECT
from tests.prompts.conftest import Desk
from tests.prompts.llm_server import KEY, LlmServer, title_of
from tests.prompts.test_llm_batches import everything
from tests.prompts.write_once import pairs_of

PAIRS = 12
QUESTIONS = PAIRS + 1 + 2 * PAIRS
AT_ONCE = 3


def start(folder: Path, provider: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "tests.prompts.write_once", str(folder), provider, str(PAIRS)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return subprocess.Popen(
        words, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finished(process: subprocess.Popen[bytes]) -> None:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output.decode()
    assert KEY not in output.decode()


def entries(folder: Path) -> list[Entry]:
    found = [entry for _, entry in AnswerStore(folder).entries()]
    return [entry for entry in found if isinstance(entry, Entry)]


def check_complete(folder: Path) -> None:
    pairs = pairs_of(PAIRS)
    reasoning = Desk(folder, [name for pair in pairs for name in pair.classes]).reasoning()
    assert reasoning.missing(pairs) == []
    assert len(entries(folder)) == QUESTIONS
    assert all(len(entry.attempts) == 1 for entry in entries(folder))
    assert not (folder / "set-aside").exists()
    for path in folder.rglob("*"):
        assert path.is_dir() or KEY not in path.read_text()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_at_random_moments(server: LlmServer, tmp_path: Path, how: signal.Signals) -> None:
    server.delay = 0.01
    generator = random.Random(how)
    in_flight = 0
    for _ in range(2 if how == signal.SIGKILL else 1):
        process = start(tmp_path, "anthropic")
        moment = len(server.asked) + generator.randrange(2, QUESTIONS // 4)

        def kill(_: object, process: subprocess.Popen[bytes] = process, n: int = moment) -> None:
            if len(server.asked) == n:
                process.send_signal(how)

        server.on_ask = kill
        process.communicate(timeout=60)
        assert process.returncode != 0
        # Every answer that was followed by another question of its thread is on disk.
        stored = sum(len(entry.attempts) for entry in entries(tmp_path))
        in_flight += AT_ONCE
        assert stored >= len(server.asked) - in_flight
    server.on_ask = lambda _: None
    finished(start(tmp_path, "anthropic"))
    check_complete(tmp_path)
    # A killed process cannot store what is still on its way; an interrupted one waits for it.
    allowed = in_flight if how == signal.SIGKILL else 0
    assert len(server.asked) <= QUESTIONS + allowed


def test_two_processes_share_the_work(server: LlmServer, tmp_path: Path) -> None:
    server.delay = 0.02
    processes = [start(tmp_path, "anthropic") for _ in range(2)]
    for process in processes:
        finished(process)
    check_complete(tmp_path)
    assert Counter(map(title_of, server.asked)).most_common(1)[0][1] == 1


def test_a_batch_beside_live_calls(server: LlmServer, tmp_path: Path) -> None:
    server.delay = 0.02
    live, batch = start(tmp_path, "anthropic"), start(tmp_path, "anthropic-batch")
    finished(batch)
    live.communicate(timeout=60)  # it may have met a question in a batch and ended
    check_complete(tmp_path)
    both = everything(server) + Counter(map(title_of, server.asked))
    assert both.most_common(1)[0][1] == 1


def test_batches_killed_while_they_are_under_way(server: LlmServer, tmp_path: Path) -> None:
    server.looks = 3
    for number in (1, 3):
        process = start(tmp_path, "anthropic-batch")
        assert process.stdout is not None
        for line in process.stdout:
            if b"submitted" in line and f"msgbatch_{number}:".encode() in line:
                process.kill()
        process.wait()
        assert len(server.batches) == number
    finished(start(tmp_path, "anthropic-batch"))
    check_complete(tmp_path)
    assert set(everything(server).values()) == {1}
    assert len(server.batches) == 3
