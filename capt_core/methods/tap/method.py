"""TAP's place among the methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from capt_core.backbone.encoding import encode_texts
from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError
from capt_core.learning.loop import Batch, Record
from capt_core.methods.classes import Classes
from capt_core.methods.data_facts import DataFacts
from capt_core.methods.descriptions import attribute_sentences, described_groups
from capt_core.methods.feature_training import minimise
from capt_core.methods.image_training import FewShotViews
from capt_core.methods.method import Fitted, Method, Need, undescribed
from capt_core.methods.prompting.image import check_image_tower
from capt_core.methods.prompting.start import context_start
from capt_core.methods.prompting.text import token_embedding
from capt_core.methods.tap.bags import Tree, attributes_of
from capt_core.methods.tap.model import AttributeClip, VisionExperts
from capt_core.methods.tap.settings import TapSettings
from capt_core.methods.tap.training import AlternatingAverage, AlternatingLoss
from capt_core.methods.task import Task


class TAP(Method):
    """Attribute sentences behind a learned context, attribute tokens in the image tower, in turn.

    The original draws its sentences from a language model; here those of the prompt store or of
    the language model's answers count. ``a photo of a NAME.`` stands where nothing is written.
    """

    name = "tap"
    label = "TAP"
    citation = "Ding et al., ICLR 2025"
    needs = frozenset({Need.PIXELS, Need.CLASS_DESCRIPTIONS})
    description_form = "attributes"
    compares_texts = False
    Settings = TapSettings

    def check_clip(self, clip: Any) -> None:
        token_embedding(clip)
        check_image_tower(clip.visual)

    def check_data(self, data: DataFacts) -> None:
        super().check_data(data)
        if data.attributes is not None and not set(data.attributes) & set(data.base):
            what = "what is written about attributes of the trained classes"
            raise CaptError(undescribed(self.name, data.dataset, what))

    def start(self, backbone: Backbone, tree: Tree, seed: int) -> AttributeClip:
        """Before the first step.

        Raises:
            CaptError: no words to start the context from, or fewer than vectors.
        """
        settings = self.settings
        if settings.context_init is None:
            raise CaptError(
                "methods.tap.context_init: sentences need words before them; give some, such as "
                "'a photo of a'"
            )
        attributes = attributes_of(tree)
        context = context_start(settings.context_init, settings.context_length, backbone, seed)
        width = encode_texts(["a"], backbone).shape[1]
        experts = VisionExperts.start(len(attributes), backbone.clip.visual, width, seed)
        return AttributeClip(self, backbone, context, experts, attributes, tree)

    def fit(self, task: Task) -> AttributeClip:
        tree, dataset, backbone = attribute_sentences(task), task.dataset, task.backbone
        classes = Classes.of(dataset).only(task.trained_classes)
        fitted = self.start(backbone, tree, task.seed).to(backbone.device)
        for group in ("base", "novel"):
            names = [dataset.class_names[class_id] for class_id in dataset.class_ids(group)]
            found = sum(name in tree for name in names)
            task.reporter.say(
                f"{found} of {len(names)} {group} classes described by "
                f"{', '.join(fitted.attributes)}"
            )
        zero_shot = encode_texts(classes.prompts, backbone).to(backbone.device)
        bags = fitted.bags(classes)
        loss = AlternatingLoss(fitted, bags, zero_shot, task.seed)
        average = AlternatingAverage(fitted, self.settings).to(backbone.device)
        images = FewShotViews.of(self, task)

        def loss_of(batch: Batch) -> tuple[torch.Tensor, Record]:
            loss.begin(batch)
            return loss(*images(batch))

        return minimise(
            self,
            task,
            fitted,
            list(fitted.parameters()),
            len(images.ids),
            loss_of,
            compared={"tokens": bags.tokens, "rows": bags.rows, "used": bags.used},
            state=average,
            after_epoch=average.add,
        )

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> AttributeClip:
        side = "experts."
        experts = {
            name.removeprefix(side): value
            for name, value in tensors.items()
            if name.startswith(side)
        }
        context = tensors["context.0"]
        parts = facts["attributes"], facts["tree"]
        return AttributeClip(self, backbone, context, VisionExperts(**experts), *parts)

    def sees(self, task: Task, fitted: Fitted) -> list[str]:
        assert isinstance(fitted, AttributeClip)
        described = described_groups(task, fitted.tree, "attribute sentences")
        return [*super().sees(task, fitted), *described]
