"""CoOp, in every layout of its prompts that a fixture lists."""

from __future__ import annotations

import torch

from benchmarks.parity.fixture import Fixture, Tensors
from benchmarks.parity.prompted import prefixed
from benchmarks.parity.training import gradients, schedule, train
from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError
from capt_core.methods.coop import ContextLoss, ContextTexts, CoOp, LearnedContext
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.prompting.start import embedded_words
from capt_core.methods.prompting.text import context_order
from capt_core.methods.zero_shot import class_logits


def known(fixture: Fixture) -> bool:
    """Whether a fixture is one of CoOp."""
    return {name.partition(".")[0] for name in fixture.weights} == {"clip", "coop"}


def computed(fixture: Fixture) -> tuple[Tensors, Tensors]:
    """What CoOp gives, and the starts of what it trains, by name."""
    backbone = fixture.backbone()
    images = LearnedContext(CoOp(), backbone, torch.zeros(1, 1)).encode(fixture.inputs["images"])
    values: Tensors = {"image_features": images}
    starts: Tensors = {}
    for case in fixture.config["n_ctx"]:
        found, start = _case(fixture, case, backbone, images)
        values |= {f"{case}.{name}": value for name, value in found.items()}
        starts |= {f"{case}.{name}": value for name, value in start.items()}
    return values, starts


def _case(
    fixture: Fixture, case: str, backbone: Backbone, images: torch.Tensor
) -> tuple[Tensors, Tensors]:
    config, start = fixture.config, fixture.weights[f"coop.{case}.ctx"]
    specific = config["class_specific"][case]
    for half in ("base",) if specific else ("base", "novel"):
        fixture.check_names(f"{half}_names", fixture.inputs[f"tokens_{half}.{case}"])
    if start.shape[-2] != config["n_ctx"][case]:
        raise CaptError(f"{fixture.name}: coop.{case}.ctx has not n_ctx vectors")
    settings = CoOp.Settings.model_validate(
        {
            **schedule(fixture),
            "class_token_position": config["class_token_position"][case],
            "class_specific": specific,
        }
    )
    names = config["base_names"] if specific else ()
    fitted = LearnedContext(CoOp(settings), backbone, start.clone(), names)
    texts = {"base": _texts(fixture, case, "base", fitted)}
    if not specific:
        texts["novel"] = _texts(fixture, case, "novel", fitted)
    loss = ContextLoss(fitted, texts["base"])
    value = loss(images, fixture.inputs["labels"])[0]
    found = {
        **_scores(fitted, texts, images),
        "init_ctx": embedded_words(texts["base"].tokens[0], start.shape[-2], backbone.clip),
        "loss": value,
        "grad.ctx": gradients(value, [fitted.context])[0],
        **train(fixture, settings, fitted, loss, images, config["steps"]),
    }
    found |= prefixed("after", _scores(fitted, texts, images))
    return found | {"after.ctx": fitted.context}, {"after.ctx": start}


def _texts(fixture: Fixture, case: str, half: str, fitted: LearnedContext) -> ContextTexts:
    tokens = fixture.inputs[f"tokens_{half}.{case}"]
    if fitted.position == "end":
        return ContextTexts(tokens)
    lengths = fixture.inputs[f"name_lengths_{half}.{case}"].tolist()
    count = fitted.context.shape[-2]
    return ContextTexts(tokens, context_order(lengths, count, tokens.shape[1], fitted.position))


@torch.no_grad()
def _scores(
    fitted: LearnedContext, texts: dict[str, ContextTexts], images: torch.Tensor
) -> Tensors:
    found: Tensors = {}
    for half, prompts in texts.items():
        encoded = prompts.encode(fitted.backbone.clip, fitted.context)
        logits = class_logits(unit(images), unit(encoded), fitted.backbone.logit_scale)
        found |= {f"text_features_{half}": encoded, f"logits_{half}": logits}
    return found
