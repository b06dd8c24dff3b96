"""What the speed benchmark works on: a frozen CLIP, photographs and text features, all made up."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from capt_core import load_backbone, study
from capt_core.methods.capt.adapter import dynamic_weight
from capt_core.methods.capt.model import CaptModel
from capt_core.methods.capt.objective import Objective
from capt_core.methods.capt.rows import Anchor
from capt_core.methods.capt.settings import Adapter, CaptSettings, Train
from capt_core.methods.capt.training import Trainer, TrainingData
from capt_core.methods.capt.views import CachedViews, ViewSource, asked_views, live_views
from capt_core.params import Runtime, method_section
from capt_core.torchvision_ops import ensure_torchvision

CLASSES = 50
CENTRES = 5
PHOTOGRAPH = (375, 500)  # rows and columns of a usual benchmark image
COSINE = 0.8  # between an anchor and its representatives
SEED = 1


class Bench:
    """The inputs of all measurements: a frozen CLIP, made-up photographs, random text features.

    Args:
        options: from the command line.
        folder: for the photographs and the caches.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.backbone = load_backbone(
            options.backbone,
            checkpoint=options.checkpoint,
            device=options.device,
            precision=options.precision,
        )
        self.workers = Runtime().workers
        self.clock = time.process_time if options.clock == "processor" else time.perf_counter
        rows = options.batch * (1 + options.pairs)
        self.files = made_up_photographs(folder / "photographs", rows)
        self.labels = [row % CLASSES for row in range(rows)]
        self.draws = torch.Generator().manual_seed(SEED)
        self.text_width = int(self.backbone.clip.visual.output_dim)
        self.texts = self._unit_vectors(CLASSES).to(self.backbone.device)

    def settings(self, variant: str, steps: int) -> CaptSettings:
        """A variant's settings with this run's batch, and one step in each epoch."""
        change = study.variant(variant).change
        settings = method_section("capt", CaptSettings, self.options.params, change=change)
        changed = {"batch_size": self.options.batch, "epochs": steps}
        if settings.train.cache_prefix and settings.train.augmentation != "none":
            changed["views"] = self.options.views
        return settings.model_copy(update={"train": settings.train.model_copy(update=changed)})

    def model(self, settings: CaptSettings) -> CaptModel:
        """A fresh model on the backbone's device."""
        centres = {name: self._unit_vectors(CENTRES) for name in ("commonality", "difference")}
        model = CaptModel(
            self.backbone.clip.visual, centres, settings.adapter, settings.experts, SEED
        )
        return model.to(self.backbone.device)

    def anchors(self, settings: Adapter) -> list[Anchor]:
        """The anchors of one step, each with its own representatives."""
        pairs = self.options.pairs
        weight = dynamic_weight(torch.tensor(COSINE), settings.scale, settings.exponent).item()
        return [
            Anchor(first, tuple(range(first + 1, first + 1 + pairs)), (weight,) * pairs)
            for first in range(0, len(self.files), 1 + pairs)
        ]

    def cached_views(self, settings: CaptSettings, model: CaptModel, name: str) -> CachedViews:
        """The cache of every view that training asks for, made unless a folder has it."""
        source = self._source(settings.train)
        asked = asked_views(self.anchors(settings.adapter), settings.train)
        return CachedViews(model, self.backbone, source, asked, self.folder / name, "made up")

    def trainer(self, variant: str, steps: int) -> Trainer:
        """The trainer as `Capt.fit` sets it up."""
        settings = self.settings(variant, steps)
        model = self.model(settings)
        objective = Objective(
            settings.losses, self.texts, self.texts, logit_scale=self.backbone.logit_scale
        )
        views = (
            self.cached_views(settings, model, "cache")
            if settings.train.cache_prefix
            else live_views(model, self.backbone, self._source(settings.train))
        )
        data = TrainingData(self.anchors(settings.adapter), self.labels, objective, views)
        return Trainer(model, self.backbone, data, settings.train, SEED)

    def synchronise(self) -> None:
        """Wait until the device has done what it was asked to."""
        if self.backbone.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object]) -> float:
        """Time that some work takes on the device."""
        self.synchronise()
        began = self.clock()
        work()
        self.synchronise()
        return self.clock() - began

    def _source(self, settings: Train) -> ViewSource:
        return ViewSource(
            self.files,
            settings.augmentation,
            settings.representative_noise,
            SEED,
            self.workers,
        )

    def _unit_vectors(self, count: int) -> torch.Tensor:
        vectors = torch.randn(count, self.text_width, generator=self.draws)
        return functional.normalize(vectors, dim=-1)


def random_weights(name: str, path: Path) -> None:
    """Write a freshly initialised open_clip model as a checkpoint."""
    ensure_torchvision()
    import open_clip

    torch.manual_seed(SEED)
    clip = open_clip.create_model(name, load_weights=False)
    save_file({key: value.contiguous() for key, value in clip.state_dict().items()}, path)


def made_up_photographs(folder: Path, count: int) -> dict[int, Path]:
    """Coloured noise as JPEG files, by number; those that are there are kept."""
    folder.mkdir(exist_ok=True)
    files = {number: folder / f"{number:04d}.jpg" for number in range(count)}
    draws = np.random.default_rng(SEED)
    for path in files.values():
        # Coarse noise, scaled up: JPEG of pixel noise would take far longer to decode.
        coarse = draws.integers(0, 256, (PHOTOGRAPH[0] // 8, PHOTOGRAPH[1] // 8, 3), np.uint8)
        if not path.is_file():
            Image.fromarray(coarse).resize(PHOTOGRAPH[::-1]).save(path, quality=90)
    return files
