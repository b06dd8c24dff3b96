"""Prompts of both towers beside centre tokens, which patches do not attend to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from capt_core.backbone.encoding import check_lengths
from capt_core.backbone.loading import Backbone
from capt_core.methods.classes import Classes
from capt_core.methods.image_tower import ImageTower, PromptedTower
from capt_core.methods.method import Method
from capt_core.methods.prompting.text import PLACEHOLDER, made_room
from capt_core.methods.promptsrc import IndependentPrompts


def centre_mask(tokens: int, centres: int, prompts: int) -> torch.Tensor:
    """Who may not attend to whom in the image tower: patches not to the centre tokens.

    Args:
        tokens: class token and patches, 1 + N.
        centres: K, which follow them.
        prompts: m, which come last.

    Returns:
        [1 + N + K + m, the same]; True is forbidden, rows attend to columns.
    """
    size = tokens + centres + prompts
    forbidden = torch.zeros(size, size, dtype=torch.bool)
    forbidden[1:tokens, tokens : tokens + centres] = True
    return forbidden


class TaskAwareTower(PromptedTower):
    """A tower with prompts whose patches do not attend to the centre tokens among them.

    Args:
        visual: `clip.visual`, frozen.
        prompts: by depth, each [K + m, D], centre tokens first.
        centres: K.
    """

    def __init__(
        self, visual: Any, prompts: Sequence[torch.Tensor] | torch.Tensor, centres: int
    ) -> None:
        super().__init__(visual, prompts)
        self.centres = centres

    def through(self, tokens: torch.Tensor, block: int) -> torch.Tensor:
        prompts = self.prompts[0].shape[0]
        forbidden = centre_mask(tokens.shape[1] - prompts, self.centres, prompts - self.centres)
        added = torch.zeros(forbidden.shape).masked_fill(forbidden, float("-inf"))
        found: torch.Tensor = self.blocks[block](tokens, attn_mask=added.to(tokens.device))
        return found


class TaskAwarePrompts(IndependentPrompts):
    """CLIP with prompts of both towers behind tokens of the task's centres, the same at each block.

    Args:
        method: with the settings it was fitted with.
        backbone: frozen.
        text: [J_t, n, W], by depth; the first is the context.
        image: [J_v, m, D], by depth.
        centres: [K, d], unit length; those of the trained classes, for novel names too.
    """

    def __init__(
        self,
        method: Method,
        backbone: Backbone,
        text: torch.Tensor,
        image: torch.Tensor,
        centres: torch.Tensor,
    ) -> None:
        super().__init__(method, backbone, text, image)
        self.centres: torch.Tensor
        self.register_buffer("centres", centres)
        self.to_text = nn.Linear(centres.shape[1], text.shape[2], dtype=text.dtype)
        self.to_image = nn.Linear(centres.shape[1], image.shape[2], dtype=image.dtype)

    @property
    def room(self) -> int:
        """Positions of a text that centre tokens and context take up."""
        return self.centres.shape[0] + self.text.shape[1]

    def text_prompts(self) -> torch.Tensor:
        return _behind(self.to_text(self.centres), self.text)

    def image_prompts(self) -> torch.Tensor:
        return _behind(self.to_image(self.centres), self.image)

    def image_tower(self) -> ImageTower:
        return TaskAwareTower(
            self.backbone.clip.visual, self.image_prompts(), self.centres.shape[0]
        )

    def tokens(self, names: Sequence[str]) -> torch.Tensor:
        """Token ids [C, L] of class names behind the method's words, with room before them.

        Raises:
            CaptError: a name is too long for the backbone behind centre tokens and context.
        """
        backbone, words = self.backbone, self.method.settings.context_init
        texts = [" ".join(filter(None, [words, f"{name}."])) for name in names]
        before = " ".join([PLACEHOLDER] * self.room)
        check_lengths([f"{before} {text}" for text in texts], backbone)
        return made_room(backbone.tokenizer(texts), self.room).to(backbone.device)

    def readable_prompts(self, classes: Classes) -> list[str]:
        """``[c1] [v1] a photo of a name.``: centre tokens and vectors before the words."""
        vectors = [f"[c{number}]" for number in range(1, len(self.centres) + 1)]
        vectors += [f"[v{number}]" for number in range(1, self.text.shape[1] + 1)]
        before = " ".join(filter(None, [*vectors, self.method.settings.context_init]))
        return [f"{before} {name}." for name in classes.prompt_names]


def _behind(tokens: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
    """Prompts [J, n, W] behind the same tokens [K, W] at every depth, [J, K + n, W]."""
    return torch.cat([tokens.to(prompts.dtype).expand(len(prompts), -1, -1), prompts], dim=1)
