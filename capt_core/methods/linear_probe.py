"""Linear probe: logistic regression on frozen features, one per half of the classes.

It is trained on images of both halves, novel ones included, so its novel accuracy is no
generalisation: it tells how much the frozen features hold (`sees` says so beside its results).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError
from capt_core.methods.classes import Classes, known_rows
from capt_core.methods.feature_training import class_positions
from capt_core.methods.method import Fitted, Method, Scorer
from capt_core.methods.selection import likeliest, validation_images
from capt_core.methods.task import FewShotFeatures, Task
from capt_core.settings_file import Section, packaged

STRENGTHS = tuple(10.0**power for power in range(-6, 7))
"""Tried when the settings name none: inverse weights of the L2 penalty, weakest last."""


class LinearProbeSettings(Section, path="methods.linear_probe"):
    """The section ``methods.linear_probe``."""

    strength: float | None = packaged(ge=1e-9, le=1e9)
    max_iterations: int = packaged(ge=1, le=1_000_000)


class Probe(Fitted):
    """Logistic regression on frozen features: logits of an image are weight @ feature + bias.

    Args:
        method: with the settings it was fitted with.
        backbone: frozen.
        names: classes that it can tell.
        weight: [C, d].
        bias: [C].
        strength: of the penalty, of the base and the novel half, [2].
    """

    def __init__(
        self,
        method: Method,
        backbone: Backbone,
        names: Sequence[str],
        weight: torch.Tensor,
        bias: torch.Tensor,
        strength: torch.Tensor,
    ) -> None:
        super().__init__(method, backbone)
        self.names = tuple(names)
        self.weight: torch.Tensor
        self.bias: torch.Tensor
        self.strength: torch.Tensor
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.register_buffer("strength", strength)

    @property
    def trained_parameters(self) -> int:
        return self.weight.numel() + self.bias.numel()

    def facts(self) -> dict[str, Any]:
        return {"names": list(self.names)}

    def class_texts(self, classes: Classes) -> torch.Tensor:
        raise CaptError(
            "linear_probe has no class texts; choose another method where images are to be "
            "compared with texts"
        )

    def scorer(self, classes: Classes, texts: torch.Tensor | None = None) -> Scorer:
        rows = known_rows(self.names, classes, "linear_probe")
        weight, bias = self.weight[rows], self.bias[rows]
        return lambda features: features @ weight.T.to(features) + bias.to(features)


class LinearProbe(Method):
    """Each half of the classes gets a probe of its own.

    Where the settings name no strength, each half takes the one that makes its few-shot validation
    images most likely. Accuracy, which the CoOp line compares, ties too often on so few images.
    """

    name = "linear_probe"
    label = "Linear probe"
    citation = "Radford et al., ICML 2021"
    compares_texts = False
    Settings = LinearProbeSettings

    def fit(self, task: Task) -> Probe:
        dataset = task.dataset
        weights: dict[int, torch.Tensor] = {}
        biases: dict[int, torch.Tensor] = {}
        strengths = []
        groups = [group for group in ("base", "novel") if dataset.class_ids(group)]
        with task.reporter.progress("halves", len(groups)) as advance:
            for group in groups:
                train, class_ids = task.few_shot("train", group), dataset.class_ids(group)
                strength = self.settings.strength
                if strength is None:
                    val = validation_images(task, group, "methods.linear_probe.strength")
                    strength = _chosen_strength(class_ids, train, val, self.settings)
                weight, bias = fit_half(class_ids, train, strength, self.settings)
                weights |= dict(zip(class_ids, weight, strict=True))
                biases |= dict(zip(class_ids, bias, strict=True))
                strengths.append(strength)
                advance(1)
        order = range(len(dataset.classes))
        return Probe(
            self,
            task.backbone,
            dataset.class_names,
            torch.stack([weights[class_id] for class_id in order]),
            torch.stack([biases[class_id] for class_id in order]),
            torch.tensor(strengths),
        )

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> Probe:
        parts = (tensors[name] for name in ("weight", "bias", "strength"))
        return Probe(self, backbone, facts["names"], *parts)

    def sees(self, task: Task, fitted: Fitted) -> list[str]:
        novel = ["novel images (linear probe)"] if task.dataset.class_ids("novel") else []
        return super().sees(task, fitted) + novel


def fit_half(
    class_ids: list[int],
    train: FewShotFeatures,
    strength: float,
    settings: LinearProbeSettings,
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
    class_ids: list[int],
    train: FewShotFeatures,
    val: FewShotFeatures,
    settings: LinearProbeSettings,
) -> float:
    def logits_of(strength: float) -> torch.Tensor:
        weight, bias = fit_half(class_ids, train, strength, settings)
        return val.features @ weight.T + bias

    return likeliest(STRENGTHS, logits_of, class_positions(val.labels, class_ids))
