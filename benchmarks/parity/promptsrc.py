"""PromptSRC."""

from __future__ import annotations

import torch

from benchmarks.parity.fixture import Fixture, Tensors
from benchmarks.parity.prompted import prefixed, scores
from benchmarks.parity.training import gradients, schedule, train
from capt_core.backbone.loading import Backbone
from capt_core.learning.averaging import gaussian_weights
from capt_core.methods.prompting.start import embedded_words
from capt_core.methods.prompting.zero_shot_reference import mean_text_features
from capt_core.methods.promptsrc import IndependentPrompts, PromptSRC, SelfRegulatedLoss

_TABLE = "gaussian.table."


def known(fixture: Fixture) -> bool:
    """Whether a fixture is one of PromptSRC."""
    return {name.partition(".")[0] for name in fixture.weights} == {"clip", "prompt"}


def computed(fixture: Fixture) -> tuple[Tensors, Tensors]:
    """What PromptSRC gives, and the starts of what it trains, by name."""
    config, inputs, backbone = fixture.config, fixture.inputs, fixture.backbone()
    method = PromptSRC(
        PromptSRC.Settings.model_validate(
            {
                **schedule(fixture),
                "context_length": config["n_text"],
                "image_prompts": config["n_visual"],
                "text_depth": config["depth_text"],
                "image_depth": config["depth_visual"],
                "text_weight": config["text_loss_weight"],
                "image_weight": config["image_loss_weight"],
                "gaussian_mean": config["gaussian_mean"],
                "gaussian_deviation": config["gaussian_std"],
            }
        )
    )
    for half in ("base", "novel"):
        fixture.check_names(f"{half}_names", inputs[f"tokens_{half}"])
    fitted, tokens = _start(fixture, method, backbone), inputs["tokens_base"]
    reference = mean_text_features(backbone.clip, inputs["tokens_templates"])
    loss_of = SelfRegulatedLoss(fitted, tokens, reference)
    parts = loss_of.parts(inputs["images"], inputs["labels"])
    total = loss_of(inputs["images"], inputs["labels"])[0]
    found = {
        **scores(fitted, fixture),
        "text_reference_mean": reference,
        "image_reference": backbone.clip.encode_image(inputs["images"]),
        "init_text.0": embedded_words(tokens[0], config["n_text"], backbone.clip),
        **prefixed("loss", {**parts, "total": total}),
        **prefixed("grad", _named(*gradients(total, [fitted.text, fitted.image]))),
        **train(fixture, method.settings, fitted, loss_of, inputs["images"], config["steps"]),
    }
    found |= prefixed("after", scores(fitted, fixture) | _named(fitted.text, fitted.image))
    found |= prefixed("gaussian", _averaged(fixture, method, backbone, reference))
    for name in fixture.expected:
        if name.startswith(_TABLE):
            epochs, mean, deviation = name.removeprefix(_TABLE).split("_")
            found[name] = gaussian_weights(int(epochs), float(mean), float(deviation))
    start = fixture.below("prompt.")
    starts = prefixed("after", start)
    for part in ("last", "aggregated", "snapshots"):
        starts |= prefixed(f"gaussian.{part}", start)
    return found, starts


def _start(fixture: Fixture, method: PromptSRC, backbone: Backbone) -> IndependentPrompts:
    text = fixture.prompts("prompt.text.", "depth_text", "n_text")
    image = fixture.prompts("prompt.visual.", "depth_visual", "n_visual")
    return IndependentPrompts(method, backbone, text, image)


def _averaged(
    fixture: Fixture, method: PromptSRC, backbone: Backbone, reference: torch.Tensor
) -> Tensors:
    """A second training from the start, over all epochs and with the average at its end."""
    inputs, fitted = fixture.inputs, _start(fixture, method, backbone)
    average, after = method.average_of(fitted), []

    def after_epoch(epoch: int) -> None:
        average.add(epoch)
        after.append(_copies(fitted))

    loss_of = SelfRegulatedLoss(fitted, inputs["tokens_base"], reference)
    log = train(fixture, method.settings, average, loss_of, inputs["images"], None, after_epoch)
    last = _copies(fitted)
    average.load()
    snapshots = {name: torch.stack([each[name] for each in after]) for name in last}
    return {
        "weights": torch.tensor(average.weights, dtype=torch.float64),
        "step_losses": log["step_losses"],
        **prefixed("snapshots", snapshots),
        **prefixed("last", last),
        **prefixed("aggregated", _named(fitted.text, fitted.image)),
        **scores(fitted, fixture),
    }


def _copies(fitted: IndependentPrompts) -> Tensors:
    return {name: value.detach().clone() for name, value in _named(*fitted.parameters()).items()}


def _named(text: torch.Tensor, image: torch.Tensor) -> Tensors:
    """Values of the prompts by the names of a fixture."""
    texts = {f"text.{index}": prompt for index, prompt in enumerate(text)}
    return texts | {f"visual.{index}": prompt for index, prompt in enumerate(image)}
