"""How published methods name what they learn, and what that is here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError, shown
from capt_core.methods.coop import LearnedContext
from capt_core.methods.importing.checkpoint import Checkpoint
from capt_core.methods.importing.frozen import IMAGE, TEXT
from capt_core.methods.maple import CoupledPrompts
from capt_core.methods.method import Fitted, Method
from capt_core.methods.prompting.text import text_blocks, token_embedding
from capt_core.methods.promptsrc import IndependentPrompts

LEARNER = "prompt_learner."

FROZEN_IMAGE = f"{LEARNER}ZS_image_encoder."
"""PromptSRC's second copy of the frozen image tower, which only its training uses."""

_OTHERS = {
    r"(.*\.)?meta_net\..*": "CoCoOp (a context for each image)",
    r"(.*\.)?(text_feature_residuals|base_text_features)": "TaskRes",
    r"VPT_image_trans\..*": "PromptKD, or DPC or CAPT's release on top of it",
    r"(.*\.)?(VPT_)?topk(_\w+\..*)?": "TAC, DPC or CAPT's release",
    r"(text|visual)_adapter\..*": "LwEIB",
    r"(.*\.)?(deep_)?prompt_embeddings": "TAP",
    r"(.*\.)?(adapter\.)?fc\.\d\.weight": "CLIP-Adapter",
    r"(.*\.)?\w*lora_\w+(\..*)?": "LoRA",
}
"""Names of tensors that tell methods whose files are not read, by patterns of them."""


@dataclass(frozen=True)
class Learned:
    """What a checkpoint learned, taken from it.

    Attributes:
        length: n, vectors of the context.
        settings: keys of the method's section that follow from the shapes.
        fitted: builds the fitted method of a configured one and the names of the rows of a
            class-specific context.
        summary: for people.
        rows: classes that have a context of their own; 0 where it is shared.
        words: whether words may stand between context and name.
    """

    length: int
    settings: Mapping[str, Any]
    fitted: Callable[[Method, Backbone, tuple[str, ...]], Fitted]
    summary: str
    rows: int = 0
    words: bool = True


def method_of(checkpoint: Checkpoint) -> str:
    """The method whose names a checkpoint's tensors have.

    CoOp's files, and those of ProGrad and KgCoOp, which are applied in the same way, hold the
    prompt learner alone; PromptSRC's and the independent prompts' (IVLP) are applied in one way.

    Raises:
        CaptError: those of a method that is not read, or of none that is known.
    """
    names = list(checkpoint.tensors)
    for pattern, method in _OTHERS.items():
        telling = next((name for name in names if re.fullmatch(pattern, name)), None)
        if telling is not None:
            raise CaptError(
                f"{checkpoint.where}: holds {shown(telling)}, as {method} does, which is not read; "
                "give a checkpoint of CoOp, MaPLe or PromptSRC"
            )
    deep = any(name.endswith(".VPT_shallow") for name in names)
    image = f"{IMAGE}VPT" in checkpoint
    if f"{LEARNER}proj.weight" in checkpoint or any("compound_prompt" in name for name in names):
        return "maple"
    if f"{LEARNER}ctx" in checkpoint and (image or deep):
        return "promptsrc"
    if image or deep:
        raise CaptError(
            f"{checkpoint.where}: holds prompts inside the towers but no {LEARNER}ctx, as visual "
            "prompt tuning does, which is not read; give one of CoOp, MaPLe or PromptSRC"
        )
    if "ctx" in checkpoint or f"{LEARNER}ctx" in checkpoint:
        return "coop"
    listed = ", ".join(shown(name) for name in names[:3])
    raise CaptError(
        f"{checkpoint.where}: holds nothing that CoOp, MaPLe or PromptSRC learn, but {len(names)} "
        f"other tensors ({listed}); weights of a CLIP are given by backbone.checkpoint"
    )


def prefix_of(checkpoint: Checkpoint) -> str:
    """What stands before the names of the prompt learner."""
    return "" if "ctx" in checkpoint else LEARNER


def coop(checkpoint: Checkpoint, backbone: Backbone) -> Learned:
    """CoOp's context, one for all classes or for each."""
    name = f"{prefix_of(checkpoint)}ctx"
    width = token_embedding(backbone.clip).embedding_dim
    stored = checkpoint.tensors[name]
    specific = len(stored.shape) == 3
    context = checkpoint.take(name, *([None] * (2 if specific else 1)), width)
    length = context.shape[-2]
    whose = f"each of {len(context)} classes" if specific else "all classes"
    return Learned(
        length,
        {"context_init": None, "context_length": length, "class_specific": specific},
        lambda method, on, names: LearnedContext(method, on, context, names),
        f"a context of {length} vectors for {whose}",
        len(context) if specific else 0,
        words=False,
    )


def maple(checkpoint: Checkpoint, backbone: Backbone) -> Learned:
    """MaPLe's text prompts and their projections into the image tower."""
    text_width, image_width = _widths(backbone)
    context = checkpoint.take(f"{LEARNER}ctx", None, text_width)
    deep, projections = f"{LEARNER}compound_prompts_text.", f"{LEARNER}compound_prompt_projections."
    depth = 1 + checkpoint.numbered(deep)
    _check_depth(checkpoint, depth, deep, min(_blocks(backbone)), backbone)
    couplings = [f"{LEARNER}proj", *(f"{projections}{index}" for index in range(depth - 1))]
    length = len(context)
    prompts = [context]
    prompts += [checkpoint.take(f"{deep}{i}", length, text_width) for i in range(depth - 1)]
    weights = [checkpoint.take(f"{name}.weight", image_width, text_width) for name in couplings]
    biases = [checkpoint.take(f"{name}.bias", image_width) for name in couplings]
    tensors = [torch.stack(parts) for parts in (prompts, weights, biases)]
    return Learned(
        length,
        {"context_length": length, "depth": depth},
        lambda method, on, _: CoupledPrompts(method, on, *tensors),
        f"{length} vectors in each of {depth} layers of both towers",
    )


def promptsrc(checkpoint: Checkpoint, backbone: Backbone) -> Learned:
    """Independent prompts in both towers: PromptSRC, and its baseline IVLP."""
    text_width, image_width = _widths(backbone)
    text = [checkpoint.take(f"{LEARNER}ctx", None, text_width)]
    image = [checkpoint.take(f"{IMAGE}VPT", None, image_width)]
    towers = ((TEXT, text, text_width), (IMAGE, image, image_width))
    for (tower, found, width), blocks in zip(towers, _blocks(backbone), strict=True):
        block, name = f"{tower}transformer.resblocks.", ".VPT_shallow"
        count = checkpoint.numbered(block, name, 1)
        _check_depth(checkpoint, 1 + count, f"{block}*{name}", blocks, backbone)
        size = len(found[0])
        found += [checkpoint.take(f"{block}{i}{name}", size, width) for i in range(1, 1 + count)]
    texts, images = torch.stack(text), torch.stack(image)
    shapes = {"text": texts.shape[:2], "image": images.shape[:2]}
    return Learned(
        texts.shape[1],
        {
            "context_length": texts.shape[1],
            "image_prompts": images.shape[1],
            "text_depth": len(texts),
            "image_depth": len(images),
        },
        lambda method, on, _: IndependentPrompts(method, on, texts, images),
        "; ".join(
            f"{n} vectors in each of {j} layers of the {tower} tower"
            for tower, (j, n) in shapes.items()
        )
        + ("" if checkpoint.below(FROZEN_IMAGE) else " (IVLP, which is applied in the same way)"),
    )


LAYOUTS: Mapping[str, Callable[[Checkpoint, Backbone], Learned]] = {
    "coop": coop,
    "maple": maple,
    "promptsrc": promptsrc,
}
"""How each method's checkpoint is taken apart, by the method's name."""


def _widths(backbone: Backbone) -> tuple[int, int]:
    """Widths of the text and the image tower."""
    image: int = backbone.clip.visual.class_embedding.shape[0]
    return token_embedding(backbone.clip).embedding_dim, image


def _blocks(backbone: Backbone) -> tuple[int, int]:
    """Blocks of the text and the image tower."""
    clip = backbone.clip
    return len(text_blocks(clip)), len(clip.visual.transformer.resblocks)


def _check_depth(
    checkpoint: Checkpoint, depth: int, what: str, blocks: int, backbone: Backbone
) -> None:
    if depth > blocks:
        raise CaptError(
            f"{checkpoint.where}: prompts for {depth} layers ({what}), {backbone.identity} has "
            f"{blocks}; set backbone.name to the one that it was trained on"
        )
