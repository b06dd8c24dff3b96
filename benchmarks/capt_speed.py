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
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
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

from capt_core import params
from capt_core.backbone.identity import TINY_CLIP
from capt_core.backbone.loading import load_backbone
from capt_core.errors import CaptError
from capt_core.methods.capt.adapter import dynamic_weight
from capt_core.methods.capt.model import CaptModel
from capt_core.torchvision_ops import ensure_torchvision
from capt_core.training.engine import Trainer, TrainingTask
from capt_core.training.objective import Objective
from capt_core.training.rows import Anchor
from capt_core.training.views import CachedViews, ViewSource, asked_views, live_views

PROJECT = Path(__file__).resolve().parents[1]
PRESETS = ("paper", "fast")
INFERENCE = ("paper", "fast", "recommended")
PLAIN = "plain CLIP"
CLASSES = 50
CENTRES = 5
PHOTOGRAPH = (375, 500)  # rows and columns of a usual benchmark image
COSINE = 0.8  # between an anchor and its representatives
SEED = 1


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


class Bench:
    """The inputs of all measurements: a frozen CLIP, made-up photographs, random text features.

    Args:
        options: from the command line.
        folder: for the photographs and the caches.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        runtime = params.Runtime(device=options.device, precision=options.precision)
        checkpoint = options.checkpoint and str(options.checkpoint)
        self.backbone = load_backbone(
            params.Backbone(name=options.backbone, checkpoint=checkpoint), runtime
        )
        self.workers = runtime.workers
        self.clock = time.process_time if options.clock == "processor" else time.perf_counter
        rows = options.batch * (1 + options.pairs)
        self.files = made_up_photographs(folder / "photographs", rows)
        self.labels = [row % CLASSES for row in range(rows)]
        self.draws = torch.Generator().manual_seed(SEED)
        self.text_width = self.backbone.clip.text_projection.shape[-1]
        self.texts = self._unit_vectors(CLASSES).to(self.backbone.device)

    def settings(self, variant: str, steps: int) -> params.Settings:
        """A variant's settings with this run's batch, and one step in each epoch."""
        changes = [f"train.batch_size={self.options.batch}", f"train.epochs={steps}"]
        settings, _ = params.load_settings(self.options.params, None, changes, variant)
        if settings.train.cache_prefix and settings.train.augmentation != "none":
            changes.append(f"train.views={self.options.views}")
            settings, _ = params.load_settings(self.options.params, None, changes, variant)
        return settings

    def model(self, settings: params.Settings) -> CaptModel:
        """A fresh model on the backbone's device."""
        centres = {name: self._unit_vectors(CENTRES) for name in ("commonality", "difference")}
        model = CaptModel(
            self.backbone.clip.visual, centres, settings.adapter, settings.experts, SEED
        )
        return model.to(self.backbone.device)

    def anchors(self, settings: params.Adapter) -> list[Anchor]:
        """The anchors of one step, each with its own representatives."""
        pairs = self.options.pairs
        weight = dynamic_weight(torch.tensor(COSINE), settings.scale, settings.exponent).item()
        return [
            Anchor(first, tuple(range(first + 1, first + 1 + pairs)), (weight,) * pairs)
            for first in range(0, len(self.files), 1 + pairs)
        ]

    def cached_views(self, settings: params.Settings, model: CaptModel, name: str) -> CachedViews:
        """The cache of every view that training asks for, made unless a folder has it."""
        source = self._source(settings.train)
        asked = asked_views(self.anchors(settings.adapter), settings.train)
        return CachedViews(model, self.backbone, source, asked, self.folder / name, "made up")

    def trainer(self, variant: str, steps: int) -> Trainer:
        """The engine as the stage `train` sets it up."""
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
        anchors = self.anchors(settings.adapter)
        task = TrainingTask(anchors, self.labels, objective, views)
        return Trainer(model, self.backbone, task, settings.train, SEED)

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

    def _source(self, settings: params.Train) -> ViewSource:
        return ViewSource(
            self.files,
            settings.augmentation,
            settings.representative_noise,
            SEED,
            self.workers,
        )

    def _unit_vectors(self, count: int) -> torch.Tensor:
        vectors = torch.randn(count, self.text_width, generator=self.draws)
        return functional.normalize(vectors, dim=-1)


def random_weights(name: str, path: Path) -> None:
    """Write a freshly initialised open_clip model as a checkpoint."""
    ensure_torchvision()
    import open_clip

    torch.manual_seed(SEED)
    clip = open_clip.create_model(name, load_weights=False)
    save_file({key: value.contiguous() for key, value in clip.state_dict().items()}, path)


def made_up_photographs(folder: Path, count: int) -> dict[int, Path]:
    """Coloured noise as JPEG files, by number; those that are there are kept."""
    folder.mkdir(exist_ok=True)
    files = {number: folder / f"{number:04d}.jpg" for number in range(count)}
    draws = np.random.default_rng(SEED)
    for path in files.values():
        # Coarse noise, scaled up: JPEG of pixel noise would take far longer to decode.
        coarse = draws.integers(0, 256, (PHOTOGRAPH[0] // 8, PHOTOGRAPH[1] // 8, 3), np.uint8)
        if not path.is_file():
            Image.fromarray(coarse).resize(PHOTOGRAPH[::-1]).save(path, quality=90)
    return files


def measure_steps(bench: Bench) -> dict[str, list[float]]:
    """Seconds of the optimiser steps of both presets, in turns.

    Every turn trains a new model; its first step, which also makes the optimiser, is left out.
    """
    seconds: dict[str, list[float]] = {preset: [] for preset in PRESETS}
    for _ in range(bench.options.turns):
        for preset in PRESETS:
            ends: list[float] = []

            def advance(_: int, ends: list[float] = ends) -> None:
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
    """Images per second from pixels on the device to features, in turns, after a warm-up."""
    size, count = bench.backbone.style.size, bench.options.inference_batch
    images = torch.randn(count, 3, size, size, generator=bench.draws).to(bench.backbone.device)
    encoders: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        PLAIN: bench.backbone.clip.encode_image
    }
    encoders |= {name: bench.model(bench.settings(name, 1)).eval() for name in INFERENCE}

    def encode(encoder: Callable[[torch.Tensor], torch.Tensor]) -> float:
        def passes() -> None:
            for _ in range(bench.options.passes):
                encoder(images)

        with bench.backbone.precision():
            seconds = bench.seconds(passes)
        return float(count * bench.options.passes / seconds)

    for encoder in encoders.values():
        encode(encoder)
    rates: dict[str, list[float]] = {name: [] for name in encoders}
    for _ in range(bench.options.inference_turns):
        for name, encoder in encoders.items():
            rates[name].append(encode(encoder))
    return rates


def memory_of(bench: Bench, preset: str) -> int:
    """Peak memory of two training steps, in bytes.

    On a GPU all that torch allocates there; on the CPU by how much the resident set of this
    process grows, which leaves out the interpreter and the weights.
    """
    trainer = bench.trainer(preset, 2)
    if bench.backbone.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        trainer.fit()
        return torch.cuda.max_memory_allocated()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    before = _resident("VmRSS")
    trainer.fit()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise CaptError(f"/proc/self/status: no line {field}; memory on the CPU needs Linux")


def measure_memory(
    arguments: Sequence[str], checkpoint: Path | None, folder: Path
) -> dict[str, int]:
    """`memory_of` both presets, each in a process of its own."""
    found = {}
    for preset in PRESETS:
        words = [*arguments, "--memory-of", preset, "--folder", str(folder)]
        if checkpoint:
            words += ["--checkpoint", str(checkpoint)]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.capt_speed", *words],
            cwd=PROJECT,
            # With a fixed threshold glibc gives large blocks back at once; kept ones would hide
            # growth.
            env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(64 * 1024)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise CaptError(f"memory of {preset} could not be measured:\n{done.stderr}")
        found[preset] = int(json.loads(done.stdout))
    return found


def to_markdown(result: Measurement, bench: Bench) -> str:
    """The measurements as Markdown tables."""
    options, backbone = bench.options, bench.backbone
    device = backbone.device.type
    if device == "cuda":
        device = torch.cuda.get_device_name()
    else:
        device = f"CPU, {torch.get_num_threads()} threads, {options.clock} time"
    paper = median(result.step_seconds["paper"])
    memory = "peak" if backbone.device.type == "cuda" else "growth"
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
    return "\n".join(lines) + "\n"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Speed and memory of CAPT beside plain CLIP.")
    add = parser.add_argument
    add("--backbone", default="ViT-B-16", help="tiny-clip or an open_clip model")
    add("--checkpoint", type=Path, help="its weights; random ones if not given")
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
    add("--params", type=Path, default=PROJECT / "params.yaml", help="settings with the variants")
    add("--markdown", type=Path, help="file to write the report to")
    add("--folder", type=Path, help=argparse.SUPPRESS)
    add("--memory-of", choices=PRESETS, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace, arguments: Sequence[str], folder: Path) -> str:
    """All measurements; their report."""
    if options.checkpoint is None and options.backbone != TINY_CLIP:
        options.checkpoint = folder / "random.safetensors"
        random_weights(options.backbone, options.checkpoint)
    bench = Bench(options, folder)
    result = Measurement(
        step_seconds=measure_steps(bench),
        step_bytes=measure_memory(arguments, options.checkpoint, folder),
        cached_per_second=measure_caching(bench),
        images_per_second=measure_inference(bench),
    )
    return to_markdown(result, bench)


def main() -> int:
    """Command line; see the module's docstring."""
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        if options.clock == "processor" and options.device == "cuda":
            raise CaptError("--clock processor: a GPU's work takes no processor time; use wall")
        if options.memory_of:
            print(json.dumps(memory_of(Bench(options, options.folder), options.memory_of)))
            return 0
        with tempfile.TemporaryDirectory() as name:
            report = measure(options, sys.argv[1:], Path(name))
    except CaptError as error:
        print(error, file=sys.stderr)
        return 2
    print(report, end="")
    if options.markdown:
        options.markdown.write_text(report, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
