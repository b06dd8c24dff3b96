"""Images per second of extract-features, beside the bare image tower at the same batch size.

    python -m benchmarks.extraction_speed [--backbone ViT-B-16] [--device cuda] [--precision bf16]

Weights are random and photographs made up (JPEGs of 500 x 375 pixels), which changes no time. What
is timed, in turns: the tower on a normalised batch that lies on the device; `encode_parts`, which
the stage consists of, on images in memory as they leave the decoder; the same on files; and the
decoding alone. Parts are written to a temporary folder in both.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from unittest.mock import patch

import numpy as np
import polars as pl
import torch
from PIL import Image

from benchmarks.capt_speed import random_weights
from capt_core.artifacts.feature_parts import FeatureParts
from capt_core.artifacts.provenance import Provenance
from capt_core.backbone import extraction
from capt_core.backbone.extraction import Effort, Images, encode_parts
from capt_core.backbone.identity import EMBEDDED
from capt_core.backbone.loading import Backbone, load_backbone
from capt_core.data.images import normalised
from capt_core.data.loading import Loaded, PixelReader, load_ahead
from capt_core.params import load_settings

DISTINCT = 48  # files, read over and over from the page cache


def photographs(folder: Path) -> list[Path]:
    """Noisy smooth JPEGs of 500 x 375 pixels, of about 80 kB."""
    random = np.random.default_rng(0)
    paths = []
    for number in range(DISTINCT):
        coarse = random.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        noisy = np.asarray(image) + random.normal(0, 6, (375, 500, 3))
        paths.append(folder / f"{number:03d}.jpg")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def loaded_backbone(options: argparse.Namespace, folder: Path) -> Backbone:
    changes = [f"runtime.device={options.device}", f"runtime.precision={options.precision}"]
    changes.append(f"backbone.name={options.backbone}")
    if options.backbone not in EMBEDDED:
        weights = folder / "random.safetensors"
        random_weights(options.backbone, weights)
        changes.append(f"backbone.checkpoint={weights}")
    settings, _ = load_settings(None, None, changes)
    return load_backbone(settings.backbone, settings.runtime)


class Measurements:
    """What is timed, of one backbone."""

    def __init__(self, options: argparse.Namespace, backbone: Backbone, files: list[Path]) -> None:
        self.options, self.backbone, self.files = options, backbone, files
        self.reader = PixelReader(backbone.preprocess.size, options.reading == "fast")
        self.decoded = [self.reader(file) for file in files]
        some = [image.pixels for image in islice(cycle(self.decoded), options.batch)]
        pixels = torch.from_numpy(np.stack([each for each in some if each is not None]))
        self.batch = normalised(
            pixels.to(backbone.device), *backbone.preprocess.channels(backbone.device)
        )
        self.waited = list[float]()

    @torch.no_grad()
    def bare(self, images: int) -> float:
        began = time.perf_counter()
        for _ in range(images // self.options.batch):
            with self.backbone.precision():
                self.backbone.clip.encode_image(self.batch)
        if self.backbone.device.type == "cuda":
            torch.cuda.synchronize()
        return images / (time.perf_counter() - began)

    def from_memory(self, images: int) -> float:
        def served(paths: list[Path], *_: object) -> Iterator[Loaded]:
            return islice(cycle(self.decoded), len(paths))

        with patch.object(extraction, "load_ahead", served):
            return images / self._stage(images).seconds

    def from_files(self, images: int) -> float:
        effort = self._stage(images)
        self.waited.append(effort.waited / effort.seconds)
        return images / effort.seconds

    def decoding(self, images: int) -> float:
        files = list(islice(cycle(self.files), images))
        on_gpu, ahead = self.backbone.device.type == "cuda", 2 * self.options.batch
        began = time.perf_counter()
        for _ in load_ahead(files, self.reader, self.options.workers, ahead, on_gpu):
            pass
        return images / (time.perf_counter() - began)

    def _stage(self, images: int) -> Effort:
        names = pl.Series([f"{number:08d}.jpg" for number in range(images)])
        files = list(islice(cycle(self.files), images))
        untouched = pl.Series([0] * images, dtype=pl.Int64)
        with tempfile.TemporaryDirectory() as folder:
            parts = FeatureParts(Path(folder), Provenance("made-up", "", self.backbone.identity))
            effort, _ = encode_parts(
                Images(names, files, untouched),
                parts,
                self.backbone,
                self.options.batch,
                self.options.part,
                fast=self.options.reading == "fast",
                workers=self.options.workers,
            )
        assert effort.encoded == images
        return effort


def device_name(device: torch.device) -> str:
    """Name of the GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="ViT-B-16")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--part", type=int, default=4096)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--reading", choices=["exact", "fast"], default="exact")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="of the bare tower, each round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        backbone = loaded_backbone(options, folder)
        measured = Measurements(options, backbone, photographs(folder))
        measured.bare(2 * options.batch)
        rate = measured.bare(4 * options.batch)
        images = options.batch * max(2, round(rate * options.seconds / options.batch))
        rows: dict[str, tuple[Callable[[int], float], list[float]]] = {
            "bare tower": (measured.bare, []),
            "stage, decoded images": (measured.from_memory, []),
            "stage, files": (measured.from_files, []),
            "decoding alone": (measured.decoding, []),
        }
        for _ in range(options.rounds):
            for measure, rates in rows.values():
                rates.append(measure(images))
    print(
        f"{device_name(backbone.device)}, {options.backbone}, {options.precision}, batches of "
        f"{options.batch}, {options.workers} workers, {images} images, torch {torch.__version__}"
    )
    print("| | images/s (rounds) | of the bare tower |\n|---|---:|---:|")
    (_, bare), *_ = rows.values()
    for name, (_, rates) in rows.items():
        each = ", ".join(f"{rate:.0f}" for rate in rates)
        # Each round beside its own: the machine may have other work.
        share = statistics.median(rate / own for rate, own in zip(rates, bare, strict=True))
        print(f"| {name} | {statistics.median(rates):.0f} ({each}) | {share:.1%} |")
    waited = statistics.median(measured.waited)
    print(f"waiting for images: {waited:.0%} of the stage's time on files")
    if backbone.device.type == "cuda":
        print(f"peak of allocated memory: {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
