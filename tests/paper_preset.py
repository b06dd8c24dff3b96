"""Settings of CAPT as the paper states them, which the tests vary; the packaged ones differ."""

from __future__ import annotations

from typing import Any

from capt_core.methods.capt.settings import EXPERTS, Adapter, Experts, Losses, Train


def adapter(**changes: Any) -> Adapter:
    """Adapters in every block."""
    return Adapter.model_validate({"blocks": "all", **changes})


def experts(**changes: Any) -> Experts:
    """All three experts, two of which are active."""
    return Experts.model_validate({"granularities": list(EXPERTS), **changes})


def losses(**changes: Any) -> Losses:
    """L_confuse alone."""
    paper = {
        "confusion_weight": 1.0,
        "original_weight": 0.0,
        "original_images": "anchors",
        "retention_weight": 0.0,
        "retention_names": "generic",
    }
    return Losses.model_validate({**paper, **changes})


def train(**changes: Any) -> Train:
    """SGD over augmented views that are never seen twice."""
    paper = {
        "epochs": 25,
        "batch_size": 4,
        "optimizer": "sgd",
        "learning_rate": 0.002,
        "gate_rate": 1.0,
        "augmentation": "crop_flip",
        "views": 0,
        "cache_prefix": False,
        "interpolation": 1.0,
    }
    return Train.model_validate({**paper, **changes})
