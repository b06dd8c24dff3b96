"""What a forward pass of CAPT's training is, for the common loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch.nn import functional

from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError
from capt_core.learning.checkpoint import Checkpoint
from capt_core.learning.loop import Batch, Loop, Record, Trained
from capt_core.learning.optimisation import ParameterGroup
from capt_core.learning.processes import Processes
from capt_core.learning.randomness import generator
from capt_core.methods.capt.diagnosis import expert_statistics, watched
from capt_core.methods.capt.experts import Masks
from capt_core.methods.capt.model import CaptModel
from capt_core.methods.capt.objective import Objective, gate_statistics
from capt_core.methods.capt.rows import Anchor, build_rows, by_class, redrawn, with_mixtures
from capt_core.methods.capt.settings import Train
from capt_core.methods.capt.views import Prefix, Views
from capt_core.methods.views import View
from capt_core.reporter import Advance

VIEW_STRIDE = 1_000_000  # more rows than any batch has: numbers of fresh views never repeat


@dataclass(frozen=True)
class TrainingData:
    """What is learnt from.

    Attributes:
        anchors: training images with their representatives.
        labels: class id of every sample of the data set, by sample id.
        objective: the losses, with the text features they need.
        views: gives the frozen prefix of views.
        adapt: what the base model does to the tower's features, unit length, [L, d] to [L, d].
    """

    anchors: Sequence[Anchor]
    labels: Sequence[int]
    objective: Objective
    views: Views
    adapt: Callable[[torch.Tensor], torch.Tensor] = lambda features: features

    @cached_property
    def members(self) -> dict[int, list[int]]:
        """Training images of each class, by sample id."""
        return by_class(self.anchors, self.labels)


@dataclass
class Trainer:
    """Trains the adapters and experts of a model; the backbone stays as it is.

    Attributes:
        model: on the backbone's device; changed in place.
        backbone: frozen CLIP the model wraps.
        data: training data and losses.
        settings: the section ``methods.capt.train``.
        seed: of the order of batches, views, masks and noise.
        checkpoint: where the state is kept that a killed training goes on from; None keeps none.
        advance: called with 1 after each optimiser step.
        warn: called with a line when nothing seems to be learnt.
        processes: those that share the rows of each batch.
    """

    model: CaptModel
    backbone: Backbone
    data: TrainingData
    settings: Train
    seed: int
    checkpoint: Checkpoint | None = None
    advance: Advance = lambda _: None
    warn: Callable[[str], None] = lambda _: None
    processes: Processes = field(default_factory=Processes)

    def fit(self) -> Trained:
        """Run all steps that are not yet done.

        Raises:
            CaptError: the model has nothing to train, or the loss is no number any more.
        """
        check_trainable(self.model)
        trained = self.loop().fit()
        self.model.interpolate(self.settings.interpolation)
        return trained

    def loop(self) -> Loop:
        """The loop over all steps."""
        return Loop(
            self.model,
            parameter_groups(self.model, self.settings),
            len(self.data.anchors),
            self.forward,
            self.settings,
            "methods.capt.train",
            self.seed,
            self.checkpoint,
            lambda count: self.advance(count),
            lambda line: self.warn(line),
            self.processes,
        )

    def forward(self, batch: Batch) -> tuple[torch.Tensor, Record]:
        """Loss of the anchors of a batch and their representatives."""
        model, device, data = self.model, self.backbone.device, self.data
        processes = self.processes
        anchors = [data.anchors[index] for index in batch.samples]
        if self.settings.redraw:
            draws = generator("representatives", self.seed, batch.step, batch.number)
            anchors = redrawn(anchors, data.members, data.labels, draws)
        rows = build_rows(anchors, data.labels, model.running_alpha.item())
        model.observe_alpha(rows.alphas[rows.retrieved], model.adapter_settings.momentum)
        if data.objective.settings.original_images == "mixtures":
            draws = generator("mixtures", self.seed, batch.step, batch.number)
            rows = with_mixtures(rows, data.members, data.labels, draws)
        count = len(rows.sample_ids)
        mine = processes.share(count)
        noisy = [
            partner is None and not anchor
            for partner, anchor in zip(rows.partners, rows.anchors.tolist(), strict=True)
        ]
        views = self._views_of(batch, rows.sample_ids, noisy)
        prefix = self._prefix([views[row] for row in mine], [rows.partners[row] for row in mine])
        masks = self._masks(batch, count)
        with self.backbone.precision(), watched(model.experts.experts) as seen:
            features, gates = model.features(
                prefix.tokens,
                rows.alphas[mine].to(device),
                None if masks is None else masks.rows(mine, device),
                class_token_only=True,
            )
        images = processes.gather(functional.normalize(features.float(), dim=-1), count)
        gates = processes.gather(gates.float(), count)
        base = None
        if prefix.features is not None and data.objective.needs_base:
            base = data.adapt(processes.gather(prefix.features, count))
        loss, parts = data.objective(
            data.adapt(images),
            base,
            rows.labels.to(device),
            rows.anchors.to(device),
            None if (mixtures := rows.mixtures) is None else mixtures.to(device),
        )
        for kept in (seen.outputs, seen.weights):
            kept.update({name: processes.gather(part, count) for name, part in kept.items()})
        alphas, inverse = rows.alphas, model.inverse
        return loss, {
            **parts,
            "rows": count,
            "alpha_mean": alphas.mean().item(),
            "alpha_min": alphas.min().item(),
            "alpha_max": alphas.max().item(),
            "alpha_running": model.running_alpha.item(),
            "residual_gate": model.experts.residual_gate.item(),
            **gate_statistics(gates.detach(), model.experts.names),
            **expert_statistics(seen),
            "projection_condition": None if inverse is None else inverse.condition,
        }

    def _prefix(self, views: Sequence[View], partners: Sequence[int | None]) -> Prefix:
        """What enters the first block that learns; of a mixture, the mean of both images'."""
        prefix = self.data.views(views)
        mixed = [row for row, partner in enumerate(partners) if partner is not None]
        if not mixed:
            return prefix
        others = [
            replace(views[row], sample_id=partner)
            for row, partner in enumerate(partners)
            if partner is not None
        ]
        tokens = prefix.tokens.clone()
        tokens[mixed] = (tokens[mixed] + self.data.views(others).tokens) / 2
        # Of a mixture no loss asks what the base model makes of it.
        return Prefix(tokens, prefix.features)

    def _views_of(
        self, batch: Batch, sample_ids: Sequence[int], noisy: Sequence[bool]
    ) -> list[View]:
        """Which view of each row is seen: drawn among a fixed number, or never seen before.

        Args:
            batch: of the step.
            sample_ids: of its rows.
            noisy: rows that noise is added to where training asks for it, the representatives.
        """
        count = len(sample_ids)
        if self.settings.augmentation == "none":
            numbers = [0] * count
        elif self.settings.views:
            draws = generator("views", self.seed, batch.step, batch.number)
            numbers = torch.randint(self.settings.views, (count,), generator=draws).tolist()
        else:
            first = (batch.step * self.settings.accumulate + batch.number) * VIEW_STRIDE
            numbers = list(range(first, first + count))
        noise = self.settings.representative_noise > 0
        return [
            View(sample_id, chosen, noise and each)
            for sample_id, chosen, each in zip(sample_ids, numbers, noisy, strict=True)
        ]

    def _masks(self, batch: Batch, rows: int) -> Masks | None:
        rate, names = self.model.experts_settings.mask_rate, self.model.experts.names
        if rate == 0 or not names:
            return None
        draws = generator("masks", self.seed, batch.step, batch.number)
        return Masks.draw(len(names), rows, self.model.width, rate, draws)


def check_trainable(model: CaptModel) -> None:
    """Refuse a model that has nothing but its residual gate.

    Raises:
        CaptError: no block carries an adapter and no expert is used.
    """
    if not model.adapters and not model.experts.names:
        raise CaptError(
            "methods.capt: adapter.blocks is 0 and experts.granularities names none of sample, "
            "commonality and difference, so nothing can be trained; give one of them parts"
        )


def parameter_groups(model: CaptModel, settings: Train) -> list[ParameterGroup]:
    """The residual gate is a group of its own, with `gate_rate` times the learning rate."""
    gate = model.experts.residual_gate
    others = [parameter for parameter in model.parameters() if parameter is not gate]
    return [ParameterGroup(others), ParameterGroup([gate], settings.gate_rate)]
