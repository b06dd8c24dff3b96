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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch

from benchmarks.speed_inputs import Bench, random_weights
from capt_core.backbone.identity import TINY_CLIP
from capt_core.errors import CaptError
from capt_core.methods.capt.views import asked_views

PROJECT = Path(__file__).resolve().parents[1]
PRESETS = ("paper", "fast")
INFERENCE = ("paper", "fast", "recommended")
PLAIN = "plain CLIP"


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
    """Images per second from pixels on the device to features, in turns, after a warm-up."""
    size, count = bench.backbone.preprocess.size, bench.options.inference_batch
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
    add(
        "--params",
        type=Path,
        help="settings that the variants change; the packaged ones if not given",
    )
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
