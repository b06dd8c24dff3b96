"""2SFS: both stages on a fixed order of batches, and its selective inference."""

from __future__ import annotations

import re
from itertools import accumulate, pairwise
from typing import Any

import torch

from benchmarks.parity.fixture import Fixture, Tensors
from benchmarks.parity.training import gradients
from capt_core.learning.loop import Batch, Loop, Record
from capt_core.learning.optimisation import ParameterGroup
from capt_core.methods.classes import Classes
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.twosfs import NormTunedClip, TwoStage, TwoStageTraining, stage_rates
from capt_core.methods.zero_shot import class_logits


def known(fixture: Fixture) -> bool:
    """Whether a fixture is one of 2SFS."""
    return {"stage1_iterations", "total_iterations"} <= fixture.inputs.keys()


def computed(fixture: Fixture) -> tuple[Tensors, Tensors]:
    """What 2SFS gives, and the starts of what it trains, by name."""
    inputs, backbone = fixture.inputs, fixture.backbone("clip")
    method = TwoStage(TwoStage.Settings.model_validate(_settings(fixture)))
    fitted = NormTunedClip(method, backbone)
    rates = stage_rates(method.settings, int(inputs["total_iterations"]))
    run = _Run(fixture, TwoStageTraining(fitted, inputs["tokens_base"], len(rates[0])))
    found = {"init/image_features_train": fitted.encode(inputs["train_images"]).detach()}
    found |= _features("init", fitted, inputs)
    log = Loop(
        run.training,
        [ParameterGroup(list(run.training.parameters()))],
        len(inputs["train_labels"]),
        run.loss_of,
        method.settings,
        "parity",
        0,
        stages=rates,
        advance=run.advance,
    ).fit()
    found |= run.found | _features("tuned", fitted, inputs)
    found |= {
        name: torch.tensor(log.log[column].to_list(), dtype=torch.float64)
        for name, column in (("loss", "loss"), ("lr", "learning_rate"))
    }
    found |= {"stage2/classifier_final": run.training.classifier.detach()}
    found |= _logits(fitted, run.training.classifier.detach(), inputs)
    return found, run.starts


def _settings(fixture: Fixture) -> dict[str, Any]:
    """The published settings, with what a configuration says otherwise."""
    steps, first = (int(fixture.inputs[name]) for name in ("total_iterations", "stage1_iterations"))
    published, config = TwoStage.Settings(), fixture.config
    share = published.first_stage
    changed = {} if int(share * steps) == first else {"first_stage": (first + 0.5) / steps}
    names = {
        "learning_rate": "lr",
        "minimum_learning_rate": "min_lr",
        "weight_decay": "weight_decay",
    }
    given = {name: float(config[key]) for name, key in names.items() if key in config}
    return published.model_dump() | changed | given


class _Run:
    """Both stages over the batches of a fixture, each from its first batch on.

    Args:
        fixture: batches.
        training: what is trained.
    """

    def __init__(self, fixture: Fixture, training: TwoStageTraining) -> None:
        self.inputs, self.training = fixture.inputs, training
        ends = accumulate(fixture.inputs["train_batch_sizes"].tolist(), initial=0)
        self.batches = [slice(*bounds) for bounds in pairwise(ends)]
        self.norms = _norms(training.fitted)
        fixture.check(trained=list(self.norms))
        self.looked_at = _looked_at(fixture)
        start = {name: value.detach().clone() for name, value in self.norms.items()}
        self.starts = _below("stage1/param_final", start)
        for steps in self.looked_at:
            self.starts |= _below(f"stage1/param_after{steps}", start)
        self.found: Tensors = {}
        self.done = 0

    def loss_of(self, batch: Batch) -> tuple[torch.Tensor, Record]:
        """The loss of a step, whose logits and first gradients are kept."""
        training, step = self.training, batch.step
        in_stage = (step - 1) if step <= training.first_steps else step - 1 - training.first_steps
        chosen = self.batches[in_stage % len(self.batches)]
        images, labels = self.inputs["train_images"][chosen], self.inputs["train_labels"][chosen]
        if step == 1:
            loss = training.loss(images, labels, step)[0]
            found = gradients(loss, list(self.norms.values()))
            named = dict(zip(self.norms, found, strict=True))
            self.found |= _below("stage1/grad_iteration0", named)
        with torch.no_grad():
            self.found[f"logits/iteration{step - 1}"] = training.logits(images, step)
        loss = training.loss(images, labels, step)[0]
        if step == training.first_steps + 1:
            classifier = training.classifier
            start = classifier.detach().clone()
            moments = ["final", *(f"after{steps}" for steps in self.looked_at)]
            self.starts |= {f"stage2/classifier_{each}": start for each in moments}
            self.found |= {
                "stage2/classifier_init": start,
                "stage2/grad_first": gradients(loss, [classifier])[0],
            }
            loss = training.loss(images, labels, step)[0]
        return loss, {}

    def advance(self, finished: int) -> None:
        """Keep what is trained after some steps of each stage."""
        self.done += finished
        first = self.training.first_steps
        copies = {name: value.detach().clone() for name, value in self.norms.items()}
        if self.done in self.looked_at and self.done <= first:
            self.found |= _below(f"stage1/param_after{self.done}", copies)
        if self.done == first:
            self.found |= _below("stage1/param_final", copies)
        if (steps := self.done - first) in self.looked_at:
            classifier = self.training.classifier.detach().clone()
            self.found[f"stage2/classifier_after{steps}"] = classifier


def _looked_at(fixture: Fixture) -> set[int]:
    """Steps of a stage after which a fixture expects what it trains."""
    found = (re.match(r"stage\d/\w+_after(\d+)", name) for name in fixture.expected)
    return {int(each[1]) for each in found if each}


def _norms(fitted: NormTunedClip) -> dict[str, torch.nn.Parameter]:
    """What the first stage trains, by the names of the reference."""
    prefixes = {"text": "transformer", "vision": "visual.transformer"}
    found: dict[str, torch.nn.Parameter] = {}
    for name, norm in fitted.norms.items():
        tower, block, place = name.split("_", 2)
        number = block.removeprefix("block")
        prefix = f"{prefixes[tower]}.resblocks.{number}.{place}"
        found |= {f"{prefix}.{key}": value for key, value in norm.named_parameters()}
    return found


def _below(prefix: str, values: Any) -> Tensors:
    return {f"{prefix}/{name}": value for name, value in values.items()}


@torch.no_grad()
def _features(prefix: str, fitted: NormTunedClip, inputs: Tensors) -> Tensors:
    return _below(
        prefix,
        {
            "image_features_test": fitted.encode(inputs["test_images"]),
            "text_features_base": fitted.encode_tokens(inputs["tokens_base"]),
            "text_features_novel": fitted.encode_tokens(inputs["tokens_novel"]),
        },
    )


@torch.no_grad()
def _logits(fitted: NormTunedClip, classifier: torch.Tensor, inputs: Tensors) -> Tensors:
    """Logits over base, novel and mixed lists of classes, which are named by their numbers."""
    tokens = {"base": inputs["tokens_base"], "novel": inputs["tokens_novel"]}
    encoded = {half: unit(fitted.encode_tokens(ids)) for half, ids in tokens.items()}
    names = {half: [f"{half} {row}" for row in range(len(ids))] for half, ids in tokens.items()}
    fitted.keep_vectors(dict(zip(names["base"], unit(classifier), strict=True)))
    mixed = zip(inputs["mixed_is_novel"].tolist(), inputs["mixed_index"].tolist(), strict=True)
    lists = {half: [(half, row) for row in range(len(ids))] for half, ids in tokens.items()}
    lists["mixed"] = [("novel" if novel else "base", row) for novel, row in mixed]
    features = unit(fitted.encode(inputs["test_images"]))
    found: Tensors = {}
    for name, members in lists.items():
        texts = torch.stack([encoded[half][row] for half, row in members])
        classes = Classes.named([names[half][row] for half, row in members])
        chosen = fitted.with_vectors(classes, texts)
        logits = class_logits(features, chosen, fitted.backbone.logit_scale)
        found[f"eval/logits_{name}"] = logits
    return found
