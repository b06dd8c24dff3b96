"""The confused-pair expert of a trained model, from the task that it was trained on."""

from __future__ import annotations

import polars as pl
import torch
from torch.nn import functional

from capt_core.errors import CaptError
from capt_core.methods.capt.diagnosis import common_share, output_norm
from capt_core.methods.capt.model import CaptModel
from capt_core.methods.capt.pair_expert import ConfusedPairExpert, ConfusedPairs
from capt_core.methods.capt.settings import Experts
from capt_core.methods.capt.training import TrainingData
from capt_core.methods.descriptions import retained_texts
from capt_core.methods.image_tower import ImageTower
from capt_core.methods.method import Fitted
from capt_core.methods.task import Task
from capt_core.methods.views import View

BATCH = 128


def shares_space(base: Fitted) -> bool:
    """Whether a base model compares what its tower gives with texts as they are."""
    plain = type(base).adapt is Fitted.adapt and type(base.image_tower()).head is ImageTower.head
    return plain and base.text_backbone() is base.backbone


def check_pair_expert(base: Fitted, model: CaptModel) -> None:
    """Refuse what the expert's directions cannot be brought into.

    Raises:
        CaptError: texts are not in the space that the tower leads to, or it pools by attention.
    """
    if model.inverse is None:
        why = (
            "pools by attention, which has no inverse"
            if shares_space(base)
            else "is not compared with texts in the space that it leads to"
        )
        raise CaptError(
            f"methods.capt.experts: confused_pair cannot be had, because the image tower of "
            f"{base.method.name} {why}; leave it out of granularities, or choose another base model"
        )


def confused_pairs(prompts: pl.DataFrame, trained: list[int]) -> list[tuple[int, int]]:
    """The pairs that prompts are about, as positions among the trained classes, each once.

    Args:
        prompts: the table `prompts`.
        trained: class ids of the trained classes.
    """
    position = {class_id: index for index, class_id in enumerate(trained)}
    found = {
        (min(position[one], position[other]), max(position[one], position[other]))
        for one, other in prompts.select("class_id", "paired_class_id").unique().iter_rows()
    }
    return sorted(found)


@torch.no_grad()
def pair_expert(
    task: Task, base: Fitted, model: CaptModel, data: TrainingData, settings: Experts
) -> ConfusedPairExpert:
    """Compute the expert on the few-shot images, as the trained model sees them without experts.

    Raises:
        CaptError: see `check_pair_expert` and `fisher_keys`.
    """
    check_pair_expert(base, model)
    assert model.inverse is not None
    assert task.prompts is not None
    tower, anchors = model.base_tower(), [anchor.sample_id for anchor in data.anchors]
    class_tokens, features = [], []
    for start in range(0, len(anchors), BATCH):
        views = [View(sample_id) for sample_id in anchors[start : start + BATCH]]
        prefix = data.views(views).tokens
        with task.backbone.precision():
            alpha = model.running_alpha.to(prefix.dtype).expand(len(prefix))
            tokens = model.adapted_tokens(prefix, alpha, class_token_only=True)
            features.append(tower.head(tokens).float())
        class_tokens.append(tokens[:, 0].float())
    seen = torch.cat(features)
    texts = data.objective.text_features
    generic = retained_texts(task, texts.cpu(), "generic", base.text_backbone()).to(texts.device)
    pairs = confused_pairs(task.prompts(), task.trained_classes)
    labels = torch.tensor([data.labels[sample_id] for sample_id in anchors], device=seen.device)
    mined = ConfusedPairs(
        pairs,
        texts,
        generic,
        task.backbone.logit_scale,
        settings.shrinkage,
        settings.pair_strength,
    )
    found = mined.expert(functional.normalize(seen, dim=-1), labels, model.inverse)
    moved = found.to(seen.device)(torch.cat(class_tokens), seen)
    task.reporter.say(
        f"confused pairs: {len(pairs)}, moved by {output_norm(moved):.2f}, "
        f"{100 * common_share(moved):.0f} % of it common to all images; "
        f"{model.inverse.rank} of {model.width} directions inverted, "
        f"condition {model.inverse.condition:.1f}"
    )
    return found


def restored_expert(tensors: dict[str, torch.Tensor]) -> ConfusedPairExpert:
    """An expert of the sizes of saved tensors, to be loaded with them."""
    keys, values = tensors["keys"], tensors["values"]
    return ConfusedPairExpert(len(keys), len(tensors["texts"]), keys.shape[1], values.shape[1])
