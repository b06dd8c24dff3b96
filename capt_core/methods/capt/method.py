"""CAPT: adapters and experts on a frozen base model, trained on its own confusions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import torch

from capt_core.artifacts.tensors import tensors_digest
from capt_core.backbone.loading import Backbone
from capt_core.confusion.bank import count_matrix
from capt_core.data.dataset import Dataset
from capt_core.errors import CaptError
from capt_core.learning.processes import Processes
from capt_core.methods.capt.few_shot import (
    BATCH,
    FewShotSpace,
    asked_of_images,
    shares_space,
    trained_features,
)
from capt_core.methods.capt.joint_space import JointSpace, restored_space
from capt_core.methods.capt.margin import confusion_margin, permuted_margin
from capt_core.methods.capt.model import CaptModel
from capt_core.methods.capt.objective import Objective
from capt_core.methods.capt.rows import Anchor, build_anchors
from capt_core.methods.capt.settings import CaptSettings
from capt_core.methods.capt.tower import adapted_blocks, check_tower
from capt_core.methods.capt.training import Trainer, TrainingData
from capt_core.methods.capt.views import CachedViews, Views, asked_views, live_views
from capt_core.methods.classes import Classes
from capt_core.methods.descriptions import (
    GENERIC,
    described_vectors,
    names_seen,
    retained_texts,
    retention_seen,
)
from capt_core.methods.fitting import dataset_features
from capt_core.methods.image_evidence import shared_classes, with_evidence
from capt_core.methods.method import Fitted, Method, Need, Scorer, named_vectors
from capt_core.methods.model_file import restore_base
from capt_core.methods.task import Confusions, Task, fitted_facts
from capt_core.methods.views import ViewSource
from capt_core.params import settings_hash

SPACE = "space."
"""Place of the joint space's tensors in the state of a fitted model."""


class FittedCapt(Fitted):
    """A base model with CAPT's adapters and experts in its image tower.

    Args:
        method: with the settings it was fitted with.
        base: the base model; its class texts and what it does to features stay.
        model: adapters and experts around the base model's tower.
        class_vectors: see `Fitted`.
        space: what is made of its features before they are compared with texts.
        told: names of the K classes that few-shot images tell apart, and the weight [K, d] and
            bias [K] of their discriminant; None where texts alone do.
    """

    frozen_tower = False

    def __init__(
        self,
        method: Method,
        base: Fitted,
        model: CaptModel,
        class_vectors: Mapping[str, torch.Tensor] | None = None,
        space: JointSpace | None = None,
        told: tuple[Sequence[str], torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        super().__init__(method, base.backbone, class_vectors)
        self.base = base.requires_grad_(False)
        self.model = model
        self.space = space or JointSpace()
        self.told_names: tuple[str, ...] = ()
        self.told_weight: torch.Tensor | None
        self.told_bias: torch.Tensor | None
        self.tell(told)

    def tell(self, told: tuple[Sequence[str], torch.Tensor, torch.Tensor] | None) -> None:
        """Tell classes by their few-shot images, too; `told` as in the constructor."""
        names, weight, bias = told or ((), None, None)
        self.told_names = tuple(names)
        self.register_buffer("told_weight", weight)
        self.register_buffer("told_bias", bias)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.model(images)
        return features

    @property
    def start(self) -> Fitted:
        return self.base

    def encode_with_start(
        self, images: torch.Tensor, start: Fitted
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.model.with_base(images)

    def adapt(self, features: torch.Tensor) -> torch.Tensor:
        moved: torch.Tensor = self.space(self.base.adapt(features))
        return moved

    def class_texts(self, classes: Classes) -> torch.Tensor:
        texts = self.with_vectors(classes, self.base.class_texts(classes))
        return self.space.texts(texts)

    @property
    def texts_alone(self) -> bool:
        return self.told_weight is None

    def scorer(self, classes: Classes, texts: torch.Tensor | None = None) -> Scorer:
        by_text = super().scorer(classes, texts)
        weight, bias = self.told_weight, self.told_bias
        if weight is None or bias is None:
            return by_text
        rows, columns = shared_classes(self.told_names, classes)

        def score(features: torch.Tensor) -> torch.Tensor:
            evidence = features @ weight.T.to(features) + bias.to(features)
            alpha = self.method.settings.discriminant.weight
            return with_evidence(by_text(features), evidence, rows, columns, alpha)

        return score

    def facts(self) -> dict[str, Any]:
        told = {"told_names": list(self.told_names)} if self.told_names else {}
        return {**super().facts(), "base": self.base.record(), **told}


class Capt(Method):
    """Confusion-aware prompt tuning: eq. 2 to 5 and 9 to 13 on what was mined by eq. 6 to 8."""

    name = "capt"
    label = "CAPT"
    citation = "Confusion-Aware Prompt Tuning, CVPR 2026"
    needs = frozenset(
        {Need.PIXELS, Need.DESCRIPTIONS, Need.CONFUSIONS, Need.BASE_MODEL, Need.BASE_TEACHER}
    )
    Settings = CaptSettings

    @property
    def described_by_name(self) -> float:
        weight: float = self.settings.class_texts.difference_weight
        return weight if self.settings.class_texts.describe == "all" else 0.0

    def check_clip(self, clip: Any) -> None:
        check_tower(clip.visual)
        adapted_blocks(self.settings.adapter.blocks, len(clip.visual.transformer.resblocks))

    def check_base(self, base: Method) -> None:
        if not base.compares_texts:
            raise CaptError(
                f"base_model: {base.name} tells images by more than class texts, which CAPT "
                "cannot start from; choose another base model, such as clip or promptsrc"
            )

    def fit(self, task: Task) -> FittedCapt:
        settings, backbone, dataset = self.settings, task.backbone, task.dataset
        base = task.base_model
        assert base is not None
        assert task.confusions is not None
        if backbone.autocast == torch.float16:
            raise CaptError(
                "runtime.precision: CAPT is not trained in fp16, whose gradients vanish; "
                "use bf16 or fp32"
            )
        if task.teacher is not None:
            base.take_teacher(task.teacher)
        processes = Processes(backbone.device)
        mined = task.confusions()
        classes, trained = Classes.of(dataset), task.trained_classes
        chosen = settings.class_texts
        vectors = described_vectors(task, base, chosen.difference_weight, chosen.describe)
        model = CaptModel(
            base.image_tower,
            mined.centres,
            settings.adapter,
            settings.experts,
            task.seed,
            shares_space(base),
        )
        base.to(backbone.device)
        fitted = FittedCapt(self, base, model, vectors).to(backbone.device)
        texts = base.class_texts(classes).to(backbone.device)
        kept = None
        if settings.losses.retention_weight:
            names = settings.losses.retention_names
            kept = retained_texts(task, texts, names, base.text_backbone())
        described = fitted.with_vectors(classes, texts)
        compared = described[trained]
        margin = self._margin(task, mined).to(backbone.device)
        objective = Objective(settings.losses, compared, kept, backbone.logit_scale, margin)
        representatives = mined.representatives
        if not (settings.losses.confusion_weight or model.adapters):
            representatives = representatives.clear()  # nothing compares them or takes their alpha
        anchors = build_anchors(
            task.few_shot_rows()["sample_id"].to_list(),
            representatives,
            settings.adapter.scale,
            settings.adapter.exponent,
        )
        views = self._views(task, fitted, anchors, objective.needs_base)
        data = TrainingData(
            anchors, training_labels(dataset, trained), objective, views, base.adapt
        )
        checkpoint = task.checkpoint(
            self,
            representatives.write_csv(),
            tensors_digest(
                {
                    "texts": compared,
                    "margin": margin,
                    **({} if kept is None else {"retained": kept}),
                    **mined.centres,
                }
            ),
        )
        trainer = Trainer(
            model,
            backbone,
            data,
            settings.train,
            task.seed,
            checkpoint,
            warn=task.reporter.warn,
            processes=processes,
        )
        count = sum(parameter.numel() for parameter in model.parameters())
        task.reporter.say(f"{len(anchors)} anchors, {count} trainable values, on {backbone.device}")
        with task.reporter.progress("steps", trainer.loop().step_count) as trainer.advance:
            fitted.training_run = trainer.fit()
        if asked_of_images(self.settings):
            self._look_at_images(task, fitted, described.cpu(), views)
        return fitted

    def _look_at_images(
        self, task: Task, fitted: FittedCapt, texts: torch.Tensor, views: Views
    ) -> None:
        """Give a trained model what is computed from the features of its few-shot images."""
        ids = task.few_shot_rows()["sample_id"]
        if self.settings.train.augmentation == "none":
            features = trained_features(fitted.model, fitted.base, ids.to_list(), views)
        else:
            features = dataset_features(
                fitted, task.dataset, ids, None, task.image_root, BATCH, task.workers
            )
        seen = FewShotSpace.of(task, features)
        if seen is None:
            missed = ", ".join(asked_of_images(self.settings))
            fitted.left_out = (f"without {missed}: no two images of a class differ",)
            task.reporter.warn(f"{fitted.left_out[0]}; give fewshot.shots=2 or more")
            return
        space, fitted.left_out = seen.joint_space(fitted.base, texts, self.settings)
        for missed in fitted.left_out:
            task.reporter.warn(missed)
        device = task.backbone.device
        if self.settings.discriminant.weight:
            names, weight, bias = seen.told(space)
            fitted.tell((names, weight.to(device), bias.to(device)))
        fitted.space = space.to(device)

    def _margin(self, task: Task, mined: Confusions) -> torch.Tensor:
        losses, trained = self.settings.losses, task.trained_classes
        counts = count_matrix(mined.statistics, len(task.dataset.classes))
        margin = confusion_margin(torch.from_numpy(counts)[trained][:, trained], losses.margin)
        return permuted_margin(margin, task.seed) if losses.margin_counts == "permuted" else margin

    def _views(
        self, task: Task, fitted: FittedCapt, anchors: list[Anchor], with_features: bool
    ) -> Views:
        settings, backbone, dataset = self.settings.train, task.backbone, task.dataset
        model, base = fitted.model, fitted.base
        ids = sorted({i for anchor in anchors for i in (anchor.sample_id, *anchor.representatives)})
        assert task.image_root is not None
        images = dataset.images(pl.Series(ids, dtype=pl.Int64), task.image_root)
        source = ViewSource(
            dict(zip(ids, images, strict=True)),
            settings.augmentation,
            settings.representative_noise,
            task.seed,
            task.workers,
        )
        fixed = settings.cache_prefix or settings.augmentation == "none"
        if not fixed or task.work is None:
            return live_views(model.to(backbone.device), backbone, source, with_features)
        asked, folder = asked_views(anchors, settings), task.work / "prefix"
        # A base model that leaves the tower as it is shapes no cached view.
        origin = "" if base.frozen_tower else settings_hash(*fitted_facts(base))
        with task.reporter.progress("cached views", len(asked)) as advance:
            return CachedViews(
                model.to(backbone.device),
                backbone,
                source,
                asked,
                folder,
                dataset.fingerprint + origin,
                advance,
                task.reporter.warn,
            )

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> FittedCapt:
        base = restore_base(facts["base"], tensors, backbone)
        centres = {
            name: tensors[f"model.experts.experts.{name}.centres"].float()
            for name in ("commonality", "difference")
            if f"model.experts.experts.{name}.centres" in tensors
        }
        model = CaptModel(base.image_tower, centres, self.settings.adapter, self.settings.experts)
        space = restored_space(
            {
                name.removeprefix(SPACE): value
                for name, value in tensors.items()
                if name.startswith(SPACE)
            }
        )
        told = None
        if "told_names" in facts:
            told = facts["told_names"], tensors["told_weight"], tensors["told_bias"]
        fitted = FittedCapt(self, base, model, named_vectors(tensors, facts), space, told)
        fitted.load_state_dict(dict(tensors))
        return fitted

    def sees(self, task: Task, fitted: Fitted) -> list[str]:
        assert task.confusions is not None
        base = task.base_model
        assert base is not None
        losses = self.settings.losses
        found = ["all base training images (shots)"] if task.shots == 0 else []
        if task.confusions().bank_source == "full_train":
            found.append("all base training images (bank)")
        retention = retention_seen(losses.retention_weight, losses.retention_names)
        own = found + fitted.seen_in_texts() + names_seen(task, fitted) + retention
        moves = isinstance(fitted, FittedCapt) and fitted.space.pair_expert is not None
        if moves and not any(GENERIC in seen for seen in retention):
            own.append(f"{GENERIC} (confused pairs)")
        # What its base model saw, CAPT has seen too.
        return list(dict.fromkeys([*own, *base.method.sees(task, base)]))


def training_labels(dataset: Dataset, trained: list[int]) -> list[int]:
    """Position among the trained classes of every sample, by sample id; -1 for other classes."""
    position = {class_id: index for index, class_id in enumerate(trained)}
    return [position.get(class_id, -1) for class_id in dataset.samples["class_id"].to_list()]
