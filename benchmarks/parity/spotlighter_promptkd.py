"""Spotlighter as a plug-in of PromptKD; the teacher is given by its texts and logits."""

from __future__ import annotations

import torch

from benchmarks.parity.fixture import Fixture, Tensors
from benchmarks.parity.spotlighter import (
    GROUPS,
    grads,
    like_fixture,
    load,
    memory_settings,
    named,
    projector_names,
    recorded_heads,
    statistics,
    steps,
)
from benchmarks.parity.training import steps_of
from capt_core.methods.frozen_teacher import FrozenTeacher
from capt_core.methods.method import Fitted
from capt_core.methods.projector import Projector
from capt_core.methods.spotlighter.plugin import (
    SpotlightedDistillation,
    SpotlightedStudent,
    SpotlighterPromptKD,
)
from capt_core.methods.spotlighter.tokens import image_tokens

PROMPT = "vision_prompts."


def known(fixture: Fixture) -> bool:
    """Whether a fixture is one of Spotlighter on PromptKD."""
    return {"memory_initial", f"trainable/{PROMPT}0"} <= set(fixture.weights)


def computed(fixture: Fixture) -> tuple[Tensors, Tensors]:
    """What Spotlighter on PromptKD gives, and the starts of what it trains, by name."""
    inputs, target = fixture.inputs, fixture.inputs["teacher_logits"]
    images, keep = inputs["train_images"], inputs["dropout_keep_heads"].bool()
    fixture.check(
        classes=len(inputs["teacher_text_features"]),
        n_ctx_vision=len(fixture.weights[f"trainable/{PROMPT}0"]),
    )
    student = _start(fixture)
    with torch.no_grad():
        tower = student.image_tower()
        tokens = image_tokens(tower, images)
    found = {
        "forward/all_token_features_train": tokens.features,
        "forward/cls_attention_to_patches_train": tokens.attention,
        "forward/cls_embedding_train": tower.embedding(tower.tokens(images)),
        **named("eval_start", _scores(fixture, student)),
    }
    loss = _loss(fixture, student)
    parts, _, selected = loss.parts(images, target, keep[0])
    total = loss.total(parts)
    found |= {f"loss/kl_{GROUPS[name]}": parts[name] for name in GROUPS}
    found |= {"loss/kl_global": parts["divergence"], "loss/total": total}
    found |= {f"loss/l1_{each}": parts[f"{each}_distance"] for each in ("image", "text")}
    found["loss/selected_token_index"] = selected
    names = _names(fixture)
    found |= _by_depth("grad", grads(student, fixture, total, names), student)

    count = steps_of(fixture, "lr", len(keep))
    student, after = _start(fixture), f"after{count}"
    loss, settings = _loss(fixture, student), student.method.settings
    found |= steps(
        student, student.memory, settings, len(images), lambda: loss.step(images, target), count
    )
    values = named(f"param_{after}", like_fixture(student, fixture, names))
    found |= _by_depth(f"param_{after}", values, student)
    found |= statistics("head", student.projector, after)
    found |= statistics("projector", student.token_projector, after)
    found |= named(f"eval_{after}", _scores(fixture, student))
    return found, named(f"param_{after}", fixture.below("trainable/"))


def _start(fixture: Fixture) -> SpotlightedStudent:
    config, trained = fixture.config, fixture.below("trainable/")
    prompts = [trained[f"{PROMPT}{depth}"] for depth in range(config["prompt_depth"])]
    settings = SpotlighterPromptKD.Settings.model_validate(
        memory_settings(fixture, len(fixture.inputs["train_images"]))
        | {
            "image_prompts": len(prompts[0]),
            "image_depth": len(prompts),
            "kd_weight": config["kd_weight"],
            "temperature": config["temperature"],
        }
    )
    width, out = trained["head.0.weight"].shape[1], config["teacher_dim"]
    student = SpotlightedStudent(
        SpotlighterPromptKD(settings),
        fixture.backbone("clip"),
        torch.stack(prompts),
        Projector(width, out),
        Projector(width, out),
        settings.memory(out, 0),
    )
    load(student, fixture, _names(fixture))
    recorded_heads(student.memory, fixture)
    return student


def _names(fixture: Fixture) -> dict[str, str]:
    """Our names of trained tensors by those of a fixture; its prompts are one tensor here."""
    prompts = {name: "image" for name in fixture.below("trainable/") if name.startswith(PROMPT)}
    return prompts | projector_names(fixture, {"head": "projector", "projector": "token_projector"})


def _by_depth(group: str, values: Tensors, student: SpotlightedStudent) -> Tensors:
    """Values of which those of the prompts are cut into depths."""
    for depth in range(len(student.image)):
        name = f"{group}/{PROMPT}{depth}"
        values[name] = values[name][depth]
    return values


def _loss(fixture: Fixture, student: SpotlightedStudent) -> SpotlightedDistillation:
    plain = Fitted(student.method, student.backbone)
    teacher = FrozenTeacher(plain, fixture.inputs["teacher_text_features"])
    return SpotlightedDistillation(student, teacher, fixture.config["kd_weight"], 0)


@torch.no_grad()
def _scores(fixture: Fixture, student: SpotlightedStudent) -> Tensors:
    """What evaluation compares, and logits for both halves of the classes."""
    training = student.training
    features = student.eval().compared(fixture.inputs["test_images"])
    refined = student.refined_image(features)
    student.train(training)
    texts = student.memory.refined_texts(fixture.inputs["teacher_text_features"])
    logits = student.refined_logits(features, refined, texts, student.method.settings.test_share)
    base = (len(texts) + 1) // 2
    return {
        "image_features_test": features,
        "refined_image_test": refined,
        "refined_text": texts,
        "logits_base": logits[:, :base],
        "logits_novel": logits[:, base:],
    }
