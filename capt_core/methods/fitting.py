"""Minibatch descent over few-shot features, for the methods that train on frozen features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import polars as pl
import torch

from capt_core import params
from capt_core.data.dataset import Dataset
from capt_core.training.schedule import epoch_learning_rates

LOG_COLUMNS = {
    "step": pl.Int64(),
    "epoch": pl.Int64(),
    "learning_rate": pl.Float64(),
    "loss": pl.Float64(),
}
"""Columns of the logs written here, as in the table `training_log`."""


@dataclass(frozen=True)
class FewShotFeatures:
    """Labelled images as the frozen image tower sees them.

    Attributes:
        features: unit length, [N, d].
        labels: class ids, [N].
    """

    features: torch.Tensor
    labels: torch.Tensor


def few_shot_features(
    dataset: Dataset,
    fewshot: pl.DataFrame,
    features: torch.Tensor,
    split: str = "train",
    group: str = "base",
) -> FewShotFeatures:
    """Drawn images of one split and one half of the classes, in the order of the draw.

    Args:
        dataset: classes.
        fewshot: the table `fewshot`.
        features: of all samples of the data set, unit length, indexed by sample id.
        split: `train` or `val`.
        group: `base` or `novel`.
    """
    rows = fewshot.filter(
        pl.col("split") == split, pl.col("class_id").is_in(dataset.class_ids(group))
    )
    return FewShotFeatures(
        features[rows["sample_id"].to_list()],
        torch.tensor(rows["class_id"].to_list(), dtype=torch.long),
    )


def descend(
    parameters: Iterable[torch.nn.Parameter],
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    count: int,
    settings: params.Optimisation,
    seed: int,
    advance: Callable[[int], None] = lambda _: None,
) -> pl.DataFrame:
    """Minimise a loss over shuffled batches; the learning rate changes once per epoch.

    Args:
        parameters: changed in place.
        loss_of: the loss of the samples at the given positions [B].
        count: number of samples.
        settings: optimiser, schedule and sizes.
        seed: of the order of the batches.
        advance: told 1 after each epoch.

    Returns:
        One row per step: `step`, `epoch`, `learning_rate`, `loss`.
    """
    optimizer = _optimizer(list(parameters), settings)
    order = torch.Generator().manual_seed(seed)
    rates = epoch_learning_rates(
        settings.learning_rate,
        settings.epochs,
        settings.warmup_epochs,
        settings.warmup_learning_rate,
    )
    log: list[tuple[int, int, float, float]] = []
    for epoch, rate in enumerate(rates, start=1):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for batch in _batches(count, settings.batch_size, order):
            loss = loss_of(batch)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            log.append((len(log) + 1, epoch, rate, loss.item()))
        advance(1)
    return pl.DataFrame(log, schema=LOG_COLUMNS, orient="row")


def _batches(count: int, size: int, order: torch.Generator) -> Iterator[torch.Tensor]:
    """An incomplete last batch is dropped unless it is the only one, as the CoOp line does."""
    size = min(size, count)
    shuffled = torch.randperm(count, generator=order)
    for start in range(0, count - size + 1, size):
        yield shuffled[start : start + size]


def _optimizer(
    parameters: list[torch.nn.Parameter], settings: params.Optimisation
) -> torch.optim.Optimizer:
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters, settings.learning_rate, weight_decay=settings.weight_decay
        )
    return torch.optim.SGD(
        parameters,
        settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
