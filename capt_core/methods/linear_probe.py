"""Linear probe: logistic regression on frozen features, one per half of the classes.

It is trained on images of both halves, novel ones included, so its novel accuracy is no
generalisation: it tells how much the frozen features hold (`sees` says so beside its results).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import torch
from torch.nn import functional

from capt_core import params
from capt_core.data.dataset import Dataset
from capt_core.errors import CaptError
from capt_core.methods.fitting import FewShotFeatures, few_shot_features

STRENGTHS = tuple(10.0**power for power in range(-6, 7))
"""Tried when the settings name none: inverse weights of the L2 penalty, weakest last."""


def fit_linear_probe(
    dataset: Dataset,
    fewshot: pl.DataFrame,
    features: torch.Tensor,
    settings: params.LinearProbe,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, torch.Tensor]:
    """Fit the probes of both halves.

    Where the settings name no strength, each half takes the one that makes its few-shot validation
    images most likely. Accuracy, which the CoOp line compares, ties too often on so few images.

    Args:
        dataset: classes.
        fewshot: the table `fewshot`; both halves are read.
        features: of all samples of the data set, unit length, indexed by sample id.
        settings: strength of the penalty, limit of iterations.
        advance: told 1 after each half.

    Returns:
        `weight` [C, d], `bias` [C] and `strength` [2] (of the base and novel half); logits of an
        image are weight @ feature + bias.

    Raises:
        CaptError: a strength is to be chosen and there are no validation images.
    """
    weight = torch.zeros(len(dataset.classes), features.shape[1])
    bias = torch.zeros(len(dataset.classes))
    strengths = []
    for group in ("base", "novel"):
        train = few_shot_features(dataset, fewshot, features, "train", group)
        val = few_shot_features(dataset, fewshot, features, "val", group)
        class_ids = dataset.class_ids(group)
        strength = settings.strength
        if strength is None:
            strength = _chosen_strength(dataset, group, train, val, settings)
        weight[class_ids], bias[class_ids] = fit_half(class_ids, train, strength, settings)
        strengths.append(strength)
        advance(1)
    return {"weight": weight, "bias": bias, "strength": torch.tensor(strengths)}


def fit_half(
    class_ids: list[int],
    train: FewShotFeatures,
    strength: float,
    settings: params.LinearProbe,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Multinomial logistic regression among some classes: weights [c, d] and biases [c].

    Classes without images (only one may have some) get zeros.
    """
    from sklearn.linear_model import LogisticRegression

    weight = torch.zeros(len(class_ids), train.features.shape[1])
    bias = torch.zeros(len(class_ids))
    labels = train.labels.numpy()
    if len(np.unique(labels)) < 2:
        return weight, bias
    model = LogisticRegression(C=strength, max_iter=settings.max_iterations)
    model.fit(train.features.double().numpy(), labels)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(coefficients) == 1:
        # Two classes share one row of coefficients; half of it each way gives the same softmax.
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    rows = [class_ids.index(class_id) for class_id in model.classes_.tolist()]
    weight[rows] = torch.from_numpy(coefficients).float()
    bias[rows] = torch.from_numpy(intercepts).float()
    return weight, bias


def _chosen_strength(
    dataset: Dataset,
    group: str,
    train: FewShotFeatures,
    val: FewShotFeatures,
    settings: params.LinearProbe,
) -> float:
    if not len(val.labels):
        raise CaptError(
            f"{dataset.name}: no validation images of {group} classes to choose the probe's "
            "strength with; set linear_probe.strength"
        )
    class_ids = dataset.class_ids(group)
    targets = torch.tensor([class_ids.index(label) for label in val.labels.tolist()])
    losses = []
    for strength in STRENGTHS:
        weight, bias = fit_half(class_ids, train, strength, settings)
        logits = (val.features @ weight.T + bias).double()
        losses.append(functional.cross_entropy(logits, targets).item())
    return STRENGTHS[losses.index(min(losses))]
