"""What fixtures of methods with prompts in both towers have in common."""

from __future__ import annotations

import torch

from benchmarks.parity.fixture import Fixture, Tensors
from capt_core.methods.prompting.fitted import PromptedClip, unit
from capt_core.methods.zero_shot import class_logits


@torch.no_grad()
def scores(fitted: PromptedClip, fixture: Fixture) -> Tensors:
    """Features of the images and of both halves' texts, not normalised, and logits."""
    images = fitted.encode(fixture.inputs["images"])
    found = {"image_features": images}
    for half in ("base", "novel"):
        texts = fitted.encode_tokens(fixture.inputs[f"tokens_{half}"])
        logits = class_logits(unit(images), unit(texts), fitted.backbone.logit_scale)
        found |= {f"text_features_{half}": texts, f"logits_{half}": logits}
    return found


def prefixed(prefix: str, values: Tensors) -> Tensors:
    """Values under longer names; copies, so that training does not change them."""
    return {f"{prefix}.{name}": value.detach().clone() for name, value in values.items()}
