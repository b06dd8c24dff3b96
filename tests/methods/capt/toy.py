"""A small training task: random photographs, a small random CLIP, anchors and representatives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from capt_core.backbone.loading import Backbone
from capt_core.backbone.tiny_clip import Tokenizer
from capt_core.data.images import Preprocess
from capt_core.learning.checkpoint import Checkpoint
from capt_core.methods.capt.model import CaptModel
from capt_core.methods.capt.objective import Objective
from capt_core.methods.capt.rows import Anchor
from capt_core.methods.capt.settings import Experts, Losses, Train
from capt_core.methods.capt.training import Trainer, TrainingData
from capt_core.methods.capt.views import CachedViews, Views, asked_views, live_views
from capt_core.methods.views import ViewSource
from tests import paper_preset
from tests.methods.capt.reference import TEXT_WIDTH, capt_model, normal
from tests.toys import small_clip

CLASSES = 4
LABELS = [0, 0, 1, 1, 2, 2, 3, 3, 0, 1]
ANCHORS = (
    Anchor(0, (2, 4), (4.5, 2.5)),
    Anchor(1, (3,), (3.0,)),
    Anchor(2, (), ()),
    Anchor(4, (6, 0, 2), (4.0, 3.5, 1.0)),
    Anchor(5, (7,), (2.0,)),
    Anchor(6, (8, 9), (4.8, 4.9)),
)
"""With different numbers of representatives; some images are anchors and representatives."""

LOSSES = paper_preset.losses(original_weight=0.5, retention_weight=0.3)


def toy_backbone(device: str = "cpu") -> Backbone:
    """The small CLIP as a frozen base model."""
    return Backbone(
        identity="toy",
        clip=small_clip().to(device),
        tokenizer=Tokenizer(),
        preprocess=Preprocess(32, (0.5, 0.45, 0.4), (0.25, 0.2, 0.3)),
        device=torch.device(device),
        autocast=None,
        untrained=True,
    )


def toy_files(folder: Path) -> dict[int, Path]:
    """One PNG for each of the labels, 40 x 48 pixels, by sample id."""
    files = {}
    for sample_id in range(len(LABELS)):
        files[sample_id] = folder / f"{sample_id}.png"
        coarse = np.random.default_rng(sample_id).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        if not files[sample_id].is_file():
            Image.fromarray(coarse).resize((48, 40)).save(files[sample_id])
    return files


def toy_source(folder: Path, settings: Train, seed: int = 1) -> ViewSource:
    return ViewSource(
        toy_files(folder), settings.augmentation, settings.representative_noise, seed, 1
    )


def toy_model(backbone: Backbone, experts: Experts | None = None, **adapter: Any) -> CaptModel:
    return capt_model(backbone.clip, experts=experts, seed=2, **adapter)


def toy_objective(
    losses: Losses = LOSSES, width: int = TEXT_WIDTH, device: torch.device | None = None
) -> Objective:
    """Ten times the cosine as logits; names to keep predictions over if the losses look at them."""

    def texts(count: int, seed: int) -> torch.Tensor:
        return functional.normalize(normal(count, width, seed=seed).float(), dim=1).to(device)

    kept = texts(9, 2) if losses.retention_weight else None
    return Objective(losses, texts(CLASSES, 1), kept, 10.0)


def toy_trainer(
    folder: Path,
    settings: Train,
    *,
    losses: Losses = LOSSES,
    experts: Experts | None = None,
    backbone: Backbone | None = None,
    cached: bool = False,
    checkpoint: Checkpoint | None = None,
    anchors: tuple[Anchor, ...] = ANCHORS,
    wrap: Callable[[Views], Views] = lambda views: views,
    prepare: Callable[[CaptModel], None] = lambda model: None,
    **adapter: Any,
) -> Trainer:
    """A trainer with everything it needs; the same arguments give the same training.

    Args:
        folder: of the images and the cache.
        settings: the `train` section.
        losses: the `losses` section.
        experts: the `experts` section.
        backbone: the frozen base model.
        cached: take the views from a cache.
        checkpoint: where to keep the state.
        anchors: what is trained on.
        wrap: put around the views, to look at what is asked.
        prepare: done to the model before training.
        adapter: the `adapter` section.
    """
    backbone = backbone or toy_backbone()
    model = toy_model(backbone, experts, **adapter).to(backbone.device)
    prepare(model)
    source = toy_source(folder, settings)
    objective = toy_objective(losses, backbone.clip.visual.proj.shape[1], backbone.device)
    views = live_views(model, backbone, source, objective.needs_base)
    if cached:
        asked = asked_views(anchors, settings)
        views = CachedViews(model, backbone, source, asked, folder / "prefix", "toy")
    data = TrainingData(anchors, LABELS, objective, wrap(views))
    return Trainer(model, backbone, data, settings, 1, checkpoint)
