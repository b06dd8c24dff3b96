"""Follow-up differential descriptions: the likeliest classes of an image, told apart pair by pair.

Esfandiarpoor and Bach, "Follow-Up Differential Descriptions: Language Models Resolve Ambiguities
for Image Classification", ICLR 2024.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError
from capt_core.methods.classes import Classes
from capt_core.methods.data_facts import DataFacts
from capt_core.methods.descriptions import described_groups, pair_vectors
from capt_core.methods.method import Fitted, Method, Need, Scorer, undescribed
from capt_core.methods.task import Task
from capt_core.prompts.shapes import alone
from capt_core.settings_file import Section, packaged

_CHUNK = 64  # images whose texts are in memory at once


def differential_texts(means: torch.Tensor) -> torch.Tensor:
    """Texts of k ambiguous classes: the mean over the others of what tells each from them.

    Args:
        means: [..., k, k, d]; at [i, j] what tells class i from class j. The diagonal is not read.

    Returns:
        [..., k, d], unit length.
    """
    size = means.shape[-2]
    others = 1 - torch.eye(size).to(means)
    return functional.normalize((means * others[..., None]).sum(dim=-2), dim=-1)


def follow_up(zero_shot: torch.Tensor, top: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
    """Zero-shot logits with those of ambiguous classes replaced.

    The other classes stay behind them: they follow the last one at the distance they had.

    Args:
        zero_shot: [N, C].
        top: positions of the k ambiguous classes, [N, k], likeliest first.
        told: their logits by what tells them apart, [N, k].

    Returns:
        Logits [N, C].
    """
    last = zero_shot.gather(1, top[:, -1:])
    lowered = zero_shot - last + told.min(dim=1, keepdim=True).values
    return lowered.scatter(1, top, told)


class FuddSettings(Section, path="methods.fudd"):
    """The section ``methods.fudd``."""

    candidates: int = packaged(ge=2, le=1000)


class Differential(Fitted):
    """Zero-shot CLIP with a second look at the likeliest classes of each image.

    Args:
        method: with the settings it was fitted with.
        backbone: frozen.
        pairs: by class and other class, what tells the first from the second, [d].
    """

    def __init__(
        self, method: Method, backbone: Backbone, pairs: Mapping[tuple[str, str], torch.Tensor]
    ) -> None:
        super().__init__(method, backbone)
        self.pairs = {pair: row for row, pair in enumerate(pairs)}
        self.means: torch.Tensor
        self.register_buffer("means", torch.stack(list(pairs.values())))

    def facts(self) -> dict[str, Any]:
        return {"pairs": [list(pair) for pair in self.pairs]}

    def scorer(self, classes: Classes, texts: torch.Tensor | None = None) -> Scorer:
        prompts = self.class_texts(classes) if texts is None else texts
        zero_shot, scale = super().scorer(classes, prompts), self.backbone.logit_scale
        if len(classes.names) < 2:
            return zero_shot
        rows = pair_rows(classes.names, self.pairs)
        count = min(self.method.settings.candidates, len(classes.names))

        def score(features: torch.Tensor) -> torch.Tensor:
            texts = torch.cat([prompts.to(features), self.means.to(features)])
            logits = zero_shot(features)
            if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore
                # An exported model takes any number of images, and ONNX has no stable sorting.
                top = logits.topk(count, dim=1).indices
                told_all = ambiguous_logits(features, top, texts, rows.to(top.device), scale)
                return follow_up(logits, top, told_all)
            top = logits.argsort(dim=1, descending=True, stable=True)[:, :count]
            parts = zip(torch.split(features, _CHUNK), torch.split(top, _CHUNK), strict=True)
            told = [ambiguous_logits(*part, texts, rows.to(top.device), scale) for part in parts]
            return follow_up(logits, top, torch.cat(told)) if told else logits

        return score


def pair_rows(names: Sequence[str], pairs: Mapping[tuple[str, str], int]) -> torch.Tensor:
    """Where the text stands that tells a class from another, among [prompts; pairs].

    Args:
        names: of C classes, whose prompts come first.
        pairs: number of each described pair, by class and other class.

    Returns:
        [C, C]; the prompt of the first class serves for a pair that nothing is written about.
    """
    size = len(names)
    rows = torch.arange(size)[:, None].repeat(1, size)
    position = {name: index for index, name in enumerate(names)}
    for (name, other), row in pairs.items():
        if name in position and other in position:
            rows[position[name], position[other]] = size + row
    return rows


def ambiguous_logits(
    features: torch.Tensor,
    top: torch.Tensor,
    texts: torch.Tensor,
    rows: torch.Tensor,
    logit_scale: float,
) -> torch.Tensor:
    """Logits of each image's ambiguous classes by `differential_texts`, [N, k].

    Args:
        features: unit length, [N, d].
        top: positions of the classes, [N, k].
        texts: [prompts; pairs], [C + P, d].
        rows: of `pair_rows`, [C, C].
        logit_scale: inverse temperature.
    """
    means = texts[rows[top[:, :, None], top[:, None, :]]]
    return logit_scale * torch.einsum("nd,nkd->nk", features, differential_texts(means))


class FuDD(Method):
    """The likeliest classes of an image are compared by what is written to tell them apart.

    The original asks a language model about every pair that turns up; here the pairs of the prompt
    store or of the language model's answers count. Each other class weighs the same, however much
    is written, and a class's prompt stands for a pair that nothing is written about.
    """

    name = "fudd"
    label = "FuDD"
    citation = "Esfandiarpoor and Bach, ICLR 2024"
    needs = frozenset({Need.CLASS_DESCRIPTIONS})
    description_form = "pairs"
    compares_texts = False
    Settings = FuddSettings

    def check_data(self, data: DataFacts) -> None:
        super().check_data(data)
        if data.descriptions is not None and len(alone(data.descriptions)) == len(
            data.descriptions
        ):
            raise CaptError(undescribed(self.name, data.dataset, "sentences about pairs"))

    def fit(self, task: Task) -> Differential:
        pairs = pair_vectors(task)
        for group in ("base", "novel"):
            names = {task.dataset.class_names[i] for i in task.dataset.class_ids(group)}
            found = sum(set(pair) <= names for pair in pairs) // 2
            total = len(names) * (len(names) - 1) // 2
            task.reporter.say(f"{found} of {total} pairs of {group} classes described")
        return Differential(self, task.backbone, pairs)

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> Differential:
        pairs = [(name, other) for name, other in facts["pairs"]]
        return Differential(self, backbone, dict(zip(pairs, tensors["means"], strict=True)))

    def sees(self, task: Task, fitted: Fitted) -> list[str]:
        assert isinstance(fitted, Differential)
        named = {name for pair in fitted.pairs for name in pair}
        return described_groups(task, named, "difference prompts of pairs")
