"""Fitting the methods beside CAPT: one call for all, on frozen features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl
import torch

from capt_core import params
from capt_core.backbone.loading import Backbone
from capt_core.data.dataset import Dataset
from capt_core.methods.coop import fit_context
from capt_core.methods.fitting import LOG_COLUMNS, few_shot_features
from capt_core.methods.linear_probe import fit_linear_probe
from capt_core.methods.residual import fit_residual


@dataclass(frozen=True)
class BaselineSettings:
    """The sections of the methods fitted here."""

    coop: params.Coop
    linear_probe: params.LinearProbe
    residual: params.Residual

    def stretches(self, method: str) -> int:
        """How often `advance` is told 1: epochs, or halves of the linear probe."""
        return {
            "clip": 0,
            "clip_prompts": 0,
            "linear_probe": 2,
            "coop": self.coop.epochs,
            "residual": self.residual.epochs,
        }[method]


@dataclass(frozen=True)
class BaselineData:
    """What there is to learn from.

    Attributes:
        dataset: samples and classes.
        fewshot: the table `fewshot`.
        image_features: of all samples, unit length, indexed by sample id.
        text_features: zero-shot, of all classes, unit length, indexed by class id.
        class_texts: what images are compared with, likewise.
        generic_texts: gives text features [V, d] of the generic vocabulary; called only when
            retention is over it.
    """

    dataset: Dataset
    fewshot: pl.DataFrame
    image_features: torch.Tensor
    text_features: torch.Tensor
    class_texts: torch.Tensor
    generic_texts: Callable[[], torch.Tensor]

    def retained_texts(self, names: str) -> torch.Tensor:
        """Text features of the names that retention is over: `training`, `all` or `generic`."""
        if names == "generic":
            return self.generic_texts()
        if names == "all":
            return self.text_features
        return self.text_features[self.dataset.class_ids("base")]


def fit_baseline(
    method: str,
    data: BaselineData,
    backbone: Backbone,
    settings: BaselineSettings,
    seed: int,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[dict[str, torch.Tensor], pl.DataFrame]:
    """Fit `clip` and `clip_prompts` (nothing), `linear_probe`, `coop` or `residual`.

    Returns:
        Tensors to save, as `scoring` reads them, and a log with `step`, `epoch`,
        `learning_rate` and `loss`; no rows where there are no steps.

    Raises:
        CaptError: as the method's own module.
    """
    base = data.dataset.class_ids("base")
    empty = pl.DataFrame(schema=LOG_COLUMNS)
    if method in ("clip", "clip_prompts"):
        return {}, empty
    if method == "linear_probe":
        tensors = fit_linear_probe(
            data.dataset, data.fewshot, data.image_features, settings.linear_probe, advance
        )
        return tensors, empty
    images = few_shot_features(data.dataset, data.fewshot, data.image_features)
    if method == "coop":
        names = [data.dataset.prompt_names[class_id] for class_id in base]
        context, log = fit_context(images, names, backbone, settings.coop, seed, advance)
        return {"context": context}, log
    if method == "residual":
        return fit_residual(
            images,
            data.class_texts[base],
            data.retained_texts(settings.residual.retention_names),
            backbone.logit_scale,
            settings.residual,
            seed,
            backbone.device,
            advance,
        )
    raise ValueError(f"{method} is not fitted here")
