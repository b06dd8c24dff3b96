"""Speed and memory of CAPT: training steps, the cached prefix, inference beside plain CLIP.

    python -m benchmarks.capt_speed --backbone ViT-B-16 --device cuda --precision bf16

Random weights and made-up photographs do: neither changes how long anything takes. The training
steps are those of the real engine, decoding of images included. What is compared is measured in
turns (A B C A B C ...) and compared within each turn, so that a machine that is shared with other
work slows all alike; where it is busy, `--clock processor --threads 1` counts processor time, which
waiting for others does not add to. Needs Linux for memory on the CPU, and free disk space for one
checkpoint.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from capt_core import load_backbone, study
from capt_core.backbone.identity import EMBEDDED
from capt_core.methods.capt.adapter import dynamic_weight
from capt_core.methods.capt.joint_space import JointSpace
from capt_core.methods.capt.method import Capt, FittedCapt
from capt_core.methods.capt.model import CaptModel
from capt_core.methods.capt.objective import Objective
from capt_core.methods.capt.pair_expert import ConfusedPairExpert
from capt_core.methods.capt.rows import Anchor
from capt_core.methods.capt.settings import Adapter, CaptSettings, Train
from capt_core.methods.capt.training import Trainer, TrainingData
from capt_core.methods.capt.views import CachedViews, asked_views, live_views
from capt_core.methods.classes import Classes
from capt_core.methods.clip import Clip
from capt_core.methods.image_tower import ImageTower
from capt_core.methods.method import Fitted, Scorer
from capt_core.methods.views import ViewSource
from capt_core.params import Runtime, method_section

PRESETS = ("paper", "fast")
INFERENCE = ("paper", "fast", "recommended")
PLAIN = "plain CLIP"
CLASSES = 50
CENTRES = 5
PAIRS_OF_A_CLASS = 10  # classes that a class is confused with
PHOTOGRAPH = (375, 500)  # rows and columns of a usual benchmark image
COSINE = 0.8  # between an anchor and its representatives
SEED = 1


class Bench:
    """The inputs of all measurements: a frozen CLIP, made-up photographs, random text features.

    Args:
        options: from the command line.
        folder: for the weights, the photographs and the caches.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        weights = None
        if options.backbone not in EMBEDDED:
            weights = folder / "random.safetensors"
            if not weights.is_file():
                random_weights(options.backbone, weights)
        self.backbone = load_backbone(
            options.backbone,
            checkpoint=weights,
            device=options.device,
            precision=options.precision,
        )
        self.clock = time.process_time if options.clock == "processor" else time.perf_counter
        rows = options.batch * (1 + options.pairs)
        self.files = made_up_photographs(folder / "photographs", rows)
        self.labels = [row % CLASSES for row in range(rows)]
        self.draws = torch.Generator().manual_seed(SEED)
        self.text_width = int(self.backbone.clip.visual.output_dim)
        self.texts = self._unit_vectors(CLASSES).to(self.backbone.device)

    def settings(self, variant: str, steps: int) -> CaptSettings:
        """A variant's settings with this run's batch, and one step in each epoch."""
        change = study.variant(variant).change
        settings = method_section("capt", CaptSettings, None, change=change)
        changed = {"batch_size": self.options.batch, "epochs": steps}
        if settings.train.cache_prefix and settings.train.augmentation != "none":
            changed["views"] = self.options.views
        return settings.model_copy(update={"train": settings.train.model_copy(update=changed)})

    def model(self, settings: CaptSettings) -> CaptModel:
        """A fresh model on the backbone's device."""
        centres = {name: self._unit_vectors(CENTRES) for name in ("commonality", "difference")}
        tower = ImageTower(self.backbone.clip.visual)
        model = CaptModel(lambda: tower, centres, settings.adapter, settings.experts, SEED)
        return model.to(self.backbone.device)

    def fitted(self, variant: str) -> Fitted:
        """A model as `Capt.fit` leaves it, untrained."""
        settings = self.settings(variant, 1)
        space = JointSpace()
        if "confused_pair" in settings.experts.granularities:
            pairs = CLASSES * PAIRS_OF_A_CLASS // 2
            space.pair_expert = ConfusedPairExpert(pairs, CLASSES, self.text_width)
        if settings.whitening.shrinkage < 1:
            space.whitening = torch.eye(self.text_width)
        base = Fitted(Clip(), self.backbone)
        fitted = FittedCapt(Capt(settings), base, self.model(settings), space=space)
        return fitted.to(self.backbone.device).eval()

    def anchors(self, settings: Adapter) -> list[Anchor]:
        """The anchors of one step, each with its own representatives."""
        pairs = self.options.pairs
        weight = dynamic_weight(torch.tensor(COSINE), settings.scale, settings.exponent).item()
        return [
            Anchor(first, tuple(range(first + 1, first + 1 + pairs)), (weight,) * pairs)
            for first in range(0, len(self.files), 1 + pairs)
        ]

    def cached_views(self, settings: CaptSettings, model: CaptModel, name: str) -> CachedViews:
        """The cache of every view that training asks for, made unless a folder has it."""
        source = self._source(settings.train)
        asked = asked_views(self.anchors(settings.adapter), settings.train)
        return CachedViews(model, self.backbone, source, asked, self.folder / name, "made up")

    def trainer(self, variant: str, steps: int) -> Trainer:
        """The trainer as `Capt.fit` sets it up."""
        settings = self.settings(variant, steps)
        model = self.model(settings)
        objective = Objective(
            settings.losses, self.texts, self.texts, logit_scale=self.backbone.logit_scale
        )
        views = (
            self.cached_views(settings, model, "cache")
            if settings.train.cache_prefix
            else live_views(model, self.backbone, self._source(settings.train))
        )
        data = TrainingData(self.anchors(settings.adapter), self.labels, objective, views)
        return Trainer(model, self.backbone, data, settings.train, SEED)

    def synchronise(self) -> None:
        """Wait until the device has done what it was asked to."""
        if self.backbone.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object]) -> float:
        """Time that some work takes on the device."""
        self.synchronise()
        began = self.clock()
        work()
        self.synchronise()
        return self.clock() - began

    def _source(self, train: Train) -> ViewSource:
        noise, workers = train.representative_noise, Runtime().workers
        return ViewSource(self.files, train.augmentation, noise, SEED, workers)

    def _unit_vectors(self, count: int) -> torch.Tensor:
        vectors = torch.randn(count, self.text_width, generator=self.draws)
        return functional.normalize(vectors, dim=-1)


def random_weights(name: str, path: Path) -> None:
    """Write a freshly initialised open_clip model as a checkpoint."""
    import open_clip

    torch.manual_seed(SEED)
    clip = open_clip.create_model(name, load_weights=False)
    save_file({key: value.contiguous() for key, value in clip.state_dict().items()}, path)


def made_up_photographs(folder: Path, count: int) -> dict[int, Path]:
    """Coloured noise as JPEG files, by number."""
    folder.mkdir(exist_ok=True)
    files = {number: folder / f"{number:04d}.jpg" for number in range(count)}
    draws = np.random.default_rng(SEED)
    for path in files.values():
        # Coarse noise, scaled up: JPEG of pixel noise would take far longer to decode.
        coarse = draws.integers(0, 256, (PHOTOGRAPH[0] // 8, PHOTOGRAPH[1] // 8, 3), np.uint8)
        Image.fromarray(coarse).resize(PHOTOGRAPH[::-1]).save(path, quality=90)
    return files


@dataclass(frozen=True)
class Measurement:
    """What one run measures.

    Attributes:
        step_seconds: of every timed optimiser step, by preset.
        step_bytes: peak memory of training, by preset; what of, says `memory_of`.
        cached_per_second: views whose prefix is computed and written, by turn.
        images_per_second: at inference, by variant and turn; `plain CLIP` is one of them.
    """

    step_seconds: Mapping[str, Sequence[float]]
    step_bytes: Mapping[str, int]
    cached_per_second: Sequence[float]
    images_per_second: Mapping[str, Sequence[float]]


def measure_steps(bench: Bench) -> dict[str, list[float]]:
    """Seconds of the optimiser steps of both presets, in turns.

    Every turn trains a new model; its first step, which also makes the optimiser, is left out.
    """
    seconds: dict[str, list[float]] = {preset: [] for preset in PRESETS}
    for _ in range(bench.options.turns):
        for preset in PRESETS:
            ends: list[float] = []

            def advance(finished: int, ends: list[float] = ends) -> None:
                if finished:
                    bench.synchronise()
                    ends.append(bench.clock())

            trainer = bench.trainer(preset, 1 + bench.options.steps)
            trainer.advance = advance
            trainer.fit()
            seconds[preset] += [after - before for before, after in pairwise(ends)]
    return seconds


def measure_caching(bench: Bench) -> list[float]:
    """Views per second whose prefix `fast` decodes, computes and writes, by turn."""
    settings = bench.settings("fast", 1)
    model = bench.model(settings)
    count = len(asked_views(bench.anchors(settings.adapter), settings.train))
    rates = []
    for turn in range(bench.options.turns):
        fresh = f"cache{turn}"
        rates.append(count / bench.seconds(partial(bench.cached_views, settings, model, fresh)))
    return rates


@torch.no_grad()
def measure_inference(bench: Bench) -> dict[str, list[float]]:
    """Images per second from pixels on the device to logits, in turns, after a warm-up."""
    size, count = bench.backbone.preprocess.size, bench.options.inference_batch
    images = torch.randn(count, 3, size, size, generator=bench.draws).to(bench.backbone.device)
    classes = Classes.named([f"class {number}" for number in range(CLASSES)])
    models = {PLAIN: Fitted(Clip(), bench.backbone)}
    models |= {name: bench.fitted(name) for name in INFERENCE}
    scorers = {name: model.scorer(classes) for name, model in models.items()}
    rates: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(1 + bench.options.inference_turns):
        for name, model in models.items():

            def passes(model: Fitted = model, score: Scorer = scorers[name]) -> None:
                for _ in range(bench.options.passes):
                    score(model.image_features(images))

            seconds = bench.seconds(passes)
            if turn:  # the first one warms up
                rates[name].append(count * bench.options.passes / seconds)
    return rates


def memory_of(preset: str, options: argparse.Namespace, folder: Path) -> int:
    """Peak memory of two training steps, in bytes.

    On a GPU all that torch allocates there; on the CPU by how much the resident set of this
    process grows, which leaves out the interpreter and the weights.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    bench = Bench(options, folder)
    trainer = bench.trainer(preset, 2)
    if bench.backbone.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        trainer.fit()
        return torch.cuda.max_memory_allocated()
    # The first step of any optimizer of torch imports it: 80 MiB that are not training's.
    importlib.import_module("torch._dynamo")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    before = resident("VmRSS")
    trainer.fit()
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """Memory of this process in bytes: `VmRSS` as it is, `VmHWM` at its highest."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


def measure_memory(options: argparse.Namespace, folder: Path) -> dict[str, int]:
    """`memory_of` both presets, each in a process of its own."""
    # With a fixed threshold glibc gives large blocks back at once; kept ones would hide growth.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(64 * 1024)
    found = {}
    for preset in PRESETS:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as process:
            found[preset] = process.submit(memory_of, preset, options, folder).result()
    return found


def to_markdown(result: Measurement, bench: Bench) -> str:
    """The measurements as Markdown tables."""
    options, device = bench.options, bench.backbone.device.type
    memory = "peak" if device == "cuda" else "growth"
    if device == "cuda":
        device = torch.cuda.get_device_name()
    else:
        device = f"CPU, {torch.get_num_threads()} threads, {options.clock} time"
    paper = median(result.step_seconds["paper"])
    lines = [
        f"{options.backbone}, {options.precision}, {device}, torch {torch.__version__}.",
        "",
        f"Training, {options.batch} anchors with {options.pairs} representatives each "
        f"({options.batch * (1 + options.pairs)} rows), median of "
        f"{len(result.step_seconds['paper'])} steps:",
        "",
        f"| preset | step time (ms) | times `paper`'s | memory, {memory} (MiB) | times `paper`'s |",
        "|---|---|---|---|---|",
    ]
    for preset in PRESETS:
        step, size = median(result.step_seconds[preset]), result.step_bytes[preset]
        lines.append(
            f"| `{preset}` | {1000 * step:.1f} | {step / paper:.3f} | {size / 2**20:.0f} "
            f"| {size / result.step_bytes['paper']:.3f} |"
        )
    plain = result.images_per_second[PLAIN]
    lines += [
        "",
        f"`fast` caches {median(result.cached_per_second):.1f} views/s (median of "
        f"{len(result.cached_per_second)} turns; decoded, computed and written; plain CLIP only "
        f"encodes {median(plain):.1f} images/s).",
        "",
        f"Inference, batches of {options.inference_batch}, median of {len(plain)} turns:",
        "",
        "| | images/s | share of plain CLIP | lowest to highest turn |",
        "|---|---|---|---|",
    ]
    for name, rates in result.images_per_second.items():
        shares = [rate / other for rate, other in zip(rates, plain, strict=True)]
        label = name if name == PLAIN else f"CAPT `{name}`"
        lines.append(
            f"| {label} | {median(rates):.1f} | {median(shares):.1%} "
            f"| {min(shares):.1%} to {max(shares):.1%} |"
        )
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Speed and memory of CAPT beside plain CLIP.")
    add = parser.add_argument
    add("--backbone", default="ViT-B-16", help="tiny-clip or an open_clip model")
    add("--device", default="cpu", choices=("cpu", "cuda"))
    add("--precision", default="fp32", choices=("fp32", "bf16"))
    add("--batch", type=int, default=4, help="anchors of a step")
    add("--pairs", type=int, default=5, help="representatives of an anchor")
    add("--views", type=int, default=1, help="views per image that `fast` caches")
    add("--turns", type=int, default=3, help="times that training and caching are measured")
    add("--steps", type=int, default=5, help="timed steps in each turn")
    add("--inference-turns", type=int, default=15, help="times that inference is measured")
    add("--inference-batch", type=int, default=32, help="images of a forward pass")
    add("--passes", type=int, default=1, help="forward passes in each turn")
    add("--threads", type=int, help="of torch on the CPU")
    add("--clock", default="wall", choices=("wall", "processor"), help="what seconds are")
    options = parser.parse_args(arguments)
    if options.clock == "processor" and options.device == "cuda":
        parser.error("--clock processor: a GPU's work takes no processor time; use wall")
    return options


def main() -> None:
    """Command line; see the module's docstring."""
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(options, Path(name))
        result = Measurement(
            step_seconds=measure_steps(bench),
            step_bytes=measure_memory(options, Path(name)),
            cached_per_second=measure_caching(bench),
            images_per_second=measure_inference(bench),
        )
        print(to_markdown(result, bench))


if __name__ == "__main__":
    main()
