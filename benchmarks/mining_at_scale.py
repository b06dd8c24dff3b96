"""Processor time and memory of the mining stages at ImageNet's size, beside the bare computation.

    python -m benchmarks.mining_at_scale FOLDER [--parts 8,4,2,1] [--limit 4]

Features are made up, in row groups, from a seed: classes lie in families of eight, and about three
images in ten lie nearer to a class of their family than to their own. The stages are those of the
command line, each in a process of its own with one thread and at most `--limit` GiB of private
memory; only the backbone and the base model, which no mining depends on, are stand-ins that know
the class texts. Beside them stands what nothing can do without: the product of all features with
all class texts, softmax, and the five highest values.

Printed for each part of the data: processor seconds of the stages, those of the bare computation
(mean of a run before the stages and one behind them, since other work on the machine slows both),
their ratio (start-up, which is imports, is left out and shown apart), and the highest resident
memory of any stage. What is written to FOLDER (3 GB and more) is removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

FULL = 1_281_167
STAGES = ("infer-teacher", "build-bank", "mine-pairs", "mine-samples")
DATASET = "imagenet"
FAMILY = 8
SEED = 1
BLOCK = 8192


@dataclass(frozen=True)
class Size:
    """What is made up.

    Attributes:
        images: N.
        classes: C.
        width: d.
        shots: images per class that pairs are mined for; 0 takes all.
        all_classes: all classes are trained, not the first half.
    """

    images: int
    classes: int
    width: int
    shots: int
    all_classes: bool

    @property
    def settings(self) -> list[str]:
        """Of the stages, as given on the command line."""
        return [f"fewshot.shots={self.shots}", "build_bank.source=full_train"]


def class_texts(size: Size) -> np.ndarray:
    """Unit-length texts [C, d], alike within a family."""
    generator = np.random.default_rng(SEED)
    families = generator.standard_normal((-(-size.classes // FAMILY), size.width))
    own = generator.standard_normal((size.classes, size.width))
    return unit(families[np.arange(size.classes) // FAMILY] + own).astype(np.float32)


def class_name(number: int) -> str:
    """Of a class."""
    return f"class {number}"


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows at length 1."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    found: np.ndarray = vectors / lengths[:, None]
    return found


def image_features(size: Size, labels: np.ndarray, block: int) -> np.ndarray:
    """Unit-length features [n, d] of some images: their class, one of its family, and noise."""
    generator = np.random.default_rng((SEED, block))
    texts = class_texts(size)
    family = labels // FAMILY * FAMILY
    # Some classes of a family attract more images than others.
    step = np.minimum(generator.geometric(0.35, len(labels)), FAMILY - 1)
    other = np.minimum(family + (labels - family + step) % FAMILY, size.classes - 1)
    share = np.where(generator.random(len(labels)) < 0.3, 0.62, 0.25).astype(np.float32)
    noise = generator.standard_normal((len(labels), size.width), dtype=np.float32)
    mixed = (1 - share)[:, None] * texts[labels] + share[:, None] * texts[other]
    return unit(mixed + noise * np.float32(1.2 / np.sqrt(size.width)))


def make(folder: Path, size: Size) -> None:
    """Write the tables that the first mining stage reads."""
    import polars as pl

    from capt_core.artifacts.layout import Layout
    from capt_core.artifacts.provenance import Provenance
    from capt_core.artifacts.schemas import (
        BASE_TEXT_FEATURES,
        CLASSES,
        FEWSHOT,
        IMAGE_FEATURES,
        SAMPLES,
    )
    from capt_core.artifacts.table_blocks import spans, write_groups
    from capt_core.artifacts.tables import write_table
    from capt_core.backbone.identity import backbone_identity
    from capt_core.params import Settings

    layout = Layout(folder, DATASET)
    data = Provenance(DATASET, "0123456789abcdef")
    made = Provenance(DATASET, "0123456789abcdef", backbone_identity(Settings().backbone))
    names = pl.Series([class_name(number) for number in range(size.classes)])
    trained = size.classes if size.all_classes else -(-size.classes // 2)
    classes = CLASSES.frame(
        {
            "class_id": np.arange(size.classes),
            "class_name": names,
            "group": ["base"] * trained + ["novel"] * (size.classes - trained),
            "template": ["a photo of a {}."] * size.classes,
        }
    )
    labels = np.arange(size.images) * size.classes // size.images
    numbers = pl.Series(np.arange(size.images))
    samples = SAMPLES.frame(
        {
            "sample_id": numbers,
            "path": pl.select(
                pl.format("train/n{}/n{}_{}.JPEG", labels, labels, numbers)
            ).to_series(),
            "class_id": labels,
            "class_name": names.gather(labels),
            "split": pl.repeat("train", size.images, eager=True),
        }
    )
    drawn = samples.filter(pl.int_range(pl.len()).over("class_id") < (size.shots or size.images))
    fewshot = drawn.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("position"))
    texts = class_texts(size)
    written = classes.select("class_id", "class_name").with_columns(
        pl.Series("prompt", names),
        pl.Series("feature", texts, dtype=pl.Array(pl.Float32, size.width)),
    )

    def blocks() -> Iterator[pl.DataFrame]:
        for number, span in enumerate(spans(size.images)):
            part = image_features(size, labels[span.start : span.stop], number)
            vectors = pl.Series("feature", part, dtype=pl.Array(pl.Float32, size.width))
            yield pl.DataFrame([numbers[span.start : span.stop].alias("sample_id"), vectors])

    write_table(SAMPLES, samples, layout.samples, data)
    write_table(CLASSES, classes, layout.classes, data)
    write_table(FEWSHOT, FEWSHOT.select(fewshot), layout.fewshot(size.shots, SEED), data)
    write_table(BASE_TEXT_FEATURES, written, layout.seed(SEED).base_text_features, made)
    write_groups(IMAGE_FEATURES, blocks(), layout.image_features, made)


def run_stage(name: str, folder: Path, size: Size) -> None:
    """Run a stage of the command line, with stand-ins for the backbone and the base model."""
    import torch

    from capt_core.backbone.identity import backbone_identity
    from capt_core.methods.classes import Classes
    from capt_core.methods.clip import Clip
    from capt_core.methods.method import Fitted
    from capt_core.methods.trained import TrainedModel
    from stages import command
    from stages.commands import module_of

    texts = torch.from_numpy(class_texts(size))
    numbers = {class_name(number): number for number in range(size.classes)}

    class Made(Fitted):
        def class_texts(self, classes: Classes) -> torch.Tensor:
            return texts[[numbers[name] for name in classes.names]]

    def backbone(settings: Any, _: Any) -> Any:
        return SimpleNamespace(
            identity=backbone_identity(settings),
            device=torch.device("cpu"),
            logit_scale=100.0,
            untrained=False,
        )

    def base_model(run: Any, backbone: Any, origin: Any) -> TrainedModel:
        classes = Classes.named(list(numbers))
        return TrainedModel(Made(Clip(), backbone), classes, "", SEED, origin)

    module: Any = module_of(name)
    module.load_backbone, module.base_model = backbone, base_model
    command.run_stage(name, DATASET, SEED, None, folder, size.settings)


def bare(size: Size) -> None:
    """Product of N features with C texts, softmax and top 5, a block at a time."""
    import torch

    texts = torch.from_numpy(class_texts(size))
    features = torch.from_numpy(image_features(size, np.arange(BLOCK) % size.classes, 0))
    with torch.no_grad():
        for start in range(0, size.images, BLOCK):
            block = features[: size.images - start]
            (block @ texts.T).mul_(100).softmax(dim=1).topk(5, dim=1)


def child(what: str, folder: Path, size: Size, limit: float) -> None:
    """Do one thing and print what it took, as JSON on the last line."""
    if limit and what != "make":
        most = int(limit * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    import polars  # noqa: F401
    import torch

    import stages.command  # noqa: F401
    from stages.commands import module_of

    if what in STAGES:
        module_of(what)
    torch.set_num_threads(1)
    before = time.process_time()
    if what == "make":
        make(folder, size)
    elif what == "bare":
        bare(size)
    else:
        run_stage(what, folder, size)
    seconds = time.process_time() - before
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"start": before, "seconds": seconds, "peak": peak * 1024}))


def measured(what: str, folder: Path, size: Size, limit: float, verbose: bool) -> dict[str, float]:
    """What `child` took in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.mining_at_scale", str(folder), "--child", what]
    words += ["--size", json.dumps(asdict(size)), "--limit", str(limit)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, **threads}
    )
    if done.returncode:
        raise SystemExit(f"{what}: {done.stderr.strip()}")
    if verbose:
        print("\n".join(f"    {line}" for line in done.stdout.splitlines()[:-1]), flush=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(folder: Path, size: Size, limit: float, verbose: bool) -> str:
    """Measure one size; a row of the table."""
    shutil.rmtree(folder / DATASET, ignore_errors=True)
    try:
        measured("make", folder, size, limit, verbose)
        least = measured("bare", folder, size, 0, verbose)["seconds"] / 2
        took = {name: measured(name, folder, size, limit, verbose) for name in STAGES}
        least += measured("bare", folder, size, 0, verbose)["seconds"] / 2
    finally:
        for name in (DATASET, "runs"):
            shutil.rmtree(folder / name, ignore_errors=True)
    each = [took[name]["seconds"] for name in STAGES]
    start = sum(found["start"] for found in took.values())
    peak = max(found["peak"] for found in took.values()) / 2**30
    cells = [f"{size.images:,}", f"{least:.1f}", *(f"{value:.1f}" for value in each)]
    cells += [f"**{sum(each) / least:.2f}**", f"{start:.1f}", f"{peak:.2f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", default="8,4,2,1", help="sizes: the data divided by these")
    parser.add_argument("--images", type=int, default=FULL)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--shots", type=int, default=0, help="0: pairs of all training images")
    parser.add_argument("--all-classes", action="store_true", help="train all, not the first half")
    parser.add_argument("--limit", type=float, default=4.0, help="GiB of a stage; 0 sets none")
    parser.add_argument("--verbose", action="store_true", help="print what the stages say")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--size", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.folder, Size(**json.loads(given.size)), given.limit)
        return
    heads = ["images", "bare, s", *(f"{name}, s" for name in STAGES)]
    heads += ["ratio", "start-up of 4, s", "peak, GiB"]
    print(f"| {' | '.join(heads)} |\n|{'---:|' * len(heads)}", flush=True)
    for part in map(int, given.parts.split(",")):
        size = Size(
            given.images // part, given.classes, given.width, given.shots, given.all_classes
        )
        print(row(given.folder, size, given.limit, given.verbose), flush=True)


if __name__ == "__main__":
    main()
