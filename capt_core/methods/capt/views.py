"""Where a training step gets its images from: computed as needed, or cached once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional

from capt_core.artifacts.tensors import SavedTensors
from capt_core.artifacts.work_files import Warn, read_work_file, shapes_problem, write_work_file
from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError
from capt_core.methods.capt.model import CaptModel
from capt_core.methods.capt.rows import Anchor
from capt_core.methods.capt.settings import Train
from capt_core.methods.views import View, ViewSource

SHARD = 512
FORWARD = 64  # views per forward pass while caching


@dataclass(frozen=True)
class Prefix:
    """What the frozen part of the tower makes of some views.

    Attributes:
        tokens: at the input of the first adapted block, [L, 1 + N + P, D].
        features: of the frozen base model, [L, d], unit length, fp32; None where no loss asks
            for them.
    """

    tokens: torch.Tensor
    features: torch.Tensor | None


Views = Callable[[Sequence[View]], Prefix]
"""Gives the frozen prefix of views, on the backbone's device."""


def asked_views(anchors: Sequence[Anchor], settings: Train) -> list[View]:
    """Every view that training with a fixed number of views may ask for, in a stable order."""
    numbers = range(1 if settings.augmentation == "none" else settings.views)
    noise = settings.representative_noise > 0
    found = {(anchor.sample_id, False) for anchor in anchors}
    found |= {(i, noise) for anchor in anchors for i in anchor.representatives}
    if settings.redraw:
        found |= {(anchor.sample_id, noise) for anchor in anchors}
    return [View(i, number, noisy) for i, noisy in sorted(found) for number in numbers]


@torch.no_grad()
def compute_prefix(
    model: CaptModel,
    backbone: Backbone,
    source: ViewSource,
    views: Sequence[View],
    with_features: bool = True,
) -> Prefix:
    """Forward views through the frozen part of the tower and, if asked, on to the base features."""
    images = source.pixels(views, backbone).to(backbone.device)
    with backbone.precision():
        tokens = model.frozen_prefix(images)
        if not with_features:
            return Prefix(tokens, None)
        features = model.base_features(tokens)
    return Prefix(tokens, functional.normalize(features.float(), dim=-1))


def live_views(
    model: CaptModel, backbone: Backbone, source: ViewSource, with_features: bool = True
) -> Views:
    """Views computed at every call, with the base model's features if a loss needs them."""
    return partial(compute_prefix, model, backbone, source, with_features=with_features)


class CachedViews:
    """Views computed once and kept in safetensors shards, which are memory-mapped.

    The folder's name is a digest of everything the tokens depend on, so that a cache is found
    again by equal settings only. Shards that an interrupted run has finished are kept.

    Args:
        model: whose frozen prefix ends where the first adapter sits.
        backbone: device, precision and image style.
        source: of the pixels.
        views: every view that training may ask for.
        folder: that holds the caches.
        origin: digest of the data set and of what the base model changes in the tower.
        advance: called with the number of views of each finished shard.
        warn: called with a line about a shard that is damaged, and made anew.

    Raises:
        CaptError: an image cannot be read, or a shard cannot be written.
    """

    def __init__(
        self,
        model: CaptModel,
        backbone: Backbone,
        source: ViewSource,
        views: Sequence[View],
        folder: Path,
        origin: str,
        advance: Callable[[int], None] = lambda _: None,
        warn: Warn = lambda _: None,
    ) -> None:
        self.device = backbone.device
        self.folder = folder / cache_name(model, backbone, source, views, origin)
        self._place = {view: divmod(index, SHARD) for index, view in enumerate(views)}
        self._shards = []
        for number, start in enumerate(range(0, len(views), SHARD)):
            path = self.folder / f"{number:05d}.safetensors"
            part = views[start : start + SHARD]
            found = _read(path, len(part), warn)
            if found is None:
                write_work_file(path, _computed(model, backbone, source, part))
                found = _read(path, len(part), warn)
            if found is None:
                raise CaptError(f"{path}: cannot be read back; check the disk, then run again")
            self._shards.append(found)
            advance(len(part))

    def __call__(self, views: Sequence[View]) -> Prefix:
        """The cached prefix of views, in their order."""
        places = [self._place[view] for view in views]
        gathered: dict[str, torch.Tensor] = {}
        for name in ("tokens", "features"):
            first = self._shards[0][name]
            gathered[name] = first.new_empty((len(views), *first.shape[1:]))
        for number in {number for number, _ in places}:
            rows = [row for row, (shard, _) in enumerate(places) if shard == number]
            inside = [places[row][1] for row in rows]
            for name, values in gathered.items():
                values[rows] = self._shards[number][name][inside]
        return Prefix(gathered["tokens"].to(self.device), gathered["features"].to(self.device))


def _read(path: Path, rows: int, warn: Warn) -> dict[str, torch.Tensor] | None:
    def problem(found: SavedTensors) -> str | None:
        shapes = {
            "tokens": ((rows, None, None), None),
            "features": ((rows, None), torch.float32),
        }
        return shapes_problem(found, shapes)

    found = read_work_file(path, problem, warn)
    return None if found is None else found.tensors


def _computed(
    model: CaptModel, backbone: Backbone, source: ViewSource, views: Sequence[View]
) -> dict[str, torch.Tensor]:
    tokens, features = [], []
    for start in range(0, len(views), FORWARD):
        prefix = compute_prefix(model, backbone, source, views[start : start + FORWARD])
        assert prefix.features is not None
        tokens.append(prefix.tokens.cpu())
        features.append(prefix.features.cpu())
    return {"tokens": torch.cat(tokens), "features": torch.cat(features)}


def cache_name(
    model: CaptModel,
    backbone: Backbone,
    source: ViewSource,
    views: Sequence[View],
    origin: str,
) -> str:
    """Digest of all that cached tokens depend on, 16 hexadecimal digits."""
    facts = [
        origin,
        backbone.identity,
        str(backbone.autocast),
        backbone.device.type,
        model.first_adapted,
        source.facts(),
        [[view.sample_id, view.number, view.noisy] for view in views],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
