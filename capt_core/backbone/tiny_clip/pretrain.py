"""Pretrain the tiny CLIP: ``python -m capt_core.backbone.tiny_clip.pretrain --output DIR``.

Two stages. The *image tower* learns what is in the rendered photographs: texture, colours, size
and direction. The *text tower* then learns, contrastively against frozen image features, from
captions that seldom name a texture exactly (:mod:`capt_core.data.proctex.captions`). Frozen
features that are finer than the names used for them are what few-shot tuning can build on.

Takes about half an hour on two cores. ``--work DIR`` keeps rendered images and the image tower,
so that ``--stage text`` can repeat the second stage alone, in a minute or two.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors.torch import load_file

from capt_core.backbone.tiny_clip import measure
from capt_core.backbone.tiny_clip.corpus import TextureSet, load_set, render_set, save_set
from capt_core.backbone.tiny_clip.image_stage import ImageStage, train_image_tower
from capt_core.backbone.tiny_clip.model import WEIGHTS, build_model, read_config
from capt_core.backbone.tiny_clip.optimisation import save_tensors
from capt_core.backbone.tiny_clip.text_stage import TextStage, train_text_tower
from capt_core.backbone.tiny_clip.tokenizer import Tokenizer, clip_ids
from capt_core.data.proctex import PRETRAIN_SPLIT
from capt_core.data.proctex.captions import vocabulary_texts

if TYPE_CHECKING:
    from open_clip.model import CLIP

_SELECTION_OFFSET: Final = 7919  # progress is watched on images that no benchmark run uses
_IMAGE_TOWER: Final = "image_tower.safetensors"
_LIBRARIES: Final = ("torch", "open_clip_torch", "numpy", "scipy")


def main(arguments: list[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        options.output.mkdir(parents=True, exist_ok=True)
        textures = _corpus(work, options.seed, options.per_class, options.workers)
        if options.stage in ("all", "image"):
            _run_image_stage(textures, work, options)
        if options.stage in ("all", "text"):
            _run_text_stage(textures, work, options)


def _run_image_stage(textures: TextureSet, work: Path, options: argparse.Namespace) -> None:
    settings = ImageStage(steps=options.image_steps)
    started = time.monotonic()
    log = train_image_tower(textures, settings, options.seed, work / _IMAGE_TOWER)
    record = {
        "settings": asdict(settings),
        "images": len(textures.facts),
        "seconds": round(time.monotonic() - started),
        "log": log,
    }
    _write_json(work / "image_stage.json", record)


def _run_text_stage(textures: TextureSet, work: Path, options: argparse.Namespace) -> None:
    settings = TextStage(steps=options.text_steps, fine_name=options.fine_name)
    tokenizer = Tokenizer(clip_ids(vocabulary_texts()))
    torch.manual_seed(options.seed)
    model = build_model(vocabulary_size=tokenizer.vocabulary_size)
    model.visual.load_state_dict(load_file(work / _IMAGE_TOWER))
    model.eval()
    started = time.monotonic()
    features = measure.embed_images(model, textures.images)
    print(f"embedded {len(features)} images", flush=True)
    log = train_text_tower(model, textures, features, tokenizer, settings, options.seed)
    seconds = round(time.monotonic() - started)

    half = {n: t.half() if t.is_floating_point() else t for n, t in model.state_dict().items()}
    save_tensors(half, options.output / WEIGHTS)
    _write_json(options.output / "vocabulary.json", {"clip_ids": clip_ids(vocabulary_texts())})
    config = read_config()
    config["text_cfg"]["vocab_size"] = tokenizer.vocabulary_size
    _write_json(options.output / "config.json", config)

    model.load_state_dict({name: t.float() for name, t in half.items()})
    measured = _measure(model, tokenizer, options)
    print(json.dumps(measured, indent=1), flush=True)
    record = {
        "seed": options.seed,
        "image_stage": json.loads((work / "image_stage.json").read_text(encoding="utf-8")),
        "text_stage": {"settings": asdict(settings), "seconds": seconds, "log": log},
        "measured": measured,
        "libraries": {name: metadata.version(name) for name in _LIBRARIES},
    }
    _write_json(options.output / "provenance.json", record)


def _measure(model: CLIP, tokenizer: Tokenizer, options: argparse.Namespace) -> dict[str, Any]:
    """Zero-shot and probe accuracy on images kept for watching the training."""
    seed = options.seed + _SELECTION_OFFSET
    sets = {}
    for split in ("train", "val"):
        textures = render_set(seed, split, 60, options.workers)
        values = measure.embed_images(model, textures.images)
        sets[split] = measure.Features(values, textures.labels)
    names = measure.embed_class_names(model, tokenizer)
    return {
        "images": f"split val, seed {seed}, 60 of each class",
        "zero_shot": _rounded(measure.zero_shot(sets["val"], names)),
        "probe_16_shots": _rounded(
            {
                half: measure.linear_probe(sets["train"], sets["val"], classes, 16, seed)
                for half, classes in measure.HALVES.items()
            }
        ),
    }


def _corpus(work: Path, seed: int, per_class: int, workers: int) -> TextureSet:
    """The pretraining images, rendered unless the work folder has them."""
    folder = work / f"images-{seed}-{per_class}"
    if not folder.exists():
        textures = render_set(seed, PRETRAIN_SPLIT, per_class, workers)
        partial = folder.with_suffix(".partial")
        partial.mkdir(exist_ok=True)
        save_set(textures, partial)
        partial.rename(folder)
        print(f"rendered {len(textures.facts)} images", flush=True)
    return load_set(folder)


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in values.items()}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Pretrain the tiny CLIP on procedural textures.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--work", type=Path, help="folder to keep images and image tower in")
    parser.add_argument("--stage", choices=("all", "image", "text"), default="all")
    parser.add_argument("--per-class", type=int, default=1600, help="images of each class")
    parser.add_argument("--image-steps", type=int, default=ImageStage.steps)
    parser.add_argument("--text-steps", type=int, default=TextStage.steps)
    parser.add_argument("--fine-name", type=float, default=TextStage.fine_name)
    parser.add_argument("--workers", type=int, default=2, help="processes that render")
    parser.add_argument("--threads", type=int, default=2, help="threads that train")
    return parser


if __name__ == "__main__":
    main()
