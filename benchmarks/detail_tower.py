"""An image tower whose patch tokens hold what its pooled feature lacks, to leave room for adapters.

It starts from the trained tower of ``tiny-clip``. The class token is trained to tell families of
textures and what else is visible, and the classes of a family can be kept from drawing apart in it
(:func:`within_family_scatter`); the patch tokens that enter the last block are trained to tell
the classes. A projection then leaves the pooled feature a few dimensions of what is left of the
differences within families (:func:`limiting_projection`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from capt_core.backbone.tiny_clip.facts import VISIBLE, VisibleFacts
from capt_core.backbone.tiny_clip.model import normalise
from capt_core.backbone.tiny_clip.optimisation import Log, Schedule, batches, minimise
from capt_core.data.proctex import CLASS_NAMES, GROUPS

if TYPE_CHECKING:
    from open_clip.transformer import VisionTransformer

FAMILY_OF: Final = tuple(family for family, names in enumerate(GROUPS.values()) for _ in names)
"""Family of each class, by label."""

_FAMILIES: Final = {"family": (len(GROUPS), 1.0)} | {
    name: size for name, size in VISIBLE.items() if name != "texture"
}


@dataclass(frozen=True)
class DetailStage(Schedule):
    """Settings of the training that moves detail from the class token to the patches.

    Attributes:
        blocks: how many of the last blocks are trained; the others stay as they are.
        scatter_weight: weight of the scatter of classes within families in the class token.
        patch_weight: weight of the loss of telling the classes from the mean patch token.
    """

    steps: int = 600
    learning_rate: float = 5e-4
    warm_up: int = 50
    report_every: int = 50
    whole_steps: int = 100  # the last steps see every patch, as at inference
    patch_dropout: float = 0.5
    blocks: int = 2
    scatter_weight: float = 0.0
    patch_weight: float = 1.0


def within_family_scatter(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Share of the variance within families that lies between their classes, a scalar.

    Not inflated by the noise of single images: the mean inner product of two different
    images of one class, both centred on their family, over the mean squared norm.

    Args:
        features: [n, d].
        labels: [n].
    """
    family = torch.tensor(FAMILY_OF, device=labels.device)[labels]
    centred = features - _group_means(features, family)
    same = labels[:, None] == labels[None]
    same.fill_diagonal_(fill_value=False)
    products = (centred @ centred.T)[same]
    spread = centred.square().sum(1).mean()
    return products.mean() / spread if len(products) else spread.new_zeros(())


def limiting_projection(
    features: torch.Tensor, labels: torch.Tensor, kept: int, share: float
) -> torch.Tensor:
    """Matrix [d, d], applied from the right, that takes class differences within families away.

    The directions that tell the classes of a family apart are those of the class means, centred
    on their families, where the images of a class have unit covariance. All but the `kept`
    strongest are removed, and these multiplied by `share`; what is not correlated with any of
    them stays (an oblique projection, as in Belrose et al., "LEACE: Perfect linear concept
    erasure in closed form", NeurIPS 2023).

    Args:
        features: [n, d], of images of all classes.
        labels: [n].
        kept: how many directions stay.
        share: factor on those.
    """
    values = features.double()
    means = torch.stack([values[labels == label].mean(0) for label in range(len(CLASS_NAMES))])
    family = torch.tensor(FAMILY_OF, device=labels.device)
    offsets = means - _group_means(means, family)
    spread = values - means[labels]
    covariance = spread.T @ spread / len(values)
    scales, axes = torch.linalg.eigh(covariance)
    roots = scales.clamp_min(float(scales.max()) * 1e-6).sqrt()
    whitening, colouring = (axes / roots) @ axes.T, (axes * roots) @ axes.T
    _, strengths, directions = torch.linalg.svd(offsets @ whitening, full_matrices=False)
    rank = int((strengths > 1e-6 * strengths[0]).sum())
    factors = torch.ones(rank, dtype=torch.float64, device=values.device)
    factors[:kept] = 1 - share
    removed = (directions[:rank].T * factors) @ directions[:rank]
    identity = torch.eye(values.shape[1], dtype=torch.float64, device=values.device)
    limit: torch.Tensor = identity - whitening @ removed @ colouring
    return limit.to(features.dtype)


def class_token_and_patches(
    tower: VisionTransformer, pixels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What an image tower holds of images [n, 3, side, side].

    Returns:
        The class token before the projection, the mean patch token at the last block's input,
        which an adapter there works on, and at its output; each [n, width].
    """
    tokens = tower._embeds(pixels)
    *blocks, last = tower.transformer.resblocks
    for block in blocks:
        tokens = block(tokens)
    entering = tokens[:, 1:].mean(1)
    tokens = tower.ln_post(last(tokens))
    return tokens[:, 0], entering, tokens[:, 1:].mean(1)


def train_detail_tower(
    tower: VisionTransformer,
    images: torch.Tensor,
    targets: Mapping[str, torch.Tensor],
    settings: DetailStage,
    seed: int,
    *,
    after_step: Callable[[], object] = lambda: None,
) -> Log:
    """Train a tower in place, from its present values; its projection is not limited yet.

    Args:
        tower: the image tower, on the device of the images.
        images: pretraining images, RGB, uint8, [n, 3, 64, 64].
        targets: what they show, see :func:`capt_core.backbone.tiny_clip.facts.fact_targets`.
        settings: length, rates and weights of the training.
        seed: seed of heads, order and augmentation.
        after_step: called after each step.

    Returns:
        The log; its accuracy is that of telling the classes from the patches.
    """
    torch.manual_seed(seed)
    device, width = images.device, tower.proj.shape[0]
    visible = VisibleFacts(tower.output_dim, _FAMILIES).to(device)
    detail = VisibleFacts(width, {"texture": VISIBLE["texture"]}).to(device)
    membership = functional.one_hot(torch.tensor(FAMILY_OF)).float().to(device)
    targets = {**targets, "family": targets["texture"] @ membership}
    labels = targets["texture"].argmax(1)
    norm = nn.LayerNorm(width, elementwise_affine=False)
    trained = _freeze_all_but_last(tower, settings.blocks)
    whole = tower.patch_dropout
    tower.patch_dropout = _patch_dropout(settings.patch_dropout)

    def loss_of(step: int, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if step >= settings.steps - settings.whole_steps:
            tower.patch_dropout = whole
        rows = chosen.to(device)
        pixels = normalise(images[rows])
        if step % 2 == 1:
            pixels = pixels.flip(3)
        token, entering, _ = class_token_and_patches(tower, pixels)
        pooled = token @ tower.proj
        expected = {name: values[rows] for name, values in targets.items()}
        loss, _ = visible(pooled, expected)
        fine, recognised = detail(norm(entering), expected)
        scatter = within_family_scatter(functional.normalize(pooled, dim=-1), labels[rows])
        weighted = settings.patch_weight * fine + settings.scatter_weight * scatter
        return loss + weighted, recognised

    parameters = [*trained, *visible.parameters(), *detail.parameters()]
    rows = batches(len(images), settings.batch, np.random.default_rng(seed))
    log = minimise("detail tower", settings, parameters, rows, loss_of, after_step)
    tower.patch_dropout = whole
    tower.eval().requires_grad_(requires_grad=True)
    return log


def _freeze_all_but_last(tower: VisionTransformer, blocks: int) -> list[nn.Parameter]:
    """Put a tower in training mode with its last blocks and what follows them to be trained."""
    tower.train().requires_grad_(requires_grad=False)
    layers = tower.transformer.resblocks
    whole = blocks >= len(layers)
    if whole:
        tower.requires_grad_(requires_grad=True)
    else:
        tower.conv1.eval()  # its batch statistics are those it was trained with
        for module in (*layers[len(layers) - blocks :], tower.ln_post):
            module.requires_grad_(requires_grad=True)
        tower.proj.requires_grad_(requires_grad=True)
    return [parameter for parameter in tower.parameters() if parameter.requires_grad]


def _patch_dropout(share: float) -> nn.Module:
    from open_clip.transformer import PatchDropout

    return PatchDropout(share) if share else nn.Identity()


def _group_means(values: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Mean of each row's group, [n, d]."""
    member = functional.one_hot(groups, int(groups.max()) + 1).to(values.dtype)
    return member @ ((member.T @ values) / member.sum(0).clamp_min(1)[:, None])
