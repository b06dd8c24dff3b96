"""Training to be taken up where a killed run left it, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
import torch

from capt_core.artifacts.tensors import SavedTensors
from capt_core.artifacts.work_files import read_work_file, write_work_file

LOG = "log"
_MODEL = "model."
_OPTIMIZER = "optimizer."


@dataclass(frozen=True)
class Checkpoint:
    """Where a run keeps its state, and how often.

    Attributes:
        path: safetensors file in a work folder; its name must change with anything that the
            training depends on.
        every: optimiser steps between two writes.
    """

    path: Path
    every: int

    def save(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        step: int,
        log: list[dict[str, float | None]],
    ) -> None:
        """Write the state after `step` optimiser steps, atomically.

        Raises:
            CaptError: the file cannot be written.
        """
        tensors = {f"{_MODEL}{name}": value for name, value in model.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                if value is not None:
                    tensors[f"{_OPTIMIZER}{index}.{name}"] = value
        # A tensor, not text in the header: its 100 MB are too few for the log of a long run.
        table = BytesIO()
        pl.DataFrame(log, infer_schema_length=None).write_ipc(table)
        tensors[LOG] = torch.frombuffer(bytearray(table.getvalue()), dtype=torch.uint8)
        write_work_file(self.path, tensors, {"step": step})

    def load(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        warn: Callable[[str], None] = lambda _: None,
    ) -> tuple[int, list[dict[str, float | None]]]:
        """Restore both in place; returns the finished steps and their log, (0, []) if none.

        A file that is damaged, or holds the state of another model, is set aside and named to
        `warn`; training then starts anew.
        """
        found = read_work_file(self.path, lambda file: _problem(file, model, optimizer), warn)
        if found is None:
            return 0, []
        tensors = found.tensors
        model.load_state_dict(_below(tensors, _MODEL))
        state: dict[int, dict[str, Any]] = {}
        for name, value in _below(tensors, _OPTIMIZER).items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        return found.facts["step"], _log(tensors)

    def remove(self) -> None:
        """Forget the state; the run's results are written."""
        self.path.unlink(missing_ok=True)


def _below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _log(tensors: dict[str, torch.Tensor]) -> list[dict[str, float | None]]:
    return pl.read_ipc(tensors[LOG].numpy().tobytes()).to_dicts()


def _problem(
    found: SavedTensors, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> str | None:
    """Why a checkpoint is none of this model and optimiser, or None; nothing is changed.

    Looked at before anything is restored: torch leaves a model half restored when it fails.
    """
    step = found.facts.get("step")
    if not isinstance(step, int) or step < 1 or LOG not in found.tensors:
        return "not a checkpoint"
    saved, own = _below(found.tensors, _MODEL), model.state_dict()
    if saved.keys() != own.keys() or any(not _alike(saved[name], own[name]) for name in own):
        return "the state of another model"
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    for name, value in _below(found.tensors, _OPTIMIZER).items():
        index = name.partition(".")[0]
        known = index.isdecimal() and int(index) < len(parameters)
        # Beside a value for each value of a parameter there are counts of steps.
        if not known or value.shape not in (torch.Size(()), parameters[int(index)].shape):
            return "the state of another optimiser"
    try:
        rows = len(_log(found.tensors))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError):
        rows = -1
    return None if rows == step else "its log is not that of its steps"


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype
