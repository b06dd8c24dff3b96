"""Pretrain a tiny CLIP: ``python -m capt_core.backbone.tiny_clip.pretrain NAME --output DIR``.

Two stages. The *image tower* learns what is in the rendered photographs: texture, colours, size
and direction. The *text tower* then learns, contrastively against frozen image features, from
captions (:mod:`capt_core.data.proctex.captions`). Those of ``tiny-clip`` seldom name a texture
exactly: frozen features that are finer than the names used for them are what few-shot tuning can
build on. Those of ``tiny-clip-teacher`` name it always; its image tower is twice as wide and goes
on from that of ``tiny-clip`` (:mod:`capt_core.backbone.tiny_clip.widening`), on other images. The
images are of the split ``pretrain``, which no benchmark draws from.

Takes about half an hour on two cores. What is interrupted goes on where it was when the same
command is given again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors.torch import save_file

from capt_core.artifacts.files import atomic_path, write_text
from capt_core.backbone.identity import EMBEDDED, EMBEDDED_WEIGHTS, TINY_CLIP, embedded_identity
from capt_core.backbone.tiny_clip import measure
from capt_core.backbone.tiny_clip.corpus import render_set
from capt_core.backbone.tiny_clip.model import build_model, load_model, read_config
from capt_core.backbone.tiny_clip.recipes import RECIPES, Recipe
from capt_core.backbone.tiny_clip.tokenizer import Tokenizer, clip_ids
from capt_core.backbone.tiny_clip.towers import (
    train_image_tower,
    train_text_tower,
)
from capt_core.data.proctex import PRETRAIN_SPLIT
from capt_core.data.proctex.captions import vocabulary_texts

if TYPE_CHECKING:
    from open_clip.model import CLIP

_SELECTION_OFFSET: Final = 7919  # progress is watched on images that no benchmark run uses
_LIBRARIES: Final = ("torch", "open_clip_torch", "numpy", "scipy")


def main(arguments: list[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    recipe = _chosen(options)
    pretrain(options.name, recipe, options.output or EMBEDDED[options.name], options.workers)


def pretrain(name: str, recipe: Recipe, output: Path, workers: int) -> None:
    """Train a model and write its weights, configuration, vocabulary and facts.

    Args:
        name: one of :data:`RECIPES`; says the architecture.
        recipe: settings of its training.
        output: folder for what is written.
        workers: processes that render.
    """
    seed, image_stage, text_stage = recipe.seed, recipe.image_stage, recipe.text_stage
    textures = render_set(seed, PRETRAIN_SPLIT, recipe.per_class, workers)
    print(f"rendered {len(textures.facts)} images", flush=True)

    start = None if recipe.widened is None else load_model(recipe.widened).visual.state_dict()
    checkpoint = output / f"image_tower_{_digest(name, recipe)}.pt"
    started = time.monotonic()
    tower, image_log = train_image_tower(
        name, textures, image_stage, seed, trained=start, checkpoint=checkpoint
    )
    image_seconds = round(time.monotonic() - started)

    tokenizer = Tokenizer(clip_ids(vocabulary_texts()))
    torch.manual_seed(seed)
    model = build_model(name, vocabulary_size=tokenizer.vocabulary_size)
    model.visual.load_state_dict(tower)
    model.eval()
    started = time.monotonic()
    captioned = textures.first(text_stage.per_class)
    features = measure.embed_images(model, captioned.images)
    text_log = train_text_tower(model, captioned, features, tokenizer, text_stage, seed)
    text_seconds = round(time.monotonic() - started)

    half = {n: t.half() if t.is_floating_point() else t for n, t in model.state_dict().items()}
    with atomic_path(output / EMBEDDED_WEIGHTS) as temporary:
        save_file({n: tensor.contiguous() for n, tensor in half.items()}, temporary)
    if name == TINY_CLIP:  # the one vocabulary of all
        _write_json(output / "vocabulary.json", {"clip_ids": clip_ids(vocabulary_texts())})
    config = read_config(name)
    config["text_cfg"]["vocab_size"] = tokenizer.vocabulary_size
    _write_json(output / "config.json", config)

    model.load_state_dict({n: t.float() for n, t in half.items()})
    record = {
        "seed": seed,
        **({} if recipe.widened is None else {"widened": embedded_identity(recipe.widened)}),
        "image_stage": {
            "settings": asdict(image_stage),
            "images": len(textures.facts),
            "seconds": image_seconds,
            "log": image_log,
        },
        "text_stage": {"settings": asdict(text_stage), "seconds": text_seconds, "log": text_log},
        "measured": _measure(model, tokenizer, seed + _SELECTION_OFFSET, workers),
        "libraries": {library: metadata.version(library) for library in _LIBRARIES},
    }
    print(json.dumps(record["measured"], indent=1), flush=True)
    _write_json(output / "provenance.json", record)
    checkpoint.unlink(missing_ok=True)


def _digest(name: str, recipe: Recipe) -> str:
    """Names the state of a training, so that no other goes on from it."""
    start = None if recipe.widened is None else embedded_identity(recipe.widened)
    facts = [name, start, read_config(name), recipe.seed, recipe.per_class]
    facts.append(asdict(recipe.image_stage))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def _measure(model: CLIP, tokenizer: Tokenizer, seed: int, workers: int) -> dict[str, Any]:
    """Zero-shot and probe accuracy on images kept for watching the training."""
    sets = {}
    for split in ("train", "val"):
        textures = render_set(seed, split, 60, workers)
        values = measure.embed_images(model, textures.images)
        sets[split] = measure.Features(values, textures.labels)
    names = measure.embed_class_names(model, tokenizer)
    zero_shot = measure.zero_shot(sets["val"], names)
    probes = {
        half: measure.linear_probe(sets["train"], sets["val"], classes, 16, seed)
        for half, classes in measure.HALVES.items()
    }
    return {
        "images": f"split val, seed {seed}, 60 of each class",
        "zero_shot": {name: round(value, 2) for name, value in zero_shot.items()},
        "probe_16_shots": {name: round(value, 2) for name, value in probes.items()},
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")


def _chosen(options: argparse.Namespace) -> Recipe:
    """The named recipe with what the command line changes of it."""
    recipe = RECIPES[options.name]
    image = {"steps": options.image_steps}
    text = {"steps": options.text_steps, "fine_name": options.fine_name}
    whole = {"seed": options.seed, "per_class": options.per_class}
    return replace(
        recipe,
        image_stage=replace(recipe.image_stage, **_given(image)),
        text_stage=replace(recipe.text_stage, **_given(text)),
        **_given(whole),
    )


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Pretrain a tiny CLIP on procedural textures.")
    parser.add_argument("name", nargs="?", choices=list(RECIPES), default=TINY_CLIP)
    parser.add_argument("--output", type=Path, help="folder; by default the packaged model's")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--per-class", type=int, help="images of each class")
    parser.add_argument("--image-steps", type=int)
    parser.add_argument("--text-steps", type=int)
    parser.add_argument("--fine-name", type=float, help="share of captions that name the class")
    parser.add_argument("--workers", type=int, default=2, help="processes that render")
    parser.add_argument("--threads", type=int, default=2, help="threads that train")
    return parser


if __name__ == "__main__":
    main()
