"""A whole run of CAPT, from a cold start, beside the published recipe on the same backbone.

    python -m benchmarks.capt_whole_run --device cuda --precision bf16

A step of the published recipe is re-enacted: features of four anchors by a frozen, larger teacher;
a learned context through the teacher's text tower for all base classes, forward and backward; and
a step of CAPT's preset `paper` on the anchors and five representatives of each. Ours is
`recommended` as it ships: features of the few-shot images, what the frozen blocks make of each, and
all steps of the real engine. Both are timed in turns in one process, decoding included, and
multiplied by how often a run of DTD does them. Weights are random and photographs made up, which
changes no time.
"""

from __future__ import annotations

import argparse
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from torch.nn import functional

from benchmarks.capt_speed import Bench, random_weights
from capt_core import load_backbone
from capt_core.backbone.identity import EMBEDDED
from capt_core.backbone.loading import Backbone
from capt_core.methods.capt.settings import CaptSettings
from capt_core.methods.coop import ContextTexts, CoOp
from capt_core.params import method_section

RECIPE_STEPS, RECIPE_ANCHORS = 2400, 4  # 25 epochs over 384 images, four a step
CLASSES = 24  # base classes of DTD
TRAINING, VALIDATION = 16, 4  # few-shot images of a class
REPRESENTATIVES = 5  # of an anchor


class Teaching:
    """The teacher's part of a step of the recipe.

    Args:
        teacher: frozen but for the context before class names.
        anchors: how many images a step has.
    """

    def __init__(self, teacher: Backbone, anchors: int) -> None:
        self.teacher = teacher
        size, names = teacher.preprocess.size, [f"texture {number}" for number in range(CLASSES)]
        self.images = torch.randn(anchors, 3, size, size).to(teacher.device)
        start = CoOp().start(teacher, 1, names).context.detach()
        self.context = start.clone().to(teacher.device).requires_grad_()
        self.texts = ContextTexts.of(names, start.shape[-2], teacher)

    def step(self) -> None:
        """Features of the anchors, and a gradient step of the context."""
        clip = self.teacher.clip
        with self.teacher.precision():
            with torch.no_grad():
                images = functional.normalize(clip.encode_image(self.images).float(), dim=-1)
            texts = functional.normalize(self.texts.encode(clip, self.context).float(), dim=-1)
        logits = self.teacher.logit_scale * images @ texts.T
        labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, labels), self.context)
        with torch.no_grad():
            self.context -= 1e-3 * gradient


def loaded_teacher(options: Namespace, folder: Path) -> Backbone:
    """A CLIP of random weights, or an embedded one."""
    weights = None
    if options.teacher not in EMBEDDED:
        weights = folder / "teacher.safetensors"
        random_weights(options.teacher, weights)
    return load_backbone(
        options.teacher,
        checkpoint=weights,
        device=options.device,
        precision=options.precision,
    )


def step_seconds(bench: Bench, variant: str, steps: int) -> list[float]:
    """Seconds of a variant's optimiser steps after the first."""
    ends: list[float] = []

    def advance(finished: int) -> None:
        if finished:
            bench.synchronise()
            ends.append(bench.clock())

    trainer = bench.trainer(variant, 1 + steps)
    trainer.advance = advance
    trainer.fit()
    return [after - before for before, after in pairwise(ends)]


def turn(recipe: Bench, teaching: Teaching, ours: Bench, number: int) -> tuple[float, ...]:
    """Seconds of a whole run of the recipe and of ours, of a step of each, and of our images."""
    steps = recipe.options.steps
    taught = [recipe.seconds(teaching.step) for _ in range(1 + steps)][1:]
    printed = median(taught) + median(step_seconds(recipe, "paper", steps))
    settings = ours.settings("recommended", 1)
    model = ours.model(settings)
    fresh = partial(ours.cached_views, settings, model, f"cold{number}")
    an_image = ours.seconds(fresh) / len(ours.files)
    shipped = median(step_seconds(ours, "recommended", steps))
    images, few_shot = CLASSES * (TRAINING + VALIDATION), CLASSES * TRAINING
    # Features and caches both decode an image and run the whole tower on it.
    reading = an_image * (images + few_shot)
    return RECIPE_STEPS * printed, reading + run_steps() * shipped, printed, shipped, reading


def run_steps() -> int:
    """Optimiser steps of `recommended` on DTD's base classes."""
    train = method_section("capt", CaptSettings, None).train
    return train.epochs * -(-CLASSES * TRAINING // train.batch_size)


def report(turns: Sequence[tuple[float, ...]], options: Namespace) -> str:
    """The turns as Markdown."""
    device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    recipe, ours, printed, shipped, reading = (median(each) for each in zip(*turns, strict=True))
    ratios = [each[0] / each[1] for each in turns]
    batch = method_section("capt", CaptSettings, None).train.batch_size
    return "\n".join(
        [
            f"{options.backbone}, teacher {options.teacher}, {options.precision}, {device}, "
            f"torch {torch.__version__}, {CLASSES} classes with {TRAINING} images.",
            "",
            "| | published recipe | `recommended` | ratio |",
            "|---|---:|---:|---:|",
            f"| a step, of {RECIPE_ANCHORS} and {batch} anchors (ms) | {1000 * printed:.1f} "
            f"| {1000 * shipped:.1f} | {printed / shipped:.1f} |",
            f"| steps | {RECIPE_STEPS} | {run_steps()} | {RECIPE_STEPS / run_steps():.1f} |",
            f"| features and caches (s) | - | {reading:.2f} | |",
            f"| a whole run (s) | {recipe:.1f} | {ours:.2f} "
            f"| {median(ratios):.0f} ({min(ratios):.0f} to {max(ratios):.0f}) |",
        ]
    )


def parse(arguments: Sequence[str] | None = None) -> Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capt_whole_run")
    add = parser.add_argument
    add("--backbone", default="ViT-B-16", help="tiny-clip or an open_clip model")
    add("--teacher", default="ViT-L-14", help="likewise")
    add("--device", default="cpu", choices=("cpu", "cuda"))
    add("--precision", default="fp32", choices=("fp32", "bf16"))
    add("--turns", type=int, default=3)
    add("--steps", type=int, default=3, help="timed steps of each in a turn")
    add("--threads", type=int, help="of torch on the CPU")
    add("--clock", default="wall", choices=("wall", "processor"), help="what seconds are")
    return parser.parse_args(arguments)


def measured(options: Namespace, folder: Path) -> list[tuple[float, ...]]:
    """All turns; see `turn`."""

    def bench(anchors: int) -> Bench:
        own = {"batch": anchors, "pairs": REPRESENTATIVES, "views": 1}
        return Bench(Namespace(**{**vars(options), **own}), folder)

    batch = method_section("capt", CaptSettings, None).train.batch_size
    recipe, ours = bench(RECIPE_ANCHORS), bench(batch)
    teaching = Teaching(loaded_teacher(options, folder), RECIPE_ANCHORS)
    return [turn(recipe, teaching, ours, number) for number in range(options.turns)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        print(report(measured(options, Path(name)), options))


if __name__ == "__main__":
    main()
