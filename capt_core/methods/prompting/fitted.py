"""CLIP with learned prompts in both towers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from capt_core.backbone.encoding import check_lengths, unit_features
from capt_core.learning.optimisation import Optimisation
from capt_core.methods.classes import Classes
from capt_core.methods.image_tower import ImageTower, PromptedTower
from capt_core.methods.method import Fitted, Method, Need
from capt_core.methods.prompting.image import check_image_tower
from capt_core.methods.prompting.start import texts_with_context
from capt_core.methods.prompting.text import encode_text_with_prompts, text_blocks
from capt_core.settings_file import packaged

TEXTS_AT_ONCE = 256


class PromptSettings(Optimisation):
    """Settings of methods that learn prompts in both towers."""

    context_init: str | None = packaged(min_length=1)
    context_length: int = packaged(ge=1, le=1000)


class PromptMethod(Method):
    """A method that learns prompts in both towers from augmented images."""

    needs = frozenset({Need.PIXELS})

    def check_clip(self, clip: Any) -> None:
        text_blocks(clip)
        check_image_tower(clip.visual)


def unit(features: torch.Tensor) -> torch.Tensor:
    """Features at unit length, in fp64 if they are, else in fp32."""
    exact = features if features.dtype == torch.float64 else features.float()
    return functional.normalize(exact, dim=-1)


class PromptedClip(Fitted):
    """CLIP with learned prompts in both towers, and class texts that follow any names."""

    frozen_tower = False

    @abstractmethod
    def text_prompts(self) -> torch.Tensor | Sequence[torch.Tensor]:
        """By depth, each [n, W]; the first is the context."""

    @abstractmethod
    def image_prompts(self) -> torch.Tensor | Sequence[torch.Tensor]:
        """By depth, each [P, D]."""

    def image_tower(self) -> ImageTower:
        return PromptedTower(self.backbone.clip.visual, self.image_prompts())

    def encode_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token ids [C, L], the context's words or placeholders first, to features [C, d]."""
        return encode_text_with_prompts(self.backbone.clip, tokens, self.text_prompts())

    def compared(
        self, images: torch.Tensor, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images [B, 3, S, S] and texts [C, L] to unit-length features [B, d] and [C, d]."""
        with self.backbone.precision():
            return unit(self.encode(images)), unit(self.encode_tokens(tokens))

    def tokens(self, names: Sequence[str]) -> torch.Tensor:
        """Token ids [C, L] of class names behind the context's words, on the backbone's device.

        Raises:
            CaptError: a name is too long for the backbone behind this context.
        """
        settings, backbone = self.method.settings, self.backbone
        texts = texts_with_context(names, settings.context_init, settings.context_length)
        check_lengths(texts, backbone)
        return backbone.tokenizer(texts).to(backbone.device)

    @torch.no_grad()
    def class_texts(self, classes: Classes) -> torch.Tensor:
        tokens, backbone = self.tokens(classes.prompt_names), self.backbone
        prompts = [prompt.to(backbone.device) for prompt in self.text_prompts()]
        features = []
        for start in range(0, len(tokens), TEXTS_AT_ONCE):
            part = tokens[start : start + TEXTS_AT_ONCE]
            with backbone.precision():
                encoded = encode_text_with_prompts(backbone.clip, part, prompts)
            features.append(unit_features(encoded, backbone, "texts"))
        return torch.cat(features)

    def readable_prompts(self, classes: Classes) -> list[str]:
        """``[v1] [v2] of a name.``: vectors in place of the words that they started from."""
        settings = self.method.settings
        length = settings.context_length
        rest = [] if settings.context_init is None else settings.context_init.split()[length:]
        before = " ".join([*(f"[v{number}]" for number in range(1, length + 1)), *rest])
        return [f"{before} {name}." for name in classes.prompt_names]
