"""The training loop of CAPT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl
import torch
from torch.nn import functional

from capt_core import params
from capt_core.artifacts.schemas import TRAINING_LOG
from capt_core.backbone.loading import Backbone
from capt_core.methods.capt.losses import confusion_loss, original_loss
from capt_core.methods.capt.model import CaptModel
from capt_core.training.rows import Anchor, build_rows, epoch_batches
from capt_core.training.schedule import epoch_learning_rates
from capt_core.training.views import Views


@dataclass(frozen=True)
class TrainingTask:
    """What is learnt from.

    Attributes:
        anchors: training images with their representatives.
        labels: class id of every sample of the data set, by sample id.
        text_features: of the visible (base) classes in class order, unit length, [B, d]; their
            class ids run from 0.
        views: gives the frozen prefix tokens of samples.
    """

    anchors: Sequence[Anchor]
    labels: Sequence[int]
    text_features: torch.Tensor
    views: Views


def fit(
    model: CaptModel,
    backbone: Backbone,
    task: TrainingTask,
    settings: params.Train,
    seed: int,
    advance: Callable[[int], None] = lambda _: None,
) -> pl.DataFrame:
    """Train the adapters and experts; the backbone stays as it is.

    Args:
        model: on the backbone's device; changed in place.
        backbone: frozen CLIP the model wraps.
        task: training data.
        settings: the `train` section.
        seed: of the order of batches, the augmentation, masks and noise.
        advance: told 1 after each epoch.

    Returns:
        Rows as in the table `training_log`.
    """
    order = torch.Generator().manual_seed(seed)
    noise = torch.Generator().manual_seed(seed + 1)
    optimizer = _optimizer(model, settings)
    rates = epoch_learning_rates(
        settings.learning_rate,
        settings.epochs,
        settings.warmup_epochs,
        settings.warmup_learning_rate,
    )
    log: list[dict[str, float]] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for epoch, rate in enumerate(rates, start=1):
            for group in optimizer.param_groups:
                group["lr"] = rate
            for batch in epoch_batches(task.anchors, settings.batch_size, order):
                record = _step(model, backbone, task, settings, batch, optimizer, noise)
                log.append({"step": len(log) + 1, "epoch": epoch, "learning_rate": rate, **record})
            advance(1)
    return pl.DataFrame(log, schema=dict(TRAINING_LOG.columns))


def _step(
    model: CaptModel,
    backbone: Backbone,
    task: TrainingTask,
    settings: params.Train,
    batch: Sequence[Anchor],
    optimizer: torch.optim.Optimizer,
    noise: torch.Generator,
) -> dict[str, float]:
    rows = build_rows(batch, task.labels, model.running_alpha.item())
    model.observe_alpha(rows.alphas[rows.retrieved], settings.adapter_momentum)
    labels = rows.labels.to(backbone.device)
    tokens = task.views(rows.sample_ids)
    with backbone.precision():
        features, gates = model.features(tokens, rows.alphas.to(backbone.device), noise)
    images = functional.normalize(features.float(), dim=-1)
    confusion = confusion_loss(images, task.text_features[labels], labels, backbone.logit_scale)
    # Representatives are hard by choice and few: only anchors stand for the classes evenly.
    original = original_loss(
        images[rows.anchors], task.text_features, labels[rows.anchors], backbone.logit_scale
    )
    loss = confusion + settings.original_weight * original
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    weights = gates.detach().float()
    entropy = -(weights * weights.clamp(min=1e-12).log()).sum(dim=1).mean()
    shares = weights.mean(dim=0).tolist()
    return {
        "loss": loss.item(),
        "confusion_loss": confusion.item(),
        "original_loss": original.item(),
        "rows": len(rows.sample_ids),
        "alpha_mean": rows.alphas.mean().item(),
        "alpha_running": model.running_alpha.item(),
        "residual_gate": model.experts.residual_gate.item(),
        "sample_expert_share": shares[0],
        "commonality_expert_share": shares[1],
        "difference_expert_share": shares[2],
        "gate_entropy": entropy.item(),
    }


def _optimizer(model: CaptModel, settings: params.Train) -> torch.optim.Optimizer:
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(
            model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
    return torch.optim.SGD(
        model.parameters(),
        settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
