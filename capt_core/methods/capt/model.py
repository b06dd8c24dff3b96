"""CAPT on a frozen image tower: adapters at block inputs, experts on the class token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from capt_core.errors import CaptError
from capt_core.methods.capt.adapter import DiffMannerAdapter
from capt_core.methods.capt.experts import MultiGranularityDiscrepancyExpert


@dataclass(frozen=True)
class CaptSettings:
    """What fixes the shape of the trainable part; saved with the model.

    Attributes:
        adapter_blocks: how many of the tower's last blocks carry an adapter; None means all.
        kernel_size: of the depth-wise convolutions.
        active_experts: k of TopK (eq. 11).
        mask_rate: share of expert inputs replaced in training.
        initial_alpha: running mean of alpha before any was seen: s (eq. 13 with c = 1).
    """

    adapter_blocks: int | None
    kernel_size: int
    active_experts: int
    mask_rate: float
    initial_alpha: float


class CaptModel(nn.Module):
    """A frozen open_clip vision transformer with the Diff-Manner Adapter and MGDE.

    The tower is used, not owned: its tensors are no parameters of this module, so they are
    neither trained nor saved. At step 0 the features equal the tower's own exactly.

    Args:
        tower: `clip.visual`, an open_clip VisionTransformer, frozen.
        commonality: K-means centres of the commonality prompts, [M, d_text].
        difference: K-means centres of the difference prompts, [M, d_text].
        settings: shape of the trainable part.
        seed: of its random starts.

    Raises:
        CaptError: the tower is no plain vision transformer or its patch grid is not square.
    """

    def __init__(
        self,
        tower: Any,
        commonality: torch.Tensor,
        difference: torch.Tensor,
        settings: CaptSettings,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_tower(tower)
        blocks = tower.transformer.resblocks
        wanted = len(blocks) if settings.adapter_blocks is None else settings.adapter_blocks
        if not 0 <= wanted <= len(blocks):
            raise CaptError(
                f"train.adapter_blocks: {wanted} asked for, the tower has {len(blocks)} blocks"
            )
        width = tower.class_embedding.shape[0]
        patch_count = tower.positional_embedding.shape[0] - 1
        generator = torch.Generator().manual_seed(seed)
        self._tower = (tower,)  # a tuple keeps the frozen tower out of this module's parameters
        self.first_adapted = len(blocks) - wanted
        self.adapters = nn.ModuleDict(
            {
                str(index): DiffMannerAdapter(width, patch_count, settings.kernel_size)
                for index in range(self.first_adapted, len(blocks))
            }
        )
        self.experts = MultiGranularityDiscrepancyExpert(
            blocks[-1].mlp,
            commonality,
            difference,
            width,
            settings.active_experts,
            settings.mask_rate,
            generator,
        )
        self.running_alpha: torch.Tensor
        self.alpha_steps: torch.Tensor
        self.register_buffer("running_alpha", torch.tensor(float(settings.initial_alpha)))
        self.register_buffer("alpha_steps", torch.tensor(0))

    @property
    def tower(self) -> Any:
        return self._tower[0]

    def frozen_prefix(self, images: torch.Tensor) -> torch.Tensor:
        """Tokens [L, 1 + N, D] at the input of the first adapted block; nothing trains here."""
        tokens: torch.Tensor = self.tower._embeds(images)
        for block in self.tower.transformer.resblocks[: self.first_adapted]:
            tokens = block(tokens)
        return tokens

    def features(
        self,
        tokens: torch.Tensor,
        alpha: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """From the frozen prefix to image features.

        Args:
            tokens: from `frozen_prefix`, [L, 1 + N, D].
            alpha: adapter weight of each image, [L].
            generator: of the experts' masks while training; None masks nothing.

        Returns:
            Image features [L, d] (not normalised) and gate weights [L, K].
        """
        tower = self.tower
        blocks = tower.transformer.resblocks
        for index in range(self.first_adapted, len(blocks)):
            block = blocks[index]
            tokens = block(self.adapters[str(index)](tokens, alpha, block.ln_1, block.attn))
        class_token = tokens[:, 0]
        added, gates = self.experts(blocks[-1].ln_2(class_token), generator)
        tokens = torch.cat([(class_token + added)[:, None], tokens[:, 1:]], dim=1)
        pooled, _ = tower._pool(tokens)
        return (pooled if tower.proj is None else pooled @ tower.proj), gates

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Image features [L, d] at inference: alpha is its running mean, nothing is retrieved."""
        tokens = self.frozen_prefix(images)
        alpha = self.running_alpha.to(tokens.dtype).expand(len(images))
        return self.features(tokens, alpha)[0]

    def observe_alpha(self, alpha: torch.Tensor, momentum: float) -> None:
        """Update the running mean of alpha with one step's values.

        The first steps count evenly, until their number makes up for the momentum: the mean
        then never remembers the value it started from.
        """
        if len(alpha):
            self.alpha_steps += 1
            weight = max(1 - momentum, 1 / self.alpha_steps.item())
            self.running_alpha.lerp_(alpha.mean().to(self.running_alpha), weight)


def check_tower(tower: Any) -> None:
    """Refuse image towers that the adapter cannot be inserted into.

    Raises:
        CaptError: not an open_clip vision transformer with a class token and a square grid.
    """
    parts = ("transformer", "class_embedding", "grid_size", "_embeds", "_pool")
    if not all(hasattr(tower, part) for part in parts) or tower.pool_type != "tok":
        raise CaptError(
            f"the image tower {type(tower).__name__} is no vision transformer with a class token; "
            "choose a ViT backbone such as ViT-B-16"
        )
    rows, columns = tower.grid_size
    if rows != columns:
        raise CaptError(
            f"the Diff-Manner Adapter needs a square patch grid, this one is {rows} x {columns}; "
            "choose a backbone with square images"
        )


def save_state(model: CaptModel) -> dict[str, torch.Tensor]:
    """Everything that training made: parameters and buffers, on the CPU, contiguous."""
    return {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}


def load_state(model: CaptModel, state: Mapping[str, torch.Tensor]) -> None:
    """Load what `save_state` gave into a model of the same shape."""
    model.load_state_dict(dict(state), strict=True)
