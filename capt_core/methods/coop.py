"""CoOp: context vectors learnt in place of a prompt's words (Zhou et al., IJCV 2022).

The context is shared by all classes and stands before the class name, so it carries over to
classes it was not learnt on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from capt_core.backbone.encoding import check_lengths, unit_features
from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError
from capt_core.learning.loop import Batch, Record
from capt_core.learning.optimisation import Optimisation
from capt_core.learning.randomness import generator
from capt_core.methods.feature_training import train_on_features, trained_images
from capt_core.methods.method import Classes, Fitted, Method
from capt_core.methods.task import Task
from capt_core.methods.zero_shot import class_logits
from capt_core.settings_file import packaged


class CoOpSettings(Optimisation, path="methods.coop"):
    """The section ``methods.coop``."""

    context_init: str | None = packaged(min_length=1)
    context_length: int = packaged(ge=1, le=1000)


_PLACEHOLDER = "X"  # one token in CLIP's vocabulary; its embedding is replaced


def encode_with_context(clip: Any, tokens: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """Text features with the tokens behind the start token replaced by context vectors.

    open_clip's own text tower runs; only what its token embedding returns is changed, so every
    layout of that tower (`CLIP`, `CustomTextCLIP`) and its pooling are kept.

    Args:
        clip: open_clip model.
        tokens: [n, context length], with M placeholders behind the start token.
        context: [M, W], W the width of the text tower.

    Returns:
        Features [n, d], not normalised; gradients reach `context`.
    """
    length = len(context)

    def replaced(_module: nn.Module, _inputs: object, embedded: torch.Tensor) -> torch.Tensor:
        rows = context.to(embedded.dtype).expand(len(embedded), -1, -1)
        return torch.cat([embedded[:, :1], rows, embedded[:, 1 + length :]], dim=1)

    hook = token_embedding(clip).register_forward_hook(replaced)
    try:
        features: torch.Tensor = clip.encode_text(tokens)
    finally:
        hook.remove()
    return features


def token_embedding(clip: Any) -> nn.Embedding:
    """The token embedding of an open_clip model's text tower.

    Raises:
        CaptError: the text tower is not open_clip's own.
    """
    tower = getattr(clip, "text", clip)
    embedding = getattr(tower, "token_embedding", None)
    if not isinstance(embedding, nn.Embedding):
        raise CaptError(
            f"coop: the text tower {type(tower).__name__} has no token embedding to learn a "
            "context for; choose a backbone with open_clip's own text tower, such as ViT-B-16"
        )
    return embedding


def prompts_with_context(names: Sequence[str], length: int) -> list[str]:
    """Texts whose first `length` tokens stand for the context: ``X X X X name.``"""
    return [" ".join([*[_PLACEHOLDER] * length, f"{name}."]) for name in names]


def readable_prompts(names: Sequence[str], length: int) -> list[str]:
    """The same for people, who cannot read the vectors: ``[v1] [v2] [v3] [v4] name.``"""
    vectors = " ".join(f"[v{number}]" for number in range(1, length + 1))
    return [f"{vectors} {name}." for name in names]


def initial_context(settings: CoOpSettings, backbone: Backbone, seed: int) -> torch.Tensor:
    """Context before the first step: embedded words, or N(0, 0.02^2) drawn from a seed, [M, W].

    Raises:
        CaptError: `context_init` holds no words.
    """
    embedding = token_embedding(backbone.clip)
    if settings.context_init is None:
        shape = (settings.context_length, embedding.embedding_dim)
        return 0.02 * torch.randn(shape, generator=generator("context", seed))
    count = backbone.tokenizer.token_count(settings.context_init) - 2
    if count < 1:
        raise CaptError(
            "context_init: no words to start from; null draws context_length vectors instead"
        )
    check_lengths([settings.context_init], backbone)
    tokens = backbone.tokenizer([settings.context_init]).to(backbone.device)
    with torch.no_grad():
        embedded: torch.Tensor = embedding(tokens)
    return embedded[0, 1 : 1 + count].float().cpu()


@torch.no_grad()
def context_features(
    context: torch.Tensor, names: Sequence[str], backbone: Backbone, batch_size: int = 256
) -> torch.Tensor:
    """Unit-length text features [n, d] of class names behind a context, fp32, on the CPU.

    Raises:
        CaptError: a name is too long for the backbone behind this context.
    """
    tokens = _tokens(names, len(context), backbone)
    features = []
    for start in range(0, len(tokens), batch_size):
        part = tokens[start : start + batch_size]
        with backbone.precision():
            encoded = encode_with_context(backbone.clip, part, context.to(backbone.device))
        features.append(unit_features(encoded, backbone, "texts"))
    return torch.cat(features)


class LearnedContext(Fitted):
    """CLIP whose class prompts begin with learned vectors.

    Args:
        method: with the settings it was fitted with.
        backbone: frozen.
        context: [M, W], W the width of the text tower.
    """

    def __init__(self, method: Method, backbone: Backbone, context: torch.Tensor) -> None:
        super().__init__(method, backbone)
        self.context = nn.Parameter(context)

    def class_texts(self, classes: Classes) -> torch.Tensor:
        return context_features(self.context.detach(), classes.prompt_names, self.backbone)

    def readable_prompts(self, classes: Classes) -> list[str]:
        return readable_prompts(classes.prompt_names, len(self.context))


class CoOp(Method):
    """A context shared by all classes, learned by cross-entropy over the trained ones.

    Images enter as stored features of the frozen tower, that is in the test view; the original
    augments them anew at every step.
    """

    name = "coop"
    label = "CoOp"
    citation = "Zhou et al., IJCV 2022"
    Settings = CoOpSettings

    def check_clip(self, clip: Any) -> None:
        token_embedding(clip)

    def fit(self, task: Task) -> LearnedContext:
        backbone = task.backbone
        start = initial_context(self.settings, backbone, task.seed)
        fitted = LearnedContext(self, backbone, start).to(backbone.device)
        images = trained_images(task)
        names = [task.dataset.prompt_names[class_id] for class_id in task.trained_classes]
        tokens = _tokens(names, len(fitted.context), backbone)

        def loss_of(batch: Batch) -> tuple[torch.Tensor, Record]:
            with backbone.precision():
                encoded = encode_with_context(backbone.clip, tokens, fitted.context)
            texts = functional.normalize(encoded.float(), dim=-1)
            logits = class_logits(images.features[batch.samples], texts, backbone.logit_scale)
            return functional.cross_entropy(logits, images.labels[batch.samples]), {}

        return train_on_features(self, task, fitted, [fitted.context], len(images.labels), loss_of)

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> LearnedContext:
        return LearnedContext(self, backbone, tensors["context"])


def _tokens(names: Sequence[str], length: int, backbone: Backbone) -> torch.Tensor:
    texts = prompts_with_context(names, length)
    check_lengths(texts, backbone)
    return backbone.tokenizer(texts).to(backbone.device)
