"""DPC on CoOp and on PromptKD, as its paper describes it and as its code computes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from typing import get_args

import torch

from benchmarks.parity.fixture import Fixture, Tensors
from benchmarks.parity.prompted import prefixed
from benchmarks.parity.promptkd import NOISE, student_of, teacher_of
from benchmarks.parity.training import gradients, schedule, train
from capt_core.methods.capt.losses import pair_logits
from capt_core.methods.coop import ContextTexts, CoOp, LearnedContext
from capt_core.methods.dpc.dual import Learner
from capt_core.methods.dpc.method import Dpc, HardNegativeLoss, symmetric_losses
from capt_core.methods.dpc.mining import Rows, enlarged, hard_negatives
from capt_core.methods.dpc.mixing import Variant
from capt_core.methods.dpc.on_coop import ContextLearner, DualContext
from capt_core.methods.dpc.on_coop import random_range as on_coop_range
from capt_core.methods.dpc.on_promptkd import DistilledLearner, DualDistilled
from capt_core.methods.dpc.on_promptkd import random_range as on_promptkd_range
from capt_core.methods.frozen_teacher import named
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.promptkd import PromptKD
from capt_core.methods.promptsrc import IndependentPrompts
from capt_core.methods.zero_shot import class_logits

__all__ = ("NOISE", "computed", "known")  # the student's noise is that of PromptKD


def known(fixture: Fixture) -> bool:
    """Whether a fixture is one of DPC."""
    return "weight_base" in fixture.config


def computed(fixture: Fixture) -> tuple[Tensors, Tensors]:
    """What DPC gives, and the starts of what it trains, by name."""
    on_coop = "dpc.backbone_ctx" in fixture.weights
    for half in ("base", "novel"):
        fixture.check_names(f"{half}_names", fixture.inputs[f"tokens_{half}"])
    found = _selections(fixture, on_coop)
    starts: Tensors = {}
    if on_coop:
        found |= _midway(fixture)
    for variant in get_args(Variant):
        values, start = (_on_coop if on_coop else _on_promptkd)(fixture, variant)
        found |= {"learning_rates": values.pop("learning_rates")} | prefixed(variant, values)
        starts |= prefixed(f"{variant}.after", start)
    return found, starts


def _method(fixture: Fixture, variant: Variant) -> Dpc:
    """DPC with a fixture's settings."""
    config = fixture.config
    own = {name: config[name] for name in ("weight_base", "weight_new")}
    settings = {**schedule(fixture), **own, "variant": variant, "top": config["topk"]}
    return Dpc(Dpc.Settings.model_validate(settings))


def _loss_and_rows(learner: Learner, fixture: Fixture) -> tuple[HardNegativeLoss, Rows]:
    """The loss, and a fixture's images with their hard negatives."""
    pool = fixture.inputs["pool_images"]
    loss = HardNegativeLoss(learner, fixture.config["topk"])
    images, labels = fixture.inputs["images"], fixture.inputs["labels"]
    negatives = loss.mined(images, labels, _recorded([], labels.tolist()))
    return loss, enlarged(Rows(images, labels), negatives, lambda classes: pool[classes])


def _recorded(draws: Sequence[int], labels: Sequence[int]) -> Iterator[int]:
    """Recorded draws of classes; behind them a label, which is never taken."""
    return chain((draw for draw in draws if draw >= 0), repeat(labels[0]))


def _selections(fixture: Fixture, on_coop: bool) -> Tensors:
    """Labels of the batches that a fixture's probabilities give, where it has any."""
    given, expected = fixture.given("select."), fixture.expected.get("select.expanded_labels")
    if not given or expected is None:
        return {}
    among = on_coop_range if on_coop else on_promptkd_range
    found = torch.full_like(expected, -1)
    for case, probabilities in enumerate(given["probabilities"]):
        count = int(given["n_anchors"][case])
        labels = given["labels"][case, :count]
        drawn = _recorded(given["random_draws"][case].tolist(), labels.tolist())
        tries = len(among(probabilities.shape[-1], "released"))
        top = int(given["topk"][case])
        negatives = hard_negatives(probabilities[:count], labels.tolist(), top, drawn, tries)
        rows = enlarged(Rows(labels, labels), negatives, torch.tensor)
        found[case, : len(rows.labels)] = rows.labels
    return {"select.expanded_labels": found}


def _losses(learner: Learner, rows: Rows, total: torch.Tensor) -> Tensors:
    """The loss and its two directions."""
    parts = symmetric_losses(*learner.compared(rows), learner.logit_scale)
    return prefixed("loss", {**parts, "total": total})


def _mined(
    images: torch.Tensor, texts: torch.Tensor, learner: Learner, rows: Rows, given: torch.Tensor
) -> Tensors:
    return prefixed(
        "mining",
        {
            "image_features": unit(images),
            "text_features": unit(texts),
            "probabilities": learner.probabilities(given),
            "expanded_labels": rows.labels,
            "expanded_images_sum": rows.images.flatten(1).sum(dim=1),
        },
    )


def _context(fixture: Fixture, variant: Variant, q: str) -> ContextLearner:
    """DPC on CoOp at some q."""
    weights, names = fixture.weights, fixture.config["base_names"]
    base = LearnedContext(CoOp(), fixture.backbone(), weights["dpc.backbone_ctx"].clone())
    fitted = DualContext(_method(fixture, variant), base, names, weights[q].clone())
    texts = ContextTexts(fixture.inputs["tokens_base"])
    return ContextLearner(fitted, texts, fixture.config["mining_scale"])


def _midway(fixture: Fixture) -> Tensors:
    """At a trained prompt that is not the backbone's, and what is mined by the backbone's."""
    learner, images = _context(fixture, "decoupled", "dpc.q_midway"), fixture.inputs["images"]
    fitted = learner.fitted
    loss, rows = _loss_and_rows(learner, fixture)
    value, (features, texts) = loss(rows)[0], learner.compared(rows)
    parallel = fitted.parallel_prompt()
    return {
        **_mined(learner.image_features(images), learner.backbone_texts, learner, rows, images),
        "midway.loss": value,
        "midway.grad.q": gradients(value, [fitted.mixed])[0],
        "midway.logits_image_to_text": pair_logits(features, texts, learner.logit_scale),
        "midway.parallel_prompt": parallel,
        **prefixed("midway", _scores(fixture, fitted, "base", parallel)),
    }


def _on_coop(fixture: Fixture, variant: Variant) -> tuple[Tensors, Tensors]:
    learner = _context(fixture, variant, "dpc.backbone_ctx")
    fitted, steps = learner.fitted, fixture.config["steps"]
    loss, rows = _loss_and_rows(learner, fixture)
    value = loss(rows)[0]
    found = _losses(learner, rows, value) | {"grad.q": gradients(value, [fitted.mixed])[0]}
    settings = fitted.method.settings
    found |= train(fixture, settings, fitted, lambda *_: loss(rows), rows.images, steps)
    parallel, other = fitted.parallel_prompt(), fitted.prompt_for_others()
    after = {"q": fitted.mixed, "parallel_prompt": parallel, "prompt_for_novel": other}
    after |= _scores(fixture, fitted, "base", parallel)
    after |= _scores(fixture, fitted, "novel", other)
    return found | prefixed("after", after), {"q": fixture.weights["dpc.backbone_ctx"]}


@torch.no_grad()
def _scores(fixture: Fixture, fitted: DualContext, half: str, prompt: torch.Tensor) -> Tensors:
    clip = fitted.backbone.clip
    texts = ContextTexts(fixture.inputs[f"tokens_{half}"]).encode(clip, prompt)
    images = unit(fitted.encode(fixture.inputs["images"]))
    logits = class_logits(images, unit(texts), fitted.backbone.logit_scale)
    return {f"text_features_{half}": texts, f"logits_{half}": logits}


def _distilled(fixture: Fixture, variant: Variant) -> DistilledLearner:
    """DPC on PromptKD at its start, in training mode."""
    method, tokens = _method(fixture, variant), fixture.inputs["tokens_base"]
    teacher = teacher_of(fixture, tokens).fitted
    assert isinstance(teacher, IndependentPrompts)
    names = fixture.config["base_names"]
    student = student_of(fixture, PromptKD())
    student.taught_by = named(teacher)
    fitted = DualDistilled.cloned(method, student, names, teacher)
    return DistilledLearner(fitted.train(), teacher, tokens, fixture.config["mining_scale"])


def _on_promptkd(fixture: Fixture, variant: Variant) -> tuple[Tensors, Tensors]:
    images, learner = fixture.inputs["images"], _distilled(fixture, variant)
    # Statistics of a batch move the running ones with every pass, so the training starts anew.
    at_start = _distilled(fixture, variant)
    loss, rows = _loss_and_rows(at_start, fixture)
    value = loss(rows)[0]
    trained = dict(at_start.fitted.named_parameters())
    slopes = gradients(value, list(trained.values()))
    found = {
        **_mined(
            at_start.teacher_features(images), at_start.backbone_texts, at_start, rows, images
        ),
        **_losses(at_start, rows, value),
        **prefixed("grad", _named(dict(zip(trained, slopes, strict=True)))),
    }
    loss, rows = _loss_and_rows(learner, fixture)
    fitted, steps = learner.fitted, fixture.config["steps"]
    settings = fitted.method.settings
    found |= train(fixture, settings, fitted, lambda *_: loss(rows), rows.images, steps)
    after = {**_named(fitted.state_dict()), "parallel_prompt": learner.parallel_prompt()}
    found |= prefixed("after", {**after, **_evaluated(fixture, learner)})
    start = {name: value for name, value in fixture.weights.items() if "clip." not in name}
    text = {
        f"dpc.text.{depth}": each for depth, each in fixture.below("teacher_prompt.text.").items()
    }
    return found, start | text


@torch.no_grad()
def _evaluated(fixture: Fixture, learner: DistilledLearner) -> Tensors:
    """What base and novel names are compared by after training."""
    inputs, fitted = fixture.inputs, learner.fitted.eval()
    tuned, other = fitted.encode(inputs["images"]).chunk(2, dim=-1)
    texts = unit(learner.tuned_texts(inputs["tokens_base"]))
    novel = unit(learner.teacher.encode_tokens(inputs["tokens_novel"]))
    scale = learner.logit_scale
    return {
        "image_features": tuned,
        "image_features_for_novel": other,
        "text_features_base": texts,
        "novel_text_features": novel,
        "logits_base": class_logits(tuned, texts, scale),
        "logits_novel": class_logits(other, novel, scale),
    }


def _named(values: Tensors) -> Tensors:
    """Values of what is trained by the names of a fixture."""
    found = {
        f"dpc.text.{depth}": each for depth, each in enumerate([values["mixed"], *values["deep"]])
    }
    found |= {f"student_prompt.visual.{depth}": each for depth, each in enumerate(values["image"])}
    return found | {name: value for name, value in values.items() if name.startswith("projector.")}
