"""What TAP learns, and how images are compared with bags of sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from capt_core.backbone.loading import Backbone
from capt_core.learning.randomness import draw_seed, generator
from capt_core.methods.classes import Classes
from capt_core.methods.method import Fitted, Method, Scorer
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.prompting.text import encode_text_with_prompts
from capt_core.methods.tap.bags import SentenceBags, Tree, class_bags
from capt_core.methods.tap.tower import encode_image_with_experts

_AT_ONCE = 2**25  # numbers of the pooled texts that are in memory while images are scored


class VisionExperts(nn.Module):
    """Expert tokens of A attributes, and the pooling of H = 1 + A heads, that of the class first.

    Args:
        tokens: at the input of the image tower, [A, D].
        deep: added at the input of each block but the first, [J, A, D].
        query_weight: of the pooling, [H, d, d].
        query_bias: [H, d].
        key_weight: [H, d, d].
        key_bias: [H, d].
    """

    def __init__(
        self,
        tokens: torch.Tensor,
        deep: torch.Tensor,
        query_weight: torch.Tensor,
        query_bias: torch.Tensor,
        key_weight: torch.Tensor,
        key_bias: torch.Tensor,
    ) -> None:
        super().__init__()
        self.tokens, self.deep = nn.Parameter(tokens), nn.Parameter(deep)
        self.query_weight, self.query_bias = nn.Parameter(query_weight), nn.Parameter(query_bias)
        self.key_weight, self.key_bias = nn.Parameter(key_weight), nn.Parameter(key_bias)

    @staticmethod
    def start(attributes: int, visual: Any, width: int, seed: int) -> VisionExperts:
        """Before the first step.

        Args:
            attributes: A.
            visual: open_clip vision transformer.
            width: d, of its features.
            seed: of what is drawn.
        """
        image_width = visual.class_embedding.shape[0]
        # A patch's pixels and a token's width, as of a layer that embeds the one as the other.
        bound = math.sqrt(6 / (3 * math.prod(visual.patch_size) + image_width))
        draws = generator("expert tokens", seed)
        tokens = (2 * torch.rand(attributes, image_width, generator=draws) - 1) * bound
        deep = torch.zeros(len(visual.transformer.resblocks) - 1, attributes, image_width)
        heads = 1 + attributes
        query, key = torch.empty(2, heads, width, width)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw_seed("pooling", seed))
            for weight in (query, key):
                nn.init.trunc_normal_(weight, std=0.02)
        return VisionExperts(
            tokens, deep, query, torch.zeros(heads, width), key, torch.zeros(heads, width)
        )

    def pooled(
        self, tokens: torch.Tensor, sentences: torch.Tensor, used: torch.Tensor
    ) -> torch.Tensor:
        """Vision-conditional pooling: the texts of each class as an image asks for them.

        Args:
            tokens: image features of each head, unit length, [B, H, d].
            sentences: unit length, [H, C, N, d].
            used: which of them there are, [H, C, N].

        Returns:
            Unit length, [H, B, C, d].
        """
        queries = torch.einsum("bhd,hed->hbe", tokens, self.query_weight)
        queries = (queries + self.query_bias[:, None]) / math.sqrt(tokens.shape[-1])
        keys = torch.einsum("hcnd,hed->hcne", sentences, self.key_weight)
        keys = keys + self.key_bias[:, None, None]
        scores = torch.einsum("hbe,hcne->hbcn", queries, keys)
        weights = scores.masked_fill(~used[:, None], float("-inf")).softmax(dim=-1)
        return unit(torch.einsum("hbcn,hcnd->hbcd", weights, sentences))


class AttributeClip(Fitted):
    """CLIP that compares its class token and one token of each attribute with sentences.

    Its features are those of the class token and of the A attributes side by side, [B, (1 + A) d],
    of unit length as a whole.

    Args:
        method: with the settings it was fitted with.
        backbone: frozen.
        context: before every sentence, [n, W].
        experts: the image side.
        attributes: names of the A attributes.
        tree: sentences of the described classes.
    """

    frozen_tower = False

    def __init__(
        self,
        method: Method,
        backbone: Backbone,
        context: torch.Tensor,
        experts: VisionExperts,
        attributes: Sequence[str] = (),
        tree: Tree | None = None,
    ) -> None:
        super().__init__(method, backbone)
        self.scale = backbone.logit_scale  # a plain number, for exported models
        self.context = nn.ParameterList([nn.Parameter(context)])
        self.experts = experts
        self.attributes = tuple(attributes)
        self.tree = tree or {}

    def facts(self) -> dict[str, Any]:
        tree = {name: {at: list(rows[at]) for at in rows} for name, rows in self.tree.items()}
        return {"attributes": list(self.attributes), "tree": tree}

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        visual, experts = self.backbone.clip.visual, self.experts
        features = encode_image_with_experts(visual, images, experts.tokens, experts.deep)
        return features.flatten(1)

    def by_head(self, features: torch.Tensor) -> torch.Tensor:
        """Features [B, (1 + A) d] of `encode` to those of each head, unit length, [B, 1 + A, d]."""
        heads = len(self.experts.query_bias)
        return unit(features.reshape(-1, heads, features.shape[1] // heads))

    def encode_sentences(self, bags: SentenceBags) -> torch.Tensor:
        """Features of sentences behind the context, [H, C, N, d], not normalised."""
        clip = self.backbone.clip

        def encode(tokens: torch.Tensor) -> torch.Tensor:
            return encode_text_with_prompts(clip, tokens, list(self.context))

        with self.backbone.precision():
            return bags.features(encode)

    def head_logits(
        self, tokens: torch.Tensor, sentences: torch.Tensor, used: torch.Tensor
    ) -> torch.Tensor:
        """Logits of each head, [H, B, C]; see `VisionExperts.pooled`."""
        texts = self.experts.pooled(tokens, sentences, used)
        return self.scale * torch.einsum("bhd,hbcd->hbc", tokens, texts)

    def combined(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits [B, C]: alpha of the class head, the rest shared by the attributes' heads."""
        weight: float = self.method.settings.class_weight
        return weight * logits[0] + (1 - weight) * logits[1:].mean(dim=0)

    def bags(self, classes: Classes) -> SentenceBags:
        """Sentences of any classes, on the backbone's device.

        Raises:
            CaptError: a class name is too long for the backbone.
        """
        settings, backbone = self.method.settings, self.backbone
        words = settings.context_init
        texts = class_bags(
            classes.names, classes.prompt_names, self.tree, self.attributes, words, backbone
        )
        tokens = [[backbone.tokenizer(bag) for bag in head] for head in texts]
        return SentenceBags.of(tokens, settings.length_quantile).to(backbone.device)

    @torch.no_grad()
    def scorer(self, classes: Classes, texts: torch.Tensor | None = None) -> Scorer:
        return self.scorer_of(self.bags(classes))

    @torch.no_grad()
    def scorer_of(self, bags: SentenceBags) -> Scorer:
        """`scorer` of the classes whose sentences are given."""
        sentences = unit(self.encode_sentences(bags))

        def part(features: torch.Tensor) -> torch.Tensor:
            tokens = self.by_head(features)
            found = self.head_logits(tokens, sentences.to(tokens), bags.used.to(tokens.device))
            return self.combined(found)

        def score(features: torch.Tensor) -> torch.Tensor:
            if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore
                return part(features)  # an exported model takes any number of images
            pooled = sentences[:, :, 0].numel()  # numbers that one image's texts are
            chunks = torch.split(features, max(1, _AT_ONCE // pooled))
            return torch.cat([part(chunk) for chunk in chunks])

        return score

    def readable_prompts(self, classes: Classes) -> list[str]:
        """``[v1] [v2] a name.``: how sentences begin, and what stands for missing ones."""
        settings = self.method.settings
        words, length = settings.context_init.split(), settings.context_length
        before = " ".join([*(f"[v{number}]" for number in range(1, length + 1)), *words[length:]])
        return [f"{before} {name}." for name in classes.prompt_names]
