"""One process or several: rows are shared out, features and gradients are brought together."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from capt_core.errors import CaptError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Processes:
    """The processes that train one model, started by ``torchrun``; one if it was not.

    Every process knows the whole batch, forwards its share of the rows, and computes the loss
    over the features of all. The result does not depend on their number, up to rounding.

    Args:
        device: kind of device the processes use; the CPU if None.

    Raises:
        CaptError: there are several, and what lets them work together is not installed.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self._fabric: Fabric | None = None
        if self.count > 1:
            try:
                from lightning_fabric import Fabric
            except ImportError as error:
                raise CaptError(
                    "training on several processes needs the extra [distributed]; run: "
                    "pip install 'capt-stage[distributed]'"
                ) from error
            local = int(os.environ["LOCAL_WORLD_SIZE"])
            self._fabric = Fabric(
                accelerator="cpu" if device is None else device.type,
                devices=local,
                num_nodes=self.count // local,
                strategy="ddp",
            )
            self._fabric.launch()

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def share(self, rows: int) -> list[int]:
        """Rows that this process forwards, equally many on all; the last row fills up."""
        size = -(-rows // self.count)
        return [min(row, rows - 1) for row in range(self.rank * size, (self.rank + 1) * size)]

    def gather(self, part: torch.Tensor, rows: int) -> torch.Tensor:
        """All rows in order from every process's share, with gradients; [rows, ...]."""
        if self._fabric is None:
            return part
        parts = self._fabric.all_gather(part, sync_grads=True)
        assert isinstance(parts, torch.Tensor)
        return parts.flatten(0, 1)[:rows]

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Average gradients over the processes, in place."""
        if self._fabric is None:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        averaged = self._fabric.all_reduce(flat, reduce_op="mean")
        assert isinstance(averaged, torch.Tensor)
        parts = torch.split(averaged, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def wait(self) -> None:
        """Return when every process has come here."""
        if self._fabric is not None:
            self._fabric.barrier()
