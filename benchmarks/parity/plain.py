"""The frozen CLIP itself."""

from __future__ import annotations

from benchmarks.parity.fixture import Fixture, Tensors
from capt_core.methods.clip import Clip
from capt_core.methods.method import Fitted
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.zero_shot import class_logits


def known(fixture: Fixture) -> bool:
    """Whether a fixture has nothing but a base model."""
    return all(name.startswith("clip.") for name in fixture.weights)


def computed(fixture: Fixture) -> tuple[Tensors, Tensors]:
    """What the frozen CLIP gives; no parameter changes."""
    backbone = fixture.backbone()
    fixture.check_names("texts", fixture.inputs["tokens"])
    images = Fitted(Clip(), backbone).encode(fixture.inputs["images"])
    texts = backbone.clip.encode_text(fixture.inputs["tokens"])
    logits = class_logits(unit(images), unit(texts), backbone.logit_scale)
    return {"image_features": images, "text_features": texts, "logits": logits}, {}
