"""Training to be taken up where a killed run left it, to the bit."""

from __future__ import annotations

import glob
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from capt_core.artifacts.files import atomic_path

LOG_VALUES, LOG_GIVEN = "log.values", "log.given"


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
        """Write the state after `step` optimiser steps, atomically."""
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                if value is not None:
                    tensors[f"optimizer.{index}.{name}"] = value
        columns = list(log[0]) if log else []
        # Tensors, not text in the header: its 100 MB are too few for the log of a long run.
        tensors[LOG_VALUES], tensors[LOG_GIVEN] = _packed(log, columns)
        whole = [name for name in columns if isinstance(log[0][name], int)]
        record = {"state": json.dumps({"step": step, "columns": columns, "whole": whole})}
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        with atomic_path(self.path) as temporary:
            # Not save_file: it writes a file of its own beside, which a kill would leave there
            # under a name that tells nobody whose it was.
            temporary.write_bytes(save(plain, record))

    def load(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[int, list[dict[str, float | None]]]:
        """Restore both in place; returns the finished steps and their log, (0, []) if none.

        A file that cannot be read counts as none: training then starts anew.
        """
        if not self.path.is_file():
            return 0, []
        try:
            with safe_open(self.path, framework="pt") as file:
                record = json.loads((file.metadata() or {})["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            values, given = tensors.pop(LOG_VALUES), tensors.pop(LOG_GIVEN)
            log = _unpacked(values, given, record["columns"], set(record["whole"]))
        except (SafetensorError, OSError, ValueError, KeyError):
            return 0, []
        prefix = "model."
        model.load_state_dict(
            {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        )
        state: dict[int, dict[str, Any]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        return int(record["step"]), log

    def remove(self) -> None:
        """Forget the state, and what a kill left half-written; the run's results are written."""
        # The temporary files of atomic_path, by the names it gives them.
        half_written = self.path.parent.glob(f".{glob.escape(self.path.name)}.*.tmp")
        for path in (self.path, *half_written):
            path.unlink(missing_ok=True)


def _packed(
    log: list[dict[str, float | None]], columns: list[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values [steps, columns] in fp64, which holds them exactly, and where there is one at all."""
    rows = [[record[name] for name in columns] for record in log]
    values = [[0.0 if value is None else value for value in row] for row in rows]
    given = [[value is not None for value in row] for row in rows]
    shape = (len(log), len(columns))
    return (
        torch.tensor(values, dtype=torch.float64).reshape(shape),
        torch.tensor(given, dtype=torch.bool).reshape(shape),
    )


def _unpacked(
    values: torch.Tensor, given: torch.Tensor, columns: list[str], whole: set[str]
) -> list[dict[str, float | None]]:
    """The log that `_packed` was given; `whole` names the columns of whole numbers."""
    return [
        {
            name: (int(value) if name in whole else value) if there else None
            for name, value, there in zip(columns, row, present, strict=True)
        }
        for row, present in zip(values.tolist(), given.tolist(), strict=True)
    ]
