"""Interrupted training goes on to the bit: in one process, and after a real kill."""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from safetensors import safe_open
from safetensors.torch import save_file

from capt_core.artifacts.files import atomic_path
from capt_core.params import Experts, Train
from capt_core.learning.checkpoint import Checkpoint
from capt_core.methods.capt.training import Trained, Trainer, make_optimizer
from tests.methods.capt import train_toy
from tests.methods.capt.toy import toy_files, toy_trainer

SETTINGS = {
    "sgd": Train(epochs=3, batch_size=2, accumulate=2, learning_rate=0.01, interpolation=0.5),
    "adamw": Train(epochs=3, batch_size=2, accumulate=2, optimizer="adamw", learning_rate=0.01),
}
STEPS = 6


class Stopped(Exception):  # noqa: N818
    """Stands for a kill."""


def trainer(folder: Path, settings: Train, every: int, **adapter: Any) -> Trainer:
    checkpoint = Checkpoint(folder / "checkpoint.safetensors", every)
    return toy_trainer(folder, settings, checkpoint=checkpoint, experts=Experts(), **adapter)


def interrupt(running: Trainer, after: int) -> None:
    """Train until so many steps are done, and stop there."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if done >= after:
            raise Stopped

    running.advance = advance
    with pytest.raises(Stopped):
        running.fit()


def same(found: tuple[Trainer, Trained], whole: tuple[Trainer, Trained]) -> None:
    """Weights and log are equal to the bit."""
    assert_frame_equal(found[1].log, whole[1].log, check_exact=True)
    state, expected = found[0].model.state_dict(), whole[0].model.state_dict()
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
    settings = SETTINGS[optimizer]
    whole = toy_trainer(tmp_path, settings, experts=Experts())
    expected = whole.fit()
    assert expected.log.height == whole.step_count == STEPS
    interrupt(trainer(tmp_path, settings, every), after)
    # A restart knows nothing of the global generator, and training must not ask it.
    torch.manual_seed(after)
    resumed = trainer(tmp_path, settings, every)
    told: list[int] = []
    resumed.advance = told.append
    fitted = resumed.fit()
    same((resumed, fitted), (whole, expected))
    kept = after // every * every if every else 0
    assert fitted.speed["step"].to_list() == list(range(kept + 1, STEPS + 1))
    assert told == [kept] + [1] * (STEPS - kept)


def test_training_may_be_interrupted_again_and_again(tmp_path: Path) -> None:
    settings = SETTINGS["adamw"]
    adapter: dict[str, Any] = {"alpha": "learned", "attention": "own", "form": "unsummed"}
    whole = toy_trainer(tmp_path, settings, experts=Experts(), **adapter)
    expected = whole.fit()
    for after in (1, 2, 5):
        interrupt(trainer(tmp_path, settings, 1, **adapter), after)
    resumed = trainer(tmp_path, settings, 1, **adapter)
    same((resumed, resumed.fit()), (whole, expected))


def damage(path: Path, how: str) -> None:
    if how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "noise":
        path.write_bytes(bytes(range(256)) * 8)
    elif how == "foreign":
        save_file({"a": torch.zeros(2)}, path)
    else:
        save_file({"a": torch.zeros(2)}, path, {"state": "{"})


@pytest.mark.parametrize("how", ["empty", "cut", "noise", "foreign", "no record"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, how: str) -> None:
    settings = SETTINGS["sgd"]
    whole = toy_trainer(tmp_path, settings, experts=Experts())
    expected = whole.fit()
    interrupt(trainer(tmp_path, settings, 1), 3)
    damage(tmp_path / "checkpoint.safetensors", how)
    again = trainer(tmp_path, settings, 1)
    told: list[str] = []
    again.warn = told.append
    fitted = again.fit()
    assert fitted.speed.height == STEPS
    assert len(told) == 1
    assert told[0].endswith(
        "checkpoint.safetensors: not a readable checkpoint, training starts anew"
    )
    same((again, fitted), (whole, expected))


def test_the_log_comes_back_as_it_was_and_a_long_one_fits(tmp_path: Path) -> None:
    running = trainer(tmp_path, SETTINGS["adamw"], 1)
    running.fit()
    log = running._log
    log[1] = {**log[1], "feature_loss": None, "loss": 0.1 + 0.2}
    checkpoint, optimizer = running.checkpoint, make_optimizer(running.model, running.settings)
    assert checkpoint is not None
    checkpoint.save(running.model, optimizer, STEPS, log)
    step, found = checkpoint.load(running.model, optimizer)
    assert (step, found) == (STEPS, log)
    kinds = [{name: type(value) for name, value in record.items()} for record in log]
    assert [{name: type(value) for name, value in record.items()} for record in found] == kinds
    # 160,000 steps, as of ImageNet in batches of four, do not go through the header of the file.
    long = log * 27_000
    checkpoint.save(running.model, optimizer, len(long), long)
    assert checkpoint.load(running.model, optimizer)[0] == len(long)


def test_a_checkpoint_is_removed_when_asked(tmp_path: Path) -> None:
    running = trainer(tmp_path, SETTINGS["sgd"], 4)
    running.fit()
    assert running.checkpoint is not None
    assert running.checkpoint.path.is_file()
    running.checkpoint.remove()
    running.checkpoint.remove()
    assert [path for path in tmp_path.iterdir() if path.suffix != ".png"] == []


def test_what_kills_left_half_written_goes_with_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "[toy]-seed1.safetensors", 1)
    checkpoint.path.touch()
    with atomic_path(checkpoint.path) as half_written:
        pass
    with atomic_path(tmp_path / "toy-seed2.safetensors") as of_another_run:
        pass
    half_written.touch()
    of_another_run.touch()
    (tmp_path / "toy-seed2.safetensors").unlink()
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == [of_another_run]


def steps_of(path: Path) -> int:
    """Finished steps of a checkpoint, 0 if there is none."""
    if not path.is_file():
        return 0
    with safe_open(path, framework="pt") as file:
        step: int = json.loads((file.metadata() or {})["state"])["step"]
    return step


EPOCHS = 16

# Processes that are forked from one that has imported everything start quickly.
PROCESSES = multiprocessing.get_context("forkserver")


def kill_when(folder: Path, moment: Callable[[], bool]) -> None:
    """Start the toy training in a process, and kill it as soon as something is so."""
    process = PROCESSES.Process(target=train_toy.main, args=(folder, EPOCHS))
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


def test_killed_training_ends_as_if_it_was_not(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        toy_files(folder)
    train_toy.main(whole, EPOCHS)
    PROCESSES.set_forkserver_preload(["tests.methods.capt.train_toy"])

    checkpoint = killed / "checkpoint.safetensors"
    kill_when(killed, lambda: steps_of(checkpoint) >= 1)
    first = steps_of(checkpoint)
    # While the next checkpoint is being written: a temporary file lies beside it.
    beside = set(killed.iterdir())
    kill_when(killed, lambda: steps_of(checkpoint) > first and bool(set(killed.iterdir()) - beside))
    second = steps_of(checkpoint)
    assert second > first
    kill_when(killed, lambda: steps_of(checkpoint) >= second + 2)
    third = steps_of(checkpoint)
    assert second + 2 <= third < EPOCHS * train_toy.STEPS_PER_EPOCH

    train_toy.main(killed, EPOCHS)
    steps = json.loads((killed / "steps.json").read_text())
    assert steps == list(range(third + 1, EPOCHS * train_toy.STEPS_PER_EPOCH + 1))
    for name in ("model.safetensors", "log.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    assert pl.read_csv(killed / "log.csv").height == EPOCHS * train_toy.STEPS_PER_EPOCH
    # The second kill came while a file was being written.
    Checkpoint(checkpoint, 1).remove()
    assert [path for path in killed.iterdir() if path.name.startswith(".")] == []
