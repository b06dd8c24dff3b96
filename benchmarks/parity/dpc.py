"""DPC on CoOp, as its paper describes it and as its code computes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from typing import get_args

import torch

from benchmarks.parity.fixture import Fixture, Tensors
from benchmarks.parity.prompted import prefixed
from benchmarks.parity.training import gradients, schedule, train
from capt_core.backbone.loading import Backbone
from capt_core.methods.capt.losses import pair_logits
from capt_core.methods.coop import ContextTexts, CoOp, LearnedContext
from capt_core.methods.dpc.dual import Learner
from capt_core.methods.dpc.method import Dpc, HardNegativeLoss, symmetric_losses
from capt_core.methods.dpc.mining import Rows, enlarged, hard_negatives
from capt_core.methods.dpc.mixing import Variant
from capt_core.methods.dpc.on_coop import ContextLearner, DualContext, random_range
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.zero_shot import class_logits


def known(fixture: Fixture) -> bool:
    """Whether a fixture is one of DPC on CoOp."""
    return "dpc.backbone_ctx" in fixture.weights


def computed(fixture: Fixture) -> tuple[Tensors, Tensors]:
    """What DPC gives, and the starts of what it trains, by name."""
    backbone, start = fixture.backbone(), fixture.weights["dpc.backbone_ctx"]
    found = _midway(fixture, backbone) | selections(fixture, random_range)
    for variant in get_args(Variant):
        found |= _trained(fixture, backbone, variant)
    return found, {f"{variant}.after.q": start for variant in get_args(Variant)}


def method_of(fixture: Fixture, variant: Variant) -> Dpc:
    """DPC with a fixture's settings."""
    config = fixture.config
    own = {name: config[name] for name in ("weight_base", "weight_new")}
    settings = {**schedule(fixture), **own, "variant": variant, "top": config["topk"]}
    return Dpc(Dpc.Settings.model_validate(settings))


def loss_and_rows(learner: Learner, fixture: Fixture) -> tuple[HardNegativeLoss, Rows]:
    """The loss, and a fixture's images with their hard negatives."""
    pool = fixture.inputs["pool_images"]
    loss = HardNegativeLoss(learner, fixture.config["topk"])
    anchors = Rows(fixture.inputs["images"], fixture.inputs["labels"])
    negatives = loss.mined(anchors, recorded([], anchors.labels.tolist()))
    return loss, enlarged(anchors, negatives, lambda classes: pool[classes])


def recorded(draws: Sequence[int], labels: Sequence[int]) -> Iterator[int]:
    """Recorded draws of classes; behind them a label, which is never taken."""
    return chain((draw for draw in draws if draw >= 0), repeat(labels[0]))


def selections(fixture: Fixture, random_range: Callable[[int, Variant], range]) -> Tensors:
    """Labels of the batches that a fixture's probabilities give, where it has any."""
    given, expected = fixture.given("select."), fixture.expected.get("select.expanded_labels")
    if not given or expected is None:
        return {}
    found = torch.full_like(expected, -1)
    for case, probabilities in enumerate(given["probabilities"]):
        count = int(given["n_anchors"][case])
        labels = given["labels"][case, :count]
        drawn = recorded(given["random_draws"][case].tolist(), labels.tolist())
        tries = len(random_range(probabilities.shape[-1], "released"))
        top = int(given["topk"][case])
        negatives = hard_negatives(probabilities[:count], labels.tolist(), top, drawn, tries)
        rows = enlarged(Rows(labels, labels), negatives, torch.tensor)
        found[case, : len(rows.labels)] = rows.labels
    return {"select.expanded_labels": found}


def _learner(fixture: Fixture, backbone: Backbone, variant: Variant, q: str) -> ContextLearner:
    weights, names = fixture.weights, fixture.config["base_names"]
    base = LearnedContext(CoOp(), backbone, weights["dpc.backbone_ctx"].clone())
    fitted = DualContext(method_of(fixture, variant), base, names, weights[q].clone())
    return ContextLearner(fitted, ContextTexts(fixture.inputs["tokens_base"]))


def _midway(fixture: Fixture, backbone: Backbone) -> Tensors:
    """At a trained prompt that is not the backbone's, and what is mined by the backbone's."""
    learner = _learner(fixture, backbone, "decoupled", "dpc.q_midway")
    fitted, images = learner.fitted, fixture.inputs["images"]
    parallel = fitted.parallel_prompt()
    loss, rows = loss_and_rows(learner, fixture)
    value = loss(rows)[0]
    features, texts = learner.compared(rows)
    return {
        "mining.image_features": unit(learner.image_features(images)),
        "mining.text_features": unit(learner.backbone_texts),
        "mining.probabilities": learner.probabilities(images),
        "mining.expanded_labels": rows.labels,
        "mining.expanded_images_sum": rows.images.flatten(1).sum(dim=1),
        "midway.loss": value,
        "midway.grad.q": gradients(value, [fitted.mixed])[0],
        "midway.logits_image_to_text": pair_logits(features, texts, learner.logit_scale),
        "midway.parallel_prompt": parallel,
        **prefixed("midway", _scores(fixture, fitted, "base", parallel)),
    }


def _trained(fixture: Fixture, backbone: Backbone, variant: Variant) -> Tensors:
    learner = _learner(fixture, backbone, variant, "dpc.backbone_ctx")
    fitted, settings = learner.fitted, learner.fitted.method.settings
    loss, rows = loss_and_rows(learner, fixture)
    value = loss(rows)[0]
    found = losses_at(learner, rows, value) | {"grad.q": gradients(value, [fitted.mixed])[0]}
    log = train(
        fixture, settings, fitted, lambda *_: loss(rows), rows.images, fixture.config["steps"]
    )
    parallel, other = fitted.parallel_prompt(), fitted.prompt_for_others()
    after = {"q": fitted.mixed, "parallel_prompt": parallel, "prompt_for_novel": other}
    after |= _scores(fixture, fitted, "base", parallel)
    after |= _scores(fixture, fitted, "novel", other)
    found |= {"step_losses": log["step_losses"], **prefixed("after", after)}
    return prefixed(variant, found) | {"learning_rates": log["learning_rates"]}


def losses_at(learner: Learner, rows: Rows, total: torch.Tensor) -> Tensors:
    """The loss and its two directions."""
    parts = symmetric_losses(*learner.compared(rows), learner.logit_scale)
    return prefixed("loss", {**parts, "total": total})


@torch.no_grad()
def _scores(fixture: Fixture, fitted: DualContext, half: str, prompt: torch.Tensor) -> Tensors:
    clip = fitted.backbone.clip
    texts = ContextTexts(fixture.inputs[f"tokens_{half}"]).encode(clip, prompt)
    images = unit(fitted.encode(fixture.inputs["images"]))
    logits = class_logits(images, unit(texts), fitted.backbone.logit_scale)
    return {f"text_features_{half}": texts, f"logits_{half}": logits}
