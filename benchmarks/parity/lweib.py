"""LwEIB: its convolutions slow and fast, steps over drawn classes, and its classifier."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.parity.fixture import Fixture, Tensors, below
from benchmarks.parity.training import gradients, paces
from capt_core.learning.loop import Loop
from capt_core.learning.optimisation import ParameterGroup
from capt_core.methods.lweib.method import LwEIB
from capt_core.methods.lweib.model import EnrichedClip, convolution_names
from capt_core.methods.lweib.sampling import Draws, SampledClassesLoss, negative_draw
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.towers import tower_blocks
from capt_core.methods.zero_shot import class_logits

_START, _STEP = "trainable/", "draw_step"


def known(fixture: Fixture) -> bool:
    """Whether a fixture is one of LwEIB."""
    return "negative_ratio" in fixture.config


def computed(fixture: Fixture) -> tuple[Tensors, Tensors]:
    """What LwEIB gives, and the starts of what it trains, by name."""
    inputs = fixture.inputs
    fixture.check(
        trainable=list(below(_START, fixture.weights)), sentences=inputs["tokens_base"].shape[1]
    )
    images, labels = inputs["train_images"], inputs["train_labels"]
    method = LwEIB(LwEIB.Settings.model_validate(_settings(fixture)))
    fitted = _start(fixture, method)
    loss_of = SampledClassesLoss(fitted, list(inputs["tokens_base"]))
    found = _forwards(fitted, inputs) | _evaluated("eval_start", fitted, inputs)
    logits, positions = loss_of.logits(images, labels, _draws(inputs, "draw_allclasses", None))
    loss = nn.functional.cross_entropy(logits, positions)
    found |= {"allclasses/logits": logits, "allclasses/loss": loss}
    found |= _gradients("allclasses/grad", loss, fitted)

    steps = sum(name.startswith(_STEP) and name.endswith("/sentence") for name in inputs)
    drawn = [_draws(inputs, f"{_STEP}{step}", _negatives(fixture, step)) for step in range(steps)]
    first = loss_of(images, labels, drawn[0])[0]
    found |= _gradients("step0/grad", first, fitted)

    def loss_of_step(batch: Any) -> Any:
        step = batch.step - 1
        with torch.no_grad():
            logits, positions = loss_of.logits(images, labels, drawn[step])
        found.update({f"step{step}/logits": logits, f"step{step}/remapped_labels": positions})
        return loss_of(images, labels, drawn[step])

    log = Loop(
        fitted,
        [ParameterGroup(list(fitted.parameters()))],
        len(labels),
        loss_of_step,
        method.settings,
        "parity",
        0,
        last_step=steps,
    ).fit()
    for name, column in (("lr", "learning_rate"), ("loss", "loss")):
        found[f"three_steps/{name}"] = torch.tensor(log.log[column].to_list(), dtype=torch.float64)
    after = _weights(fitted)
    found |= {f"three_steps/param/{name}": value.detach() for name, value in after.items()}
    start = below(_START, fixture.weights)
    starts = {f"three_steps/param/{name}": value for name, value in start.items()}
    return found | _evaluated("eval_trained", fitted, inputs), starts


def _settings(fixture: Fixture) -> dict[str, Any]:
    """The published settings, with what a configuration says otherwise."""
    config = fixture.config
    changed = {
        "scale": config["scale"],
        "fast_factor": config["factor"],
        "negative_ratio": config["negative_ratio"],
        "sentences": config["sentences"],
        "batch_size": len(fixture.inputs["train_labels"]),
    }
    same = {"momentum": config["momentum"]} if "momentum" in config else {}
    return LwEIB.Settings().model_dump() | changed | paces(fixture) | same


def _start(fixture: Fixture, method: LwEIB) -> EnrichedClip:
    backbone, given = fixture.backbone("clip"), below(_START, fixture.weights)
    names = reference_names(backbone.clip)
    return EnrichedClip(method, backbone, {own: given[name].clone() for own, name in names.items()})


def reference_names(clip: Any) -> dict[str, str]:
    """The reference's names of the convolutions by ours."""
    places = ("attention_conv", "mlp_conv")
    return {
        own: f"{tower}.block{block}.{place}"
        for tower, blocks in tower_blocks(clip).items()
        for block in range(len(blocks))
        for own, place in zip(convolution_names(tower, block), places, strict=True)
    }


def _weights(fitted: EnrichedClip) -> dict[str, nn.Parameter]:
    names = reference_names(fitted.backbone.clip)
    return {name: fitted.get_parameter(f"convolutions.{own}.weight") for own, name in names.items()}


def _negatives(fixture: Fixture, step: int) -> torch.Tensor | None:
    """The recorded negatives of a step; None where it takes all classes."""
    inputs, ratio = fixture.inputs, fixture.config["negative_ratio"]
    labels, count = inputs["train_labels"], len(inputs["tokens_base"])
    own = negative_draw(labels, count, ratio, torch.Generator())
    if own is None:
        return None
    recorded = inputs.get(f"{_STEP}{step}/negatives", torch.zeros(0, dtype=torch.long))
    if len(recorded) != len(own):
        raise KeyError(f"{len(recorded)} negatives of step {step}, {len(own)} by the settings")
    return recorded


def _draws(inputs: Tensors, prefix: str, negatives: torch.Tensor | None) -> Draws:
    fast = {tower: inputs[f"{prefix}/fast_{tower}"].bool().tolist() for tower in ("text", "vision")}
    return Draws(negatives, inputs[f"{prefix}/sentence"], fast)


def _gradients(prefix: str, loss: torch.Tensor, fitted: EnrichedClip) -> Tensors:
    weights = _weights(fitted)
    found = gradients(loss, list(weights.values()))
    return {f"{prefix}/{name}": value for name, value in zip(weights, found, strict=True)}


@torch.no_grad()
def _forwards(fitted: EnrichedClip, inputs: Tensors) -> Tensors:
    """Features without convolutions, and with all of them slow or fast."""
    clip, tokens, images = fitted.backbone.clip, inputs["tokens_base"][:, 0], inputs["test_images"]
    found = {
        "init/plain_image_features_test": clip.encode_image(images),
        "init/plain_text_features_base0": clip.encode_text(tokens),
    }
    for pace in ("slow", "fast"):
        blocks = {tower: [pace == "fast"] * len(each) for tower, each in tower_blocks(clip).items()}
        with fitted.fast(blocks):
            found[f"forward/image_features_{pace}"] = fitted.encode(images)
            found[f"forward/text_features_{pace}"] = fitted.encode_tokens(tokens)
    return found


@torch.no_grad()
def _evaluated(prefix: str, fitted: EnrichedClip, inputs: Tensors) -> Tensors:
    """Classifier and logits over both halves' names."""
    features, found = unit(fitted.encode(inputs["test_images"])), {}
    for half in ("base", "novel"):
        classifier = fitted.classifier(list(inputs[f"tokens_{half}"]))
        logits = class_logits(features, classifier, fitted.backbone.logit_scale)
        found[f"{prefix}/text_classifier_{half}"] = classifier
        found[f"{prefix}/logits_{half}"] = logits
    return found
