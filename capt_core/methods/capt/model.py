"""CAPT on a frozen image tower: adapters at block inputs, experts on the class token."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from capt_core.methods.capt.adapter import DiffMannerAdapter
from capt_core.methods.capt.experts import Masks, MultiGranularityDiscrepancyExpert
from capt_core.methods.capt.projection import OutputInverse, output_map, pseudo_inverse
from capt_core.methods.capt.settings import Adapter, Experts
from capt_core.methods.capt.tower import adapted_blocks, check_tower, patch_count
from capt_core.methods.image_tower import ImageTower


class CaptModel(nn.Module):
    """A base model's image tower with the Diff-Manner Adapter and MGDE.

    The tower is used, not owned: its tensors are no parameters of this module, so they are
    neither trained nor saved. At step 0 the features equal the base model's exactly.

    Args:
        base_tower: gives the base model's tower, frozen, as it is on the device it is on.
        centres: K-means centres of the `commonality` and `difference` prompts, each [M, d_text].
        adapter: the `adapter` section.
        experts: the `experts` section.
        seed: of its random starts.
        shared_space: whether the prompts' texts are in the space that the tower leads to.

    Raises:
        CaptError: the tower is no plain vision transformer or its patch grid is not square.
    """

    def __init__(
        self,
        base_tower: Callable[[], ImageTower],
        centres: Mapping[str, torch.Tensor],
        adapter: Adapter,
        experts: Experts,
        seed: int = 0,
        shared_space: bool = False,
    ) -> None:
        super().__init__()
        tower = base_tower()
        check_tower(tower.visual)
        blocks = tower.blocks
        adapted = adapted_blocks(adapter.blocks, len(blocks))
        generator = torch.Generator().manual_seed(seed)
        self.base_tower = base_tower
        self.width = int(tower.visual.class_embedding.shape[0])
        self.adapter_settings = adapter
        self.experts_settings = experts
        self.first_adapted = min(adapted, default=len(blocks))
        self.adapters = nn.ModuleDict(
            {
                str(index): DiffMannerAdapter(self.width, patch_count(tower.visual), adapter)
                for index in adapted
            }
        )
        mapped = output_map(tower.visual) if shared_space else None
        self.inverse: OutputInverse | None = None if mapped is None else pseudo_inverse(mapped)
        self.experts = MultiGranularityDiscrepancyExpert(
            tower.feed_forward(len(blocks) - 1),
            centres,
            self.width,
            experts,
            generator,
            self.inverse,
        )
        self.running_alpha: torch.Tensor
        self.alpha_steps: torch.Tensor
        self.register_buffer("running_alpha", torch.tensor(float(adapter.scale)))
        self.register_buffer("alpha_steps", torch.tensor(0))

    def frozen_prefix(self, images: torch.Tensor) -> torch.Tensor:
        """Tokens [L, 1 + N + P, D] at the input of the first adapted block; nothing trains here."""
        tower = self.base_tower()
        tokens = tower.embed(images)
        for index in range(self.first_adapted):
            tokens = tower.through(tower.entering(tokens, index), index)
        return tokens

    def base_features(self, tokens: torch.Tensor) -> torch.Tensor:
        """Features [L, d] of the frozen base model (not normalised), from `frozen_prefix`."""
        tower = self.base_tower()
        for index in range(self.first_adapted, len(tower.blocks)):
            tokens = tower.through(tower.entering(tokens, index), index)
        return tower.head(tokens)

    def features(
        self,
        tokens: torch.Tensor,
        alpha: torch.Tensor,
        masks: Masks | None = None,
        class_token_only: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """From the frozen prefix to image features (3.7, steps 7 and 8).

        Args:
            tokens: from `frozen_prefix`, [L, 1 + N + P, D].
            alpha: adapter weight of each image (eq. 13), [L].
            masks: the experts' random draws while training; None masks nothing.
            class_token_only: leave out of the last block what is not read after it; equal up to
                rounding, and several times quicker to train through.

        Returns:
            Image features [L, d] (not normalised) and gate weights [L, K].
        """
        tower = self.base_tower()
        tokens = self.adapted_tokens(tokens, alpha, class_token_only)
        class_token = tokens[:, 0]
        added, gates = self.experts(tower.blocks[-1].ln_2(class_token), masks)
        moved = (class_token + added)[:, None]
        return tower.head(torch.cat([moved, tokens[:, 1:]], dim=1)), gates

    def adapted_tokens(
        self, tokens: torch.Tensor, alpha: torch.Tensor, class_token_only: bool = False
    ) -> torch.Tensor:
        """What comes out of the last block, adapters included and experts not; see `features`."""
        tower = self.base_tower()
        blocks = tower.blocks
        for index in range(self.first_adapted, len(blocks)):
            block = blocks[index]
            tokens = tower.entering(tokens, index)
            if str(index) in self.adapters:
                tokens = self.adapters[str(index)](tokens, alpha, block.ln_1, block.attn)
            last = index == len(blocks) - 1 and tower.visual.attn_pool is None
            shortened = last and class_token_only
            tokens = (tower.class_token if shortened else tower.through)(tokens, index)
        return tokens

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Image features [L, d] at inference: alpha is its running mean, nothing is retrieved."""
        return self._at_inference(self.frozen_prefix(images))

    def with_base(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`forward`, and `base_features` of the same images; the frozen prefix is run once."""
        tokens = self.frozen_prefix(images)
        return self._at_inference(tokens), self.base_features(tokens)

    def _at_inference(self, tokens: torch.Tensor) -> torch.Tensor:
        alpha = self.running_alpha.to(tokens.dtype).expand(tokens.shape[0])
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

    @torch.no_grad()
    def interpolate(self, share: float) -> None:
        """Scale what is added to the base model: 1 leaves it, 0 gives the base model back.

        Wortsman et al. 2022 average weights of the tuned and the base model; here both added
        branches are linear in the kernels and in the residual gate, which start at zero.
        """
        self.experts.residual_gate.mul_(share)
        for name in self.adapters:
            self.adapters[name].get_parameter("kernel").mul_(share)
