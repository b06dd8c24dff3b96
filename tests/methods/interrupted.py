"""A training that is killed after some steps, and goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from capt_core.learning.loop import Loop
from capt_core.methods.task import Task

_Found = TypeVar("_Found")


class Killed(Exception):  # noqa: N818
    """Stands for a kill."""


def resumed(fit: Callable[[Task], _Found], task: Task, folder: Path, done: int) -> _Found:
    """What a fit gives that is taken up after it was killed.

    Args:
        fit: trains a method on a task.
        task: of the fit.
        folder: where checkpoints are kept.
        done: optimiser steps before the kill, each with a checkpoint.
    """
    kept, step = replace(task, work=folder, checkpoint_steps=1), Loop._step

    def killed(loop: Loop, *arguments: Any) -> Any:
        if len(loop._log) == done:
            raise Killed
        return step(loop, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_step", killed)
        with pytest.raises(Killed):
            fit(kept)
    return fit(kept)
