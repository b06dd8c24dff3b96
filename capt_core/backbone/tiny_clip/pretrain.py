"""Pretrain the tiny CLIP: ``python -m capt_core.backbone.tiny_clip.pretrain --output DIR``.

Two stages. The *image tower* learns what is in the rendered photographs: texture, colours, size
and direction. The *text tower* then learns, contrastively against frozen image features, from
captions that seldom name a texture exactly (:mod:`capt_core.data.proctex.captions`). Frozen
features that are finer than the names used for them are what few-shot tuning can build on.

Takes about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors.torch import save_file

from capt_core.artifacts.files import atomic_path, write_text
from capt_core.backbone.tiny_clip import measure
from capt_core.backbone.tiny_clip.corpus import render_set
from capt_core.backbone.tiny_clip.model import WEIGHTS, build_model, read_config
from capt_core.backbone.tiny_clip.tokenizer import Tokenizer, clip_ids
from capt_core.backbone.tiny_clip.towers import (
    ImageStage,
    TextStage,
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
    seed, output = options.seed, options.output
    textures = render_set(seed, PRETRAIN_SPLIT, options.per_class, options.workers)
    print(f"rendered {len(textures.facts)} images", flush=True)

    image_stage = ImageStage(steps=options.image_steps)
    started = time.monotonic()
    tower, image_log = train_image_tower(textures, image_stage, seed)
    image_seconds = round(time.monotonic() - started)

    text_stage = TextStage(steps=options.text_steps, fine_name=options.fine_name)
    tokenizer = Tokenizer(clip_ids(vocabulary_texts()))
    torch.manual_seed(seed)
    model = build_model(vocabulary_size=tokenizer.vocabulary_size)
    model.visual.load_state_dict(tower)
    model.eval()
    started = time.monotonic()
    features = measure.embed_images(model, textures.images)
    text_log = train_text_tower(model, textures, features, tokenizer, text_stage, seed)
    text_seconds = round(time.monotonic() - started)

    half = {n: t.half() if t.is_floating_point() else t for n, t in model.state_dict().items()}
    with atomic_path(output / WEIGHTS) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in half.items()}, temporary)
    _write_json(output / "vocabulary.json", {"clip_ids": clip_ids(vocabulary_texts())})
    config = read_config()
    config["text_cfg"]["vocab_size"] = tokenizer.vocabulary_size
    _write_json(output / "config.json", config)

    model.load_state_dict({name: t.float() for name, t in half.items()})
    record = {
        "seed": seed,
        "image_stage": {
            "settings": asdict(image_stage),
            "images": len(textures.facts),
            "seconds": image_seconds,
            "log": image_log,
        },
        "text_stage": {"settings": asdict(text_stage), "seconds": text_seconds, "log": text_log},
        "measured": _measure(model, tokenizer, seed + _SELECTION_OFFSET, options.workers),
        "libraries": {name: metadata.version(name) for name in _LIBRARIES},
    }
    print(json.dumps(record["measured"], indent=1), flush=True)
    _write_json(output / "provenance.json", record)


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Pretrain the tiny CLIP on procedural textures.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--per-class", type=int, default=1600, help="images of each class")
    parser.add_argument("--image-steps", type=int, default=ImageStage.steps)
    parser.add_argument("--text-steps", type=int, default=TextStage.steps)
    parser.add_argument("--fine-name", type=float, default=TextStage.fine_name)
    parser.add_argument("--workers", type=int, default=2, help="processes that render")
    parser.add_argument("--threads", type=int, default=2, help="threads that train")
    return parser


if __name__ == "__main__":
    main()
