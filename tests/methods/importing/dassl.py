"""Checkpoints as the Dassl toolbox writes them, made of fitted methods of this project."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from capt_core.backbone.loading import Backbone
from capt_core.methods.coop import LearnedContext
from capt_core.methods.maple import CoupledPrompts
from capt_core.methods.method import Fitted
from capt_core.methods.prompting.start import texts_with_context
from capt_core.methods.prompting.text import text_tower, token_embedding
from capt_core.methods.promptsrc import IndependentPrompts

State = dict[str, torch.Tensor]


def state_of(fitted: Fitted, names: Sequence[str]) -> State:
    """The state dict that the published code of a fitted method has after training on names."""
    backbone = fitted.backbone
    if isinstance(fitted, LearnedContext):
        texts = class_texts(names, None, fitted.context.shape[-2], backbone)
        return {"ctx": fitted.context.detach(), **texts}
    settings = fitted.method.settings
    texts = class_texts(names, settings.context_init, settings.context_length, backbone)
    found = {f"prompt_learner.{name}": value for name, value in texts.items()}
    if isinstance(fitted, CoupledPrompts):
        found |= _maple(fitted)
    elif isinstance(fitted, IndependentPrompts):
        found |= _promptsrc(fitted)
    return found | copies(backbone)


def class_texts(names: Sequence[str], words: str | None, length: int, backbone: Backbone) -> State:
    """Embeddings of the start tokens, and of what follows the context."""
    tokens = backbone.tokenizer(texts_with_context(names, words, length))
    with torch.no_grad():
        embedded = token_embedding(backbone.clip)(tokens)
    return {"token_prefix": embedded[:, :1], "token_suffix": embedded[:, 1 + length :]}


def copies(backbone: Backbone) -> State:
    """The frozen towers as the published code names them."""
    clip = backbone.clip
    image = {f"image_encoder.{name}": value for name, value in clip.visual.state_dict().items()}
    text = {
        f"text_encoder.{name}": value
        for name, value in text_tower(clip).state_dict().items()
        if name.startswith(("transformer.", "positional_", "ln_final.", "text_projection"))
    }
    return {**image, **text, "logit_scale": clip.logit_scale.detach()}


def _maple(fitted: CoupledPrompts) -> State:
    parameters = (fitted.prompts, fitted.coupling_weights, fitted.coupling_biases)
    found: State = {}
    for index, (prompt, weight, bias) in enumerate(zip(*parameters, strict=True)):
        layer = f"compound_prompt_projections.{index - 1}" if index else "proj"
        own = f"compound_prompts_text.{index - 1}" if index else "ctx"
        found |= {own: prompt, f"{layer}.weight": weight, f"{layer}.bias": bias}
    return {f"prompt_learner.{name}": value.detach() for name, value in found.items()}


def _promptsrc(fitted: IndependentPrompts) -> State:
    found = {"prompt_learner.ctx": fitted.text[0], "image_encoder.VPT": fitted.image[0]}
    for tower, prompts in (("text_encoder", fitted.text), ("image_encoder", fitted.image)):
        for block, prompt in enumerate(prompts[1:], 1):
            found[f"{tower}.transformer.resblocks.{block}.VPT_shallow"] = prompt
    again = fitted.backbone.clip.visual.state_dict()
    frozen = {f"prompt_learner.ZS_image_encoder.{name}": value for name, value in again.items()}
    return {name: value.detach() for name, value in found.items()} | frozen


def halved(state: State) -> State:
    """In half precision, as the published code trains."""
    return {
        name: value.half() if value.is_floating_point() else value for name, value in state.items()
    }


def save(state: State, path: Path, **entries: Any) -> Path:
    """Write a checkpoint with all that stands beside the weights, after two steps of training."""
    prompt = nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.SGD([prompt], lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
    torch.autograd.backward(prompt.sum())
    optimizer.step()
    schedule.step()
    document = {
        "state_dict": {name: value.contiguous().clone() for name, value in state.items()},
        "epoch": 50,
        "optimizer": optimizer.state_dict(),
        # The warm-up that Dassl wraps around a schedule keeps the schedule itself.
        "scheduler": {"successor": schedule, "last_epoch": 1, "cons_lr": 1e-5},
        "val_result": None,
    }
    torch.save({**document, **entries}, path)
    return path
