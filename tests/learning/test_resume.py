"""Interrupted training goes on to the bit: in one process, and after a real kill."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from safetensors.torch import save_file

from capt_core.artifacts.tensors import load_sealed
from capt_core.artifacts.work_files import write_work_file
from capt_core.learning.checkpoint import Checkpoint
from capt_core.learning.loop import Loop, Trained
from capt_core.learning.optimisation import make_optimizer
from tests.learning import train_toy
from tests.learning.toy import interrupt, optimisation, toy_loop
from tests.processes import PROCESSES

SETTINGS = {
    "sgd": optimisation(epochs=3, accumulate=2, momentum=0.9, weight_decay=0.01),
    "adamw": optimisation(epochs=3, accumulate=2, optimizer="adamw"),
}
STEPS = 6
FILE = "checkpoint.safetensors"


def kept_loop(folder: Path, optimizer: str, every: int = 1) -> Loop:
    return toy_loop(SETTINGS[optimizer], Checkpoint(folder / FILE, every))


def same(found: tuple[Loop, Trained], whole: tuple[Loop, Trained]) -> None:
    """Weights and log are equal to the bit."""
    assert_frame_equal(found[1].log, whole[1].log, check_exact=True)
    state, expected = found[0].module.state_dict(), whole[0].module.state_dict()
    assert list(state) == list(expected)
    for name, value in state.items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(
    ("every", "after"), [(1, 1), (1, 3), (2, 3), (2, 4), (4, 3), (1, STEPS), (0, 3)]
)
def test_interrupted_training_ends_as_if_it_was_not(
    tmp_path: Path, optimizer: str, every: int, after: int
) -> None:
    whole = toy_loop(SETTINGS[optimizer])
    expected = whole.fit()
    assert expected.log.height == whole.step_count == STEPS
    interrupt(kept_loop(tmp_path, optimizer, every), after)
    # A restart knows nothing of the global generator, and training must not ask it.
    torch.manual_seed(after)
    resumed = kept_loop(tmp_path, optimizer, every)
    advanced: list[int] = []
    resumed.advance = advanced.append
    trained = resumed.fit()
    same((resumed, trained), (whole, expected))
    kept = after // every * every if every else 0
    assert trained.speed["step"].to_list() == list(range(kept + 1, STEPS + 1))
    assert advanced == [kept] + [1] * (STEPS - kept)


def damage(path: Path, how: str) -> None:
    if how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "noise":
        path.write_bytes(bytes(range(256)) * 8)
    elif how == "bit":
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)
    elif how == "foreign":
        save_file({"a": torch.zeros(2)}, path)
    elif how == "another model":
        other = Checkpoint(path, 1)
        model = torch.nn.Linear(2, 2)
        other.save(model, torch.optim.SGD(model.parameters()), 3, [{"loss": 0.0}] * 3)
    else:
        found = load_sealed(path)
        tensors, facts = dict(found.tensors), dict(found.facts)
        if how == "another shape":
            tensors["model.weight"] = torch.zeros(4)
        elif how == "another momentum":
            tensors["optimizer.0.momentum_buffer"] = torch.zeros(4)
        elif how == "log of other steps":
            facts["step"] += 1
        elif how == "no log":
            tensors["log"] = torch.zeros(9, dtype=torch.uint8)
        else:
            facts = {"step": how}
        write_work_file(path, tensors, facts)


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("empty", "not a readable safetensors file"),
        ("cut", "damaged, its content is not what was written"),
        ("bit", "damaged, its content is not what was written"),
        ("noise", "not a readable safetensors file"),
        ("foreign", "not written by this project, or by an earlier version: no XXH3 digest"),
        ("another model", "the state of another model"),
        ("another shape", "the state of another model"),
        ("another momentum", "the state of another optimiser"),
        ("log of other steps", "its log is not that of its steps"),
        ("no log", "its log is not that of its steps"),
        ("no step", "not a checkpoint"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_set_aside(
    tmp_path: Path, how: str, problem: str
) -> None:
    whole = toy_loop(SETTINGS["sgd"])
    expected = whole.fit()
    interrupt(kept_loop(tmp_path, "sgd"), 3)
    damage(tmp_path / FILE, how)
    again = kept_loop(tmp_path, "sgd")
    warnings: list[str] = []
    again.warn = warnings.append
    trained = again.fit()
    assert trained.speed.height == STEPS
    (warning,) = warnings
    assert warning.endswith(
        f"{FILE}: {problem}; set aside as {FILE}.damaged, what it held is made anew"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE, f"{FILE}.damaged"]
    same((again, trained), (whole, expected))


def test_the_log_comes_back_as_it_was_and_a_long_one_fits(tmp_path: Path) -> None:
    running = kept_loop(tmp_path, "adamw")
    running.fit()
    log = running._log
    log[1] = {**log[1], "draw": None, "loss": 0.1 + 0.2}
    checkpoint, optimizer = running.checkpoint, make_optimizer(running.groups, running.settings)
    assert checkpoint is not None
    checkpoint.save(running.module, optimizer, STEPS, log)
    step, found = checkpoint.load(running.module, optimizer)
    assert (step, found) == (STEPS, log)
    kinds = [{name: type(value) for name, value in record.items()} for record in log]
    assert [{name: type(value) for name, value in record.items()} for record in found] == kinds
    # 160,000 steps, as of ImageNet in batches of four, do not go through the header of the file.
    # CAPT's log has 24 columns.
    wide = [{**record, **{f"column{n}": 0.1 for n in range(16)}} for record in log]
    long = wide * 27_000
    checkpoint.save(running.module, optimizer, len(long), long)
    assert checkpoint.load(running.module, optimizer)[0] == len(long)


def test_a_checkpoint_is_removed_when_asked(tmp_path: Path) -> None:
    checkpoint = kept_loop(tmp_path, "sgd", 4).fit().checkpoint
    assert checkpoint is not None
    assert checkpoint.path.is_file()
    checkpoint.remove()
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


def steps_of(path: Path | None) -> int:
    """Finished steps of a checkpoint, 0 if there is none."""
    if path is None or not path.is_file():
        return 0
    step: int = load_sealed(path).facts["step"]
    return step


STEPS_KILLED = train_toy.EPOCHS * train_toy.STEPS_PER_EPOCH


def kill_when(training: str, folder: Path, moment: Callable[[], bool]) -> None:
    """Start a training in a process, and kill it as soon as something is so."""
    process = PROCESSES.Process(target=train_toy.main, args=(training, folder))
    process.start()
    try:
        while not moment():
            assert process.exitcode is None, "training ended before the kill"
            time.sleep(0.0005)
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (folder / "model.safetensors").exists()


@pytest.mark.parametrize("training", ["capt", "coop"])
def test_killed_training_ends_as_if_it_was_not(tmp_path: Path, training: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train_toy.main(training, whole)
    work = killed / "train"
    work.mkdir(parents=True)

    def checkpoint() -> Path | None:
        return next(work.glob("[!.]*"), None)

    kill_when(training, killed, lambda: steps_of(checkpoint()) >= 1)
    first, before = steps_of(checkpoint()), set(work.iterdir())
    # While the next checkpoint is being written: a temporary file lies beside it.
    kill_when(
        training,
        killed,
        lambda: steps_of(checkpoint()) > first and bool(set(work.iterdir()) - before),
    )
    second = steps_of(checkpoint())
    assert second > first
    kill_when(training, killed, lambda: steps_of(checkpoint()) >= second + 2)
    third = steps_of(checkpoint())
    assert second + 2 <= third < STEPS_KILLED

    train_toy.main(training, killed)
    steps = json.loads((killed / "steps.json").read_text())
    assert steps == list(range(third + 1, STEPS_KILLED + 1))
    for name in ("model.safetensors", "log.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    assert pl.read_csv(killed / "log.csv").height == STEPS_KILLED
    # The second kill came while a file was being written, and what it left was removed.
    assert not any(work.glob(".*"))
