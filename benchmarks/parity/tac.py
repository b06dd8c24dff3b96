"""TAC."""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.parity.fixture import Fixture, Tensors
from benchmarks.parity.training import gradients, paces, steps_of
from capt_core.backbone.loading import Backbone
from capt_core.learning.averaging import StateAverage
from capt_core.learning.loop import Batch, Loop, Record
from capt_core.learning.optimisation import ParameterGroup
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.prompting.start import embedded_words
from capt_core.methods.prompting.text import made_room, overwritten, token_embedding
from capt_core.methods.tac.centres import task_centres, text_knowledge
from capt_core.methods.tac.method import TAC, TaskAwareLoss, Views
from capt_core.methods.tac.prompts import TaskAwarePrompts, centre_mask
from capt_core.methods.zero_shot import class_logits

_LAYERS = {"centres_to_text": "to_text", "centres_to_vision": "to_image"}


def known(fixture: Fixture) -> bool:
    """Whether a fixture is one of TAC."""
    return "trainable/centres_to_text.weight" in fixture.weights


def computed(fixture: Fixture) -> tuple[Tensors, Tensors]:
    """What TAC gives, and the starts of what it trains, by name."""
    config, inputs, backbone = fixture.config, fixture.inputs, fixture.backbone("clip")
    _check(fixture)
    clip = backbone.clip
    knowledge = text_knowledge(clip, inputs["description_tokens"], inputs["description_class"])
    centres = unit(task_centres(knowledge, knowledge[inputs["kmeans_initial_rows"]])[0])
    points = inputs["kmeans_only/points"]
    means, nearest = task_centres(points, points[inputs["kmeans_only/initial_rows"]])
    fitted = _start(fixture, backbone, centres)
    tokens = made_room(inputs["tokens_base"], fitted.room)
    plain = clip.encode_image(inputs["plain_images"])
    words = inputs["tokens_ctx_words"][0]
    patches = clip.visual.positional_embedding.shape[0]
    found = {
        "init/fixed_embeddings": knowledge,
        "init/centres_normalised": centres,
        "init/ctx": embedded_words(words, config["n_ctx_text"], clip),
        "init/zero_shot_image_features": plain,
        "kmeans_only/centres": means,
        "kmeans_only/assignment": nearest,
        "forward/centre_tokens_text": fitted.to_text(centres),
        "forward/centre_tokens_vision": fitted.to_image(centres),
        "forward/eot_index": tokens.argmax(dim=1),
        "forward/prompts_first2": overwritten(
            token_embedding(clip)(tokens[:2]), fitted.text_prompts()[0], 1
        ),
        "forward/vision_attention_forbidden": centre_mask(
            patches, len(centres), config["n_ctx_vision"]
        ),
        "forward/text_features_base": fitted.encode_tokens(tokens),
        "forward/image_features_test": fitted.encode(inputs["test_images"]),
        "eval/logits_base": _logits(fitted, fixture, "base"),
    }
    for name, step in (("nodropout", None), ("dropout", 0)):
        found |= _terms(name, TaskAwareLoss(fitted, tokens, knowledge), fixture, plain, step)
    starts: Tensors = {}
    recorded = len(inputs["dropout_keep_student"])
    for name in ("three_steps", "averaged"):
        steps = steps_of(fixture, f"{name}/lr", recorded)
        # The averaged one is a whole training in miniature, of one step an epoch.
        epochs = steps if name == "averaged" else None
        fitted = _start(fixture, backbone, centres, epochs)
        starts |= _named(f"{name}/param/", list(fitted.parameters()), fitted)
        average = _method(fixture, len(centres), epochs).average_of(fitted)
        loss_of = TaskAwareLoss(fitted, tokens, knowledge)
        found[f"{name}/lr"] = _trained(fixture, loss_of, average, plain, steps)
        if name == "averaged":
            average.load()
            for half in ("base", "novel"):
                found[f"averaged/logits_{half}"] = _logits(fitted, fixture, half)
        found |= _named(f"{name}/param/", list(fitted.parameters()), fitted)
    return found, starts


def _check(fixture: Fixture) -> None:
    given, inputs = fixture.below("trainable/"), fixture.inputs
    images = len(inputs["labels"])
    fixture.check(
        trainable=list(given),
        n_ctx_text=len(given["ctx"]),
        n_ctx_vision=len(given["vision_prompts.0"]),
        batch=images,
        views=len(inputs["views"]) // images,
    )


def _method(fixture: Fixture, centres: int, epochs: int | None) -> TAC:
    """With a fixture's settings; `epochs` of None is the number that they say."""
    config = fixture.config
    return TAC(
        TAC.Settings.model_validate(
            {
                "context_length": config["n_ctx_text"],
                "image_prompts": config["n_ctx_vision"],
                "centres": centres,
                "views": config["views"],
                "text_weight": config["text_loss_weight"],
                "image_weight": config["image_loss_weight"],
                "batch_size": config["batch"],
                **paces(fixture),
                **({} if epochs is None else {"epochs": epochs}),
            }
        )
    )


def _start(
    fixture: Fixture, backbone: Backbone, centres: torch.Tensor, epochs: int | None = None
) -> TaskAwarePrompts:
    """The trained tensors of a fixture before the first step."""
    given, method = fixture.below("trainable/"), _method(fixture, len(centres), epochs)
    text = [given["ctx"]] + [given[f"text_prompts.{i}"] for i in range(1, _count(given, "text"))]
    image = [given[f"vision_prompts.{i}"] for i in range(_count(given, "vision"))]
    fitted = TaskAwarePrompts(method, backbone, torch.stack(text), torch.stack(image), centres)
    for theirs, ours in _LAYERS.items():
        fitted.get_submodule(ours).load_state_dict(
            {part: given[f"{theirs}.{part}"] for part in ("weight", "bias")}
        )
    return fitted


def _count(given: Tensors, tower: str) -> int:
    """Depths that have prompts; those of the text begin with the context."""
    found = [int(n.rpartition(".")[2]) for n in given if n.startswith(f"{tower}_prompts.")]
    return max(found, default=0) + 1


def _views(fixture: Fixture, plain: torch.Tensor, step: int | None) -> Views:
    """The batch, with the dropout recorded for a step, counted from 0; None is without."""
    inputs = fixture.inputs
    views = Views(inputs["views"], inputs["labels"], plain)
    if step is None:
        return views
    return replace(
        views,
        kept=inputs["dropout_keep_student"][step],
        kept_frozen=inputs["dropout_keep_frozen"][step],
    )


def _terms(
    name: str, loss_of: TaskAwareLoss, fixture: Fixture, plain: torch.Tensor, step: int | None
) -> Tensors:
    """Loss terms, features and gradients of one step."""
    views, fitted = _views(fixture, plain, step), loss_of.fitted
    images, frozen, texts = loss_of.features(views)
    parts, parameters = loss_of.parts(views), list(fitted.parameters())
    total = loss_of(views)[0]
    return {
        f"{name}/image_features": images,
        f"{name}/zero_shot_features_repeated": frozen,
        f"{name}/logits": class_logits(images, texts, fitted.backbone.logit_scale),
        f"{name}/cross_entropy": parts["cross_entropy"],
        f"{name}/text_l1_weighted": parts["text"],
        f"{name}/image_l1_weighted": parts["image"],
        f"{name}/total": total,
        **_named(f"{name}/grad/", gradients(total, parameters), fitted),
    }


def _trained(
    fixture: Fixture,
    loss_of: TaskAwareLoss,
    average: StateAverage,
    plain: torch.Tensor,
    steps: int,
) -> torch.Tensor:
    """Epochs of one step through the loop of a fit; the rates used."""
    fitted = loss_of.fitted

    def loss_of_batch(batch: Batch) -> tuple[torch.Tensor, Record]:
        return loss_of(_views(fixture, plain, batch.step - 1))

    log = Loop(
        average,
        [ParameterGroup(list(fitted.parameters()))],
        len(fixture.inputs["labels"]),
        loss_of_batch,
        fitted.method.settings,
        "parity",
        0,
        last_step=steps,
        after_epoch=average.add,
    ).fit()
    return torch.tensor(log.log["learning_rate"].to_list(), dtype=torch.float64)


@torch.no_grad()
def _logits(fitted: TaskAwarePrompts, fixture: Fixture, half: str) -> torch.Tensor:
    tokens = made_room(fixture.inputs[f"tokens_{half}"], fitted.room)
    images, texts = fitted.compared(fixture.inputs["test_images"], tokens)
    return class_logits(images, texts, fitted.backbone.logit_scale)


def _named(prefix: str, values: list[torch.Tensor], fitted: TaskAwarePrompts) -> Tensors:
    """Values in the order of the parameters by the names of a fixture; copies."""
    theirs = {ours: name for name, ours in _LAYERS.items()}
    found: Tensors = {}
    for (name, _), value in zip(fitted.named_parameters(), values, strict=True):
        layer, _, part = name.partition(".")
        if layer in theirs:
            found[f"{theirs[layer]}.{part}"] = value
        elif name == "text":
            found |= {f"text_prompts.{i}": each for i, each in enumerate(value)}
            found["ctx"] = found.pop("text_prompts.0")
        else:
            found |= {f"vision_prompts.{i}": each for i, each in enumerate(value)}
    return {prefix + name: value.detach().clone() for name, value in found.items()}
