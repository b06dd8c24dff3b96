"""A trained model finds its backbone again where `train` had it."""

from __future__ import annotations

from pathlib import Path

import torch

from capt_core.artifacts.provenance import Provenance
from capt_core.backbone.identity import backbone_identity
from capt_core.backbone.loading import load_backbone
from capt_core.backbone.tiny_clip import build_model
from capt_core.methods.classes import Classes
from capt_core.methods.clip import Clip
from capt_core.methods.method import Fitted
from capt_core.methods.trained import TrainedModel
from capt_core.params import Backbone, Runtime, Settings
from stages.backbones import remember, remembered
from stages.models import trained_model
from tests.refusals import refusal

TEMPLATE = "a photo of a {}."


def test_weights_of_training_are_found_again(tmp_path: Path) -> None:
    weights, model = (
        tmp_path / "weights.pt",
        tmp_path / "artifacts/mine/seed1/clip/model.safetensors",
    )
    torch.manual_seed(0)
    torch.save(build_model().state_dict(), weights)
    settings = Backbone(name="tiny-clip", checkpoint=str(weights))
    backbone = load_backbone(settings, Runtime())
    classes = Classes(("a", "b"), (TEMPLATE, TEMPLATE))
    origin = Provenance("mine", "0" * 16, backbone.identity)
    TrainedModel(Fitted(Clip(), backbone), classes, "", 1, origin).save(model)

    assert "--set backbone.checkpoint=FILE" in refusal(trained_model, model, Settings())
    remember(tmp_path / "artifacts", settings, backbone.identity)
    assert trained_model(model, Settings()).fitted.backbone.identity == backbone.identity

    found = remembered(model, backbone.identity)
    assert found is not None
    assert backbone_identity(found) == backbone.identity
    assert remembered(model, "tiny-clip@000000000000") is None
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")  # other weights under the same name
    assert remembered(model, backbone.identity) is None
    (tmp_path / "artifacts/runs/backbones.json").write_text("[" * 9)
    assert remembered(model, backbone.identity) is None
