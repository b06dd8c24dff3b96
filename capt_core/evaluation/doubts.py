"""Reasons to doubt every number of a data set, as sentences."""

from __future__ import annotations

import polars as pl

from capt_core.advice import setting
from capt_core.backbone.identity import is_embedded_backbone
from capt_core.backbone.loading import UNTRAINED_WARNING
from capt_core.data.registry import dataset_spec
from capt_core.evaluation.chance import chance_warnings

EMBEDDED_NOTE = (
    "Embedded demonstration: synthetic textures and a tiny CLIP; no evidence about real CLIP."
)


def is_embedded(dataset: str) -> bool:
    """Whether a data set is the project's own drawn textures."""
    return dataset_spec(dataset).reader == "proctex"


def backbone_doubts(dataset: str, backbone: str, untrained: bool) -> list[str]:
    """Why a backbone's answers about a data set say little, the gravest reason first.

    Args:
        dataset: its name.
        backbone: identity of the backbone, as artifacts carry it; empty for imported predictions.
        untrained: its weights are a random initialisation.
    """
    found = [UNTRAINED_WARNING] if untrained else []
    if is_embedded_backbone(backbone) and not untrained and not is_embedded(dataset):
        found.append(
            "The embedded tiny CLIP knows drawn textures only: its confusions of photographs say "
            "nothing about a real model's. Choose one and its weights: "
            f"{setting('backbone.name', 'ViT-B-16')} {setting('backbone.checkpoint', 'FILE')}."
        )
    return found


def doubts(
    dataset: str, backbone: str, untrained: bool, predictions: pl.DataFrame, classes: pl.DataFrame
) -> list[str]:
    """`backbone_doubts`, and halves of the classes on which the base model only guesses.

    Args:
        dataset: its name.
        backbone: identity of the backbone.
        untrained: its weights are a random initialisation.
        predictions: table `predictions` of the base model.
        classes: table `classes`.
    """
    return [
        *backbone_doubts(dataset, backbone, untrained),
        *chance_warnings(predictions, classes),
    ]


def is_unsuited(
    dataset: str, backbone: str, untrained: bool, predictions: pl.DataFrame, classes: pl.DataFrame
) -> bool:
    """Whether what the base model confuses says nothing about the classes; arguments of `doubts`.

    It guesses, or it is wrong about most images and there is a reason to expect that.
    """
    if untrained or chance_warnings(predictions, classes):
        return True
    mostly_wrong = 2 * int(predictions["correct"].sum()) < len(predictions)
    return mostly_wrong and bool(backbone_doubts(dataset, backbone, untrained))
