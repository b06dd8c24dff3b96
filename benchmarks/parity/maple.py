"""MaPLe."""

from __future__ import annotations

import torch

from benchmarks.parity.fixture import Fixture, Tensors
from benchmarks.parity.prompted import prefixed, scores
from benchmarks.parity.training import gradients, schedule, train
from capt_core.errors import CaptError
from capt_core.methods.maple import CoupledPrompts, Maple, cross_entropy
from capt_core.methods.prompting.start import embedded_words


def known(fixture: Fixture) -> bool:
    """Whether a fixture is one of MaPLe."""
    return {name.partition(".")[0] for name in fixture.weights} == {"clip", "maple"}


def computed(fixture: Fixture) -> tuple[Tensors, Tensors]:
    """What MaPLe gives, and the starts of what it trains, by name."""
    config, start, depth = fixture.config, fixture.below("maple."), fixture.config["prompt_depth"]
    settings = Maple.Settings.model_validate(
        {**schedule(fixture), "context_length": config["n_ctx"], "depth": depth}
    )
    for half in ("base", "novel"):
        fixture.check_names(f"{half}_names", fixture.inputs[f"tokens_{half}"])
    layers = ["shallow_projection", *(f"deep_projection.{j}" for j in range(1, depth))]
    if len(start["ctx"]) != config["n_ctx"] or len(start) != 3 * depth:
        raise CaptError(f"{fixture.name}: maple.* are not what n_ctx and prompt_depth name")
    fitted = CoupledPrompts(
        Maple(settings),
        fixture.backbone(),
        torch.stack([start["ctx"], *(start[f"deep_prompt.{j}"] for j in range(1, depth))]),
        torch.stack([start[f"{layer}.weight"] for layer in layers]),
        torch.stack([start[f"{layer}.bias"] for layer in layers]),
    )
    tokens, images = fixture.inputs["tokens_base"], fixture.inputs["images"]
    loss_of = cross_entropy(fitted, tokens)
    loss = loss_of(images, fixture.inputs["labels"])[0]
    context = embedded_words(tokens[0], config["n_ctx"], fitted.backbone.clip)
    found = {**scores(fitted, fixture), "loss": loss, "init_ctx": context}
    for index, prompt in enumerate(fitted.image_prompts()):
        found[f"visual_prompt.{index}"] = prompt
    found |= prefixed("grad", _named(*gradients(loss, list(fitted.parameters()))))
    found |= train(fixture, settings, fitted, loss_of, images, config["steps"])
    found |= prefixed("after", scores(fitted, fixture))
    found |= prefixed("after", _named(*fitted.parameters()))
    return found, prefixed("after", start)


def _named(prompts: torch.Tensor, weights: torch.Tensor, biases: torch.Tensor) -> Tensors:
    """Values of the parameters by the names of a fixture."""
    found = {"ctx": prompts[0]}
    for index in range(len(prompts)):
        layer = f"deep_projection.{index}" if index else "shallow_projection"
        found |= {f"{layer}.weight": weights[index], f"{layer}.bias": biases[index]}
        if index:
            found[f"deep_prompt.{index}"] = prompts[index]
    return found
