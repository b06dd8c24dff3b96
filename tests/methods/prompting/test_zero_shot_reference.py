"""The terms that hold prompts to the frozen CLIP, by hand."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch.nn import functional

from capt_core.backbone.loading import Backbone
from capt_core.methods.prompting.zero_shot_reference import (
    feature_distance,
    mean_text_features,
    prediction_distance,
    reference_templates,
    text_reference,
)

NAMES = ["woven", "cracked"]


def test_the_distance_of_features_is_a_mean_over_entries() -> None:
    found = feature_distance(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.zeros(2, 2))
    assert found.item() == 0.5  # 2 / 4


def test_the_distance_of_predictions_by_hand() -> None:
    # Scale 1: the frozen model gives 1/2 each, the tuned one 3/4 and 1/4.
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    tuned = torch.tensor([[log(3), 0.0]], dtype=torch.float64)
    frozen = torch.zeros(1, 2, dtype=torch.float64)
    found = prediction_distance(tuned, texts, frozen, texts, 1.0)
    expected = (0.5 * log(0.5 / 0.75) + 0.5 * log(0.5 / 0.25)) / 2  # one image, two classes
    assert found.item() == pytest.approx(expected, rel=1e-12)
    assert prediction_distance(tuned, texts, tuned, texts, 9.0).item() == 0


def test_sixty_templates_with_the_plain_one_first() -> None:
    templates = reference_templates()
    assert len(set(templates)) == 60
    assert templates[:2] == ("a photo of a {}.", "a bad photo of a {}.")
    assert all(template.count("{}") == 1 for template in templates)


def test_texts_are_averaged_before_they_are_normalised(backbone: Backbone) -> None:
    clip, templates = backbone.clip, ("a photo of a {}.", "a {} texture.")
    texts = [[template.format(name) for name in NAMES] for template in templates]
    tokens = torch.stack([backbone.tokenizer(row) for row in texts])
    with torch.no_grad():
        encoded = torch.stack([clip.encode_text(row) for row in tokens])
    found = text_reference(NAMES, templates, backbone)
    torch.testing.assert_close(found, encoded.mean(dim=0))
    torch.testing.assert_close(mean_text_features(clip, tokens, batch_size=3), found)
    unit = functional.normalize(encoded, dim=-1).mean(dim=0)
    assert not torch.allclose(
        functional.normalize(found, dim=-1), functional.normalize(unit, dim=-1), atol=1e-6
    )
