"""What a run saw, in words."""

from __future__ import annotations

import pytest

from capt_core.evaluation.visibility import Retention, sees
from capt_core.params import Losses


def retention(weight: float, names: str) -> Retention:
    return Losses.model_validate({"retention_weight": weight, "retention_names": names})


@pytest.mark.parametrize(
    ("method", "shots", "bank", "kept", "text"),
    [
        ("clip", 16, "fewshot", None, "base only"),
        ("clip", 0, "full_train", None, "base only"),  # it looks at no image
        ("coop", 16, "full_train", None, "base only"),  # it reads no bank
        ("coop", 0, "fewshot", None, "all base training images (shots)"),
        ("linear_probe", 16, "fewshot", None, "novel images (linear probe)"),
        ("residual", 16, "fewshot", retention(1.0, "all"), "novel class names (retention)"),
        ("residual", 16, "fewshot", retention(1.0, "training"), "base only"),
        ("residual", 16, "fewshot", retention(1.0, "generic"), "generic vocabulary (retention)"),
        ("residual", 16, "fewshot", retention(0.0, "all"), "base only"),
        (
            "capt",
            16,
            "fewshot",
            retention(4.0, "prompts"),
            "generic vocabulary and the pairs' prompts (retention)",
        ),
        ("capt", 16, "augmented_views", None, "base only"),
        ("capt", 16, "full_train", None, "all base training images (bank)"),
        (
            "capt",
            16,
            "full_train",
            retention(0.5, "all"),
            "all base training images (bank); novel class names (retention)",
        ),
    ],
)
def test_what_a_run_saw(
    method: str, shots: int, bank: str, kept: Retention | None, text: str
) -> None:
    assert sees(method, shots, bank, kept) == text


def test_descriptions_of_classes_are_told() -> None:
    assert sees("clip_prompts", 0, "fewshot", None, described=True) == (
        "difference prompts (class texts)"
    )
    assert sees("residual", 16, "fewshot", retention(1.0, "generic"), described=True) == (
        "difference prompts (class texts); generic vocabulary (retention)"
    )
