"""Spotlighter on CoOp, with both selections of tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.parity.fixture import Fixture, Tensors
from benchmarks.parity.training import gradients, paces, steps_of
from capt_core.learning.loop import Loop
from capt_core.learning.optimisation import ParameterGroup
from capt_core.methods.coop import ContextTexts
from capt_core.methods.projector import Projector
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.prompting.start import embedded_words
from capt_core.methods.spotlighter.memory import Memory
from capt_core.methods.spotlighter.method import SpotlightedClip, Spotlighter, SpotlighterLoss
from capt_core.methods.spotlighter.tokens import image_tokens, selected_tokens, token_rows

SELECTIONS = ("released", "corrected")

GROUPS = {"top7": "rows_top7", "top2": "rows_top2_group", "low3": "rows_low3_group"}


def known(fixture: Fixture) -> bool:
    """Whether a fixture is one of Spotlighter on CoOp."""
    return {"memory_initial", "trainable/ctx", "trainable/memory.extractor.weight"} <= set(
        fixture.weights
    )


def computed(fixture: Fixture) -> tuple[Tensors, Tensors]:
    """What Spotlighter gives, and the starts of what it trains, by name."""
    fitted, tokens = _start(fixture, "released"), fixture.inputs["tokens_base"]
    clip = fitted.backbone.clip
    found = {
        "init/ctx": embedded_words(
            fixture.inputs["tokens_ctx_words"][0], len(fitted.context), clip
        ),
        "forward/plain_text_features_base": clip.encode_text(tokens),
        "eval_start/logits_base": logits(fitted, fixture, "tokens_base"),
        **named("forward", _forward(fitted, fixture)),
    }
    starts: Tensors = {}
    for selection in SELECTIONS:
        variant, start = _variant(fixture, selection)
        found |= named(selection, variant)
        starts |= named(selection, start)
    return found, starts


def memory_settings(fixture: Fixture, rows: int) -> dict[str, Any]:
    """The settings that a fixture's configuration holds; the others are as published."""
    config = fixture.config
    names = {"memory_size": "memory_size", "momentum": "memory_momentum", "alpha": "refinement"}
    names |= {"attention_heads": "attention_heads"}
    held = {ours: config[theirs] for theirs, ours in names.items()}
    return {"batch_size": rows} | held | paces(fixture)


LAYERS = {"0": "conv1", "1": "bn", "3": "conv2"}
"""A projector's layers by their places in a fixture."""


def projector_names(fixture: Fixture, projectors: dict[str, str]) -> dict[str, str]:
    """Our names of the tensors of projectors, which a fixture numbers, by its names."""
    parts = [name.split(".") for name in fixture.below("trainable/")]
    return {
        ".".join(part): ".".join([projectors[part[0]], LAYERS[part[1]], *part[2:]])
        for part in parts
        if part[0] in projectors
    }


def load(module: nn.Module, fixture: Fixture, renamed: dict[str, str]) -> None:
    """Give a module a fixture's memory and trained tensors; what it was made with stays."""
    trained = fixture.below("trainable/")
    fixture.check(trainable=list(trained))
    state = {renamed.get(name, name): value for name, value in trained.items()}
    own = module.double().state_dict()
    given = {name for name, value in state.items() if value.shape == own[name].shape}
    if {*dict(module.named_parameters())} - {*state} or {*state} - given - {"image"}:
        raise KeyError("other tensors are trained than those of the method")
    memory = {"memory.slots": fixture.weights["memory_initial"]}
    module.load_state_dict({**own, **{name: state[name] for name in given}, **memory})


def like_fixture(module: nn.Module, fixture: Fixture, names: dict[str, str]) -> Tensors:
    """Copies of parameters, or of gradients held by name, in the shapes of a fixture."""
    values = dict(module.named_parameters())
    return {
        name: values[names.get(name, name)].detach().clone() for name in fixture.below("trainable/")
    }


def named(group: str, values: Tensors) -> Tensors:
    """Values under the names of a group."""
    return {f"{group}/{name}": value for name, value in values.items()}


def statistics(name: str, projector: Projector, after: str) -> Tensors:
    """The running statistics of a projector."""
    kinds = {"mean": "running_mean", "var": "running_var"}
    return {
        f"{name}_running_{kind}_{after}": projector.bn.get_buffer(buffer)
        for kind, buffer in kinds.items()
    }


def recorded_heads(memory: Memory, fixture: Fixture) -> None:
    """Make the memory take the heads that were kept step by step from the inputs."""
    kept = fixture.inputs["dropout_keep_heads"].bool()
    memory.next_keep = lambda rows, seed: kept[int(memory.updates)]  # type: ignore[method-assign]


def steps(
    module: nn.Module,
    memory: Memory,
    settings: Any,
    rows: int,
    loss_of: Callable[[], Any],
    count: int,
) -> Tensors:
    """Train on one batch again and again, an epoch a step."""
    found: Tensors = {}

    def after_epoch(epoch: int) -> None:
        found[f"memory_after_step{epoch - 1}"] = memory.slots.clone()

    log = Loop(
        module,
        [ParameterGroup(list(module.parameters()))],
        rows,
        lambda _: loss_of(),
        settings,
        "parity",
        0,
        last_step=count,
        after_epoch=after_epoch,
    ).fit()
    found["total_per_step"] = torch.tensor(log.log["loss"].to_list(), dtype=torch.float64)
    found["lr"] = torch.tensor(log.log["learning_rate"].to_list(), dtype=torch.float64)
    return found


def _start(fixture: Fixture, selection: str) -> SpotlightedClip:
    config, context = fixture.config, fixture.weights["trainable/ctx"]
    settings = Spotlighter.Settings.model_validate(
        memory_settings(fixture, len(fixture.inputs["train_labels"]))
        | {
            "selection": selection,
            "context_length": len(context),
            "token_weight": 1 / config["balance"],
            "distillation_weight": config["distill"],
        }
    )
    fitted = SpotlightedClip(Spotlighter(settings), fixture.backbone("clip"), context.clone())
    load(fitted, fixture, _names(fixture))
    recorded_heads(fitted.memory, fixture)
    return fitted


def _names(fixture: Fixture) -> dict[str, str]:
    """Our names of trained tensors by those of a fixture, where they differ."""
    return {"ctx": "context", **projector_names(fixture, {"projector": "projector"})}


@torch.no_grad()
def _texts(fitted: SpotlightedClip, tokens: torch.Tensor) -> torch.Tensor:
    return unit(ContextTexts(tokens).encode(fitted.backbone.clip, fitted.context))


@torch.no_grad()
def _image_features(fitted: SpotlightedClip, fixture: Fixture) -> torch.Tensor:
    return unit(fitted.encode(fixture.inputs["test_images"]))


@torch.no_grad()
def logits(fitted: SpotlightedClip, fixture: Fixture, tokens: str) -> torch.Tensor:
    """Logits of the test images for classes with token ids of the inputs."""
    features = _image_features(fitted, fixture)
    texts = fitted.memory.refined_texts(_texts(fitted, fixture.inputs[tokens]))
    share = fitted.method.settings.test_share
    return fitted.refined_logits(features, fitted.refined_image(features), texts, share)


@torch.no_grad()
def _forward(fitted: SpotlightedClip, fixture: Fixture) -> Tensors:
    tokens = image_tokens(fitted.image_tower(), fixture.inputs["train_images"])
    texts, images = _texts(fitted, fixture.inputs["tokens_base"]), _image_features(fitted, fixture)
    return {
        "all_token_features_train": tokens.features,
        "cls_attention_to_patches_train": tokens.attention,
        "cls_feature_train": tokens.features[:, 0],
        "image_features_normalised_test": images,
        "memory_read_image_test": fitted.memory.read(images),
        "refined_image_test": fitted.refined_image(images),
        "text_features_normalised": texts,
        "memory_read_text": fitted.memory.read(texts),
        "refined_text": fitted.memory.refined_texts(texts),
    }


def _variant(fixture: Fixture, selection: str) -> tuple[Tensors, Tensors]:
    """The training with one selection."""
    names = _names(fixture)
    images, labels = fixture.inputs["train_images"], fixture.inputs["train_labels"]
    keep = fixture.inputs["dropout_keep_heads"].bool()
    texts = ContextTexts(fixture.inputs["tokens_base"])
    fitted = _start(fixture, selection)
    loss = SpotlighterLoss(fitted, texts, 0)
    parts, projected = loss.parts(images, labels, keep[0])
    attention = image_tokens(fitted.image_tower(), images).attention
    selected = selected_tokens(attention, fitted.method.settings.selection)
    found: Tensors = {"projected_tokens": projected, "selected_token_index": selected}
    found |= {GROUPS[name]: rows for name, rows in token_rows(projected, selected).items()}
    total = loss.total(parts)
    found |= {f"loss/ce_{GROUPS[name]}": parts[name] for name in GROUPS}
    found |= {"loss/ce_global": parts["image"], "loss/total": total}
    found |= {f"loss/l1_{each}": parts[f"{each}_distance"] for each in ("image", "text")}
    found |= grads(fitted, fixture, total, names)

    fitted = _start(fixture, selection)
    loss = SpotlighterLoss(fitted, texts, 0)
    settings, count = fitted.method.settings, steps_of(fixture, f"{selection}/lr", len(keep))
    found |= steps(
        fitted, fitted.memory, settings, len(labels), lambda: loss(images, labels), count
    )
    after = f"after{count}"
    found |= named(f"param_{after}", like_fixture(fitted, fixture, names))
    found |= statistics("projector", fitted.projector, after)
    for half in ("base", "novel"):
        found[f"logits_{half}_{after}"] = logits(fitted, fixture, f"tokens_{half}")
    # The authors' code forgets its memory before it is tested on novel classes.
    fitted.memory.slots = fixture.weights["memory_initial"]
    found[f"logits_novel_{after}_fresh_memory"] = logits(fitted, fixture, "tokens_novel")
    return found, named(f"param_{after}", fixture.below("trainable/"))


def grads(
    module: nn.Module, fixture: Fixture, loss: torch.Tensor, names: dict[str, str]
) -> Tensors:
    """Gradients of a loss by every trained tensor, by the names and in the shapes of a fixture."""
    own = dict(module.named_parameters())
    trained = fixture.below("trainable/")
    values = gradients(loss, [own[names.get(name, name)] for name in trained])
    return named("grad", dict(zip(trained, values, strict=True)))
