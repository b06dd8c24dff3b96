"""The loss of both phases of TAP, and the average that each side ends with."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from capt_core.learning.averaging import StateAverage, gaussian_weights
from capt_core.learning.loop import Batch, Record
from capt_core.learning.randomness import generator
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.prompting.zero_shot_reference import feature_distance, logits_distance
from capt_core.methods.tap.bags import SentenceBags
from capt_core.methods.tap.model import AttributeClip
from capt_core.methods.tap.settings import Phase, TapSettings
from capt_core.methods.zero_shot import class_logits


def head_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each head, [H], of logits [H, B, C] and positions of the classes [B]."""
    return torch.stack([functional.cross_entropy(head, labels) for head in logits])


def contrast(learned: torch.Tensor, frozen: torch.Tensor, scale: float) -> list[torch.Tensor]:
    """Cross-entropy of each sentence over all, learned against frozen and the other way round.

    Args:
        learned: features with the learned context, unit length, [M, d].
        frozen: of the same sentences with their own words, unit length, [M, d].
        scale: inverse temperature.
    """
    logits = class_logits(learned, frozen, scale)
    own = torch.arange(len(logits), device=logits.device)
    return [functional.cross_entropy(each, own) for each in (logits, logits.T)]


def batch_classes(
    labels: torch.Tensor, count: int, most: int, draws: torch.Generator
) -> torch.Tensor:
    """Positions of the classes of a text step: those of the batch and random others.

    Args:
        labels: of the batch, [B].
        count: number of trained classes.
        most: how many take part; all do if there are no more. A batch keeps all of its own.
        draws: of the others.

    Returns:
        [K], ascending.
    """
    if count <= most:
        return torch.arange(count)
    own = torch.unique(labels.cpu())
    order = torch.randperm(count, generator=draws)
    others = order[~torch.isin(order, own)]
    return torch.cat([own, others[: max(0, most - len(own))]]).sort().values


class AlternatingLoss:
    """The loss of TAP, in whichever phase a batch belongs to.

    Args:
        fitted: what is trained.
        bags: sentences of the trained classes.
        zero_shot: frozen text features of the same classes, unit length, [C, d].
        seed: of what is drawn.
    """

    def __init__(
        self, fitted: AttributeClip, bags: SentenceBags, zero_shot: torch.Tensor, seed: int
    ) -> None:
        self.fitted, self.bags, self.zero_shot, self.seed = fitted, bags, zero_shot, seed
        backbone = fitted.backbone
        with torch.no_grad(), backbone.precision():
            self.frozen = unit(bags.features(backbone.clip.encode_text))
        self._phases: list[Phase] = fitted.method.settings.phases
        self._batch = Batch(1, 0, [], 1)
        self._kept: tuple[torch.Tensor, torch.Tensor] | None = None

    def begin(self, batch: Batch) -> None:
        """Turn to the phase of a batch: the other side gets no gradient, and so no step."""
        self._batch = batch
        self.fitted.experts.requires_grad_(not self.phase.text)
        self.fitted.context.requires_grad_(self.phase.text)

    @property
    def phase(self) -> Phase:
        return self._phases[self._batch.epoch - 1]

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, Record]:
        """The sum for images [B, 3, S, S] and positions of their classes [B]."""
        parts = self.parts(images, labels)
        names = ("cross_entropy", "image", "logits", "contrast")
        record = {f"{name}_loss": parts[name].item() if name in parts else None for name in names}
        return torch.stack(list(parts.values())).sum(), record

    def parts(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Each term as it enters the sum."""
        return (self.text_parts if self.phase.text else self.vision_parts)(images, labels)

    def vision_parts(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The terms of a vision phase, whose text features stand still."""
        tokens, frozen = self.image_features(images)
        logits = self.fitted.head_logits(tokens, self._still(), self.bags.used)
        distance = feature_distance(tokens[:, 0], frozen)
        weight = self.fitted.method.settings.image_weight
        parts = self.shared_parts(logits, labels, self.zero_shot_logits(frozen))
        return parts | {"image": weight * distance}

    def text_parts(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The terms of a text phase, whose image features stand still."""
        settings = self.fitted.method.settings
        with torch.no_grad():
            tokens, frozen = self.image_features(images)
        draws = generator("tap classes", self.seed, self._batch.step, self._batch.number)
        count = self.zero_shot.shape[0]
        classes = batch_classes(labels, count, settings.text_classes, draws).to(labels.device)
        bags = self.bags.only(classes)
        sentences = unit(self.fitted.encode_sentences(bags))
        logits = self.fitted.head_logits(tokens, sentences, bags.used)
        zero_shot = self.zero_shot_logits(frozen)[:, classes]
        parts = self.shared_parts(logits, torch.searchsorted(classes, labels), zero_shot)
        both = torch.stack(self.contrasts(sentences, classes)).sum()
        return parts | {"contrast": settings.contrast_weight / 2 * both}

    def contrasts(self, sentences: torch.Tensor, classes: torch.Tensor) -> list[torch.Tensor]:
        """`contrast` of a sentence of every head and class, by features [H, K, N, d]."""
        drawn = self.drawn(self.bags.used[:, classes].cpu()).to(classes.device)[..., None, None]
        learned, frozen = (
            features.take_along_dim(drawn, dim=2).flatten(0, 2)
            for features in (sentences, self.frozen[:, classes])
        )
        return contrast(learned, frozen, self.fitted.backbone.logit_scale)

    def shared_parts(
        self, logits: torch.Tensor, labels: torch.Tensor, zero_shot: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Terms of both phases: means over the heads, of logits [H, B, C]."""
        weight = self.fitted.method.settings.logits_weight
        return {
            "cross_entropy": head_losses(logits, labels).mean(),
            "logits": weight * logits_distance(logits, zero_shot),
        }

    def drawn(self, used: torch.Tensor) -> torch.Tensor:
        """A place of each bag that takes part in the contrast, [H, C], of those in use."""
        draws = generator("tap sentences", self.seed, self._batch.step, self._batch.number)
        counts = used.sum(dim=-1)
        return (torch.rand(counts.shape, generator=draws) * counts).long().clamp(max=counts - 1)

    def image_features(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each head [B, H, d], and of the frozen CLIP [B, d], unit length."""
        backbone = self.fitted.backbone
        with backbone.precision():
            tokens = self.fitted.by_head(self.fitted.encode(images))
            with torch.no_grad():
                return tokens, unit(backbone.clip.encode_image(images))

    def zero_shot_logits(self, frozen: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of the frozen CLIP."""
        return class_logits(frozen, self.zero_shot, self.fitted.backbone.logit_scale)

    @torch.no_grad()
    def _still(self) -> torch.Tensor:
        """Sentence features, encoded again only when the context has changed."""
        context = self.fitted.context[0]
        if self._kept is None or not torch.equal(self._kept[0], context):
            sentences = unit(self.fitted.encode_sentences(self.bags))
            self._kept = context.clone(), sentences
        return self._kept[1]


class AlternatingAverage(nn.Module):
    """Both sides with their Gaussian-weighted sums over the epochs of their own phases.

    Args:
        fitted: whose sides take their averages at the end of their last epochs.
        settings: of TAP.
    """

    def __init__(self, fitted: AttributeClip, settings: TapSettings) -> None:
        super().__init__()
        self.phases = settings.phases

        def average(side: nn.Module, epochs: int) -> StateAverage:
            shares = settings.gaussian_mean, settings.gaussian_deviation
            return StateAverage(side, gaussian_weights(epochs, *(epochs * x for x in shares)))

        self.vision = average(fitted.experts, settings.epochs)
        self.text = average(fitted.context, settings.text_epochs)

    def add(self, epoch: int) -> None:
        """Add the side that an epoch, counted from 1, has trained."""
        phase = self.phases[epoch - 1]
        side = self.text if phase.text else self.vision
        side.add(phase.epoch)
        if phase.epoch == len(side.weights):
            side.load()
