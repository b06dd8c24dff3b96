"""Checkpoints as the Dassl toolbox writes them: tensors by name, and what has been taken of them.

Such a file is an archive of torch with ``state_dict``, ``epoch``, ``optimizer``, ``scheduler`` and
``val_result``. The scheduler brings objects of torch's optimisers with it; nothing is made of them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from capt_core.backbone.archive import StoredTensor
from capt_core.backbone.named import Named, open_weights
from capt_core.backbone.state_dict import WRAPPERS
from capt_core.backbone.weights_file import place
from capt_core.errors import CaptError, shown

SETTING = "fit_teacher.checkpoint"
"""The setting that names the file."""

_STATE = "state_dict"
_BESIDE_WEIGHTS = re.compile(
    r"(torch|dassl)\.optim\.[\w.]+|numpy(\._?core)?\.(multiarray\.scalar|dtype)"
)
"""Optimisers, schedulers and single numbers of numpy."""


class Checkpoint:
    """The tensors of an open checkpoint.

    Args:
        where: how messages name the file.
        tensors: by name, without what wrappers of modules put into it.
    """

    def __init__(self, where: str, tensors: Mapping[str, StoredTensor]) -> None:
        self.where = where
        self.tensors = tensors
        self.taken: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def below(self, prefix: str) -> dict[str, StoredTensor]:
        """Tensors whose names begin with a prefix, without it."""
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }

    def take(self, name: str, *sizes: int | None) -> torch.Tensor:
        """The values of a tensor, in fp32, or in fp64 if they are.

        Args:
            name: of the tensor.
            sizes: that it must have; None takes any from 1.

        Raises:
            CaptError: missing, of another shape, no real numbers, NaN or infinite values.
        """
        stored = self.tensors.get(name)
        if stored is None:
            raise CaptError(
                f"{self.where}: holds no {name}, which belongs to what it is read as; get the "
                "file of the last epoch again, or give the method that it was trained with"
            )
        shape = stored.shape
        fits = len(shape) == len(sizes) and all(
            size == (found if wanted is None else wanted) and size > 0
            for size, found, wanted in zip(shape, shape, sizes, strict=True)
        )
        if not fits:
            expected = ", ".join("any" if size is None else str(size) for size in sizes)
            raise CaptError(
                f"{self.where}: {name} has the shape {shown(list(shape))}, not [{expected}] as "
                "this backbone needs; set backbone.name to the one that it was trained on"
            )
        value = self._values(name, stored)
        self.taken.append(name)
        return value

    def load(self, name: str) -> torch.Tensor:
        """The values of a tensor of any shape that nothing is made of but a comparison."""
        return self._values(name, self.tensors[name])

    def _values(self, name: str, stored: StoredTensor) -> torch.Tensor:
        if not stored.dtype.is_floating_point:
            raise CaptError(
                f"{self.where}: {shown(name)} holds {stored.dtype}, no real numbers; get the file "
                "again"
            )
        value = stored.load()
        if broken := int((~value.isfinite()).sum()):
            raise CaptError(
                f"{self.where}: {broken} of {value.numel()} values of {shown(name)} are NaN or "
                "infinite; import the checkpoint of another epoch or run"
            )
        return value if value.dtype == torch.float64 else value.float()

    def numbered(self, before: str, behind: str = "", first: int = 0) -> int:
        """How many tensors ``<before><number><behind>`` there are, counted from `first` on.

        Raises:
            CaptError: numbers are missing between them.
        """
        pattern = re.compile(rf"{re.escape(before)}(\d{{1,6}}){re.escape(behind)}")
        found = sorted(int(match[1]) for name in self.tensors if (match := pattern.fullmatch(name)))
        for place_, number in enumerate(found, first):
            if number != place_:
                raise CaptError(
                    f"{self.where}: holds {before}{number}{behind} without "
                    f"{before}{place_}{behind}; get the file again"
                )
        return len(found)


@contextlib.contextmanager
def open_checkpoint(path: Path) -> Iterator[Checkpoint]:
    """The tensors of a checkpoint; they can be loaded until the block ends.

    Raises:
        CaptError: missing or damaged file, one with other objects than tensors, plain values,
            optimisers and schedulers, or one without weights.
    """
    where = place(path, SETTING)
    with open_weights(path, SETTING, _BESIDE_WEIGHTS) as named:
        tensors: dict[str, StoredTensor] = {}
        for each in _state(named):
            name = ".".join(part for part in each.path.split(".") if part not in WRAPPERS)
            tensors.setdefault(name, each.tensor)
        if not tensors:
            raise CaptError(f"{where}: holds no tensors; give the model.pth.tar of a trained run")
        yield Checkpoint(where, tensors)


def _state(named: list[Named]) -> list[Named]:
    """The tensors below ``state_dict``; all of a file that has no such entry."""
    inside = [
        Named(each.path.removeprefix(f"{_STATE}."), each.group, each.tensor)
        for each in named
        if each.path.startswith(f"{_STATE}.")
    ]
    return inside or [each for each in named if not each.path.startswith("optimizer.")]
