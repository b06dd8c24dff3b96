"""Training to be taken up where a killed run left it, to the bit."""

from __future__ import annotations

import glob
import json
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from capt_core.artifacts.files import atomic_path

LOG = "log"


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
        # A tensor, not text in the header: its 100 MB are too few for the log of a long run.
        table = BytesIO()
        pl.DataFrame(log, infer_schema_length=None).write_ipc(table)
        tensors[LOG] = torch.frombuffer(bytearray(table.getvalue()), dtype=torch.uint8)
        record = {"state": json.dumps({"step": step})}
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
                step: int = json.loads((file.metadata() or {})["state"])["step"]
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            log = pl.read_ipc(tensors.pop(LOG).numpy().tobytes()).to_dicts()
        except (SafetensorError, pl.exceptions.PolarsError, OSError, ValueError, KeyError):
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
        return step, log

    def remove(self) -> None:
        """Forget the state, and what a kill left half-written; the run's results are written."""
        # The temporary files of atomic_path, by the names it gives them.
        half_written = self.path.parent.glob(f".{glob.escape(self.path.name)}.*.tmp")
        for path in (self.path, *half_written):
            path.unlink(missing_ok=True)
