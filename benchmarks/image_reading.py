"""Speed and memory of reading images, against torchvision's ImageFolder and DataLoader.

    python -m benchmarks.image_reading [--images 1000] [--rounds 3] [--listed 10000 100000]

Draws photograph-sized JPEGs into a temporary folder, decodes and transforms all of them with both
readers in turn, and prints the images per second of each round. Then measures the peak memory of a
process that decodes, and of one that prepares a data set without looking at its images, for
growing numbers of images.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from capt_core.torchvision_ops import ensure_torchvision

BATCH = 128
CLASSES = 10
DISTINCT = 20  # files behind the hard links of a long listing, below the file system's limit


def draw(root: Path, count: int) -> None:
    """Write smooth random JPEGs of 500 x 375 pixels, `CLASSES` folders of them."""
    random = np.random.default_rng(0)
    for index in range(count):
        folder = root / f"class{index % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        image.save(folder / f"{index:07d}.jpg", quality=90)


def read_with_torchvision(root: Path, workers: int) -> int:
    """Images read by the plain loader."""
    ensure_torchvision()
    import torch
    from torchvision.datasets import ImageFolder

    from capt_core.data.images import Preprocess, test_transform

    preprocess = Preprocess(224, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    folder = ImageFolder(str(root), transform=test_transform(preprocess))
    loader = torch.utils.data.DataLoader(folder, batch_size=BATCH, num_workers=workers)
    return sum(len(images) for images, _ in loader)


def read_with_capt(root: Path, workers: int) -> int:
    """Images read by `image_batches`."""
    from capt_core.data.images import Preprocess, image_batches, test_transform

    preprocess = Preprocess(224, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    paths = sorted(root.rglob("*.jpg"))
    batches = image_batches(paths, test_transform(preprocess), BATCH, workers)
    return sum(len(batch) for batch in batches)


def compare(root: Path, rounds: int, workers: int) -> None:
    """Print both readers' speed, taking turns so that neither has the quieter machine."""
    readers = {"ImageFolder + DataLoader": read_with_torchvision, "image_batches": read_with_capt}
    speeds: dict[str, list[float]] = {name: [] for name in readers}
    for reader in readers.values():
        reader(root, workers)  # the files are in the page cache from here on
    for _ in range(rounds):
        for name, reader in readers.items():
            started = time.perf_counter()
            count = reader(root, workers)
            speeds[name].append(count / (time.perf_counter() - started))
    for name, found in speeds.items():
        each = ", ".join(f"{speed:.0f}" for speed in found)
        print(f"{name}: {statistics.median(found):.0f} images/s (rounds: {each})")


def peak(task: str, root: Path, count: int) -> float:
    """Peak memory in MB of a process of its own."""
    words = [sys.executable, "-m", "benchmarks.image_reading", f"--{task}", str(count), str(root)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ)
    return float(done.stdout.split()[-1])


def decode(root: Path, count: int) -> None:
    """Decode `count` images, the same files over and over."""
    import polars as pl

    from capt_core.data.dataset import Dataset
    from capt_core.data.images import Preprocess, image_batches, test_transform

    names = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*.jpg"))]
    samples = pl.DataFrame({"path": (names * (count // len(names) + 1))[:count]})
    paths = Dataset("x", samples, pl.DataFrame(), "").paths(pl.Series(range(count)), root)
    preprocess = Preprocess(224, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    for _ in image_batches(paths, test_transform(preprocess), BATCH, 2):
        pass


def list_images(root: Path, count: int) -> None:
    """Prepare `count` images by their names alone, and draw a few-shot list."""
    from capt_core.data.preparation import Source, draw_list, prepare_dataset
    from capt_core.data.readers import read_split
    from capt_core.data.registry import dataset_spec
    from capt_core.params import Data

    split = read_split(dataset_spec("mine"), Data(root=str(root)))
    prepared = prepare_dataset("mine", Source(*split), "none", quarantine=False)
    assert len(prepared.dataset.samples) == count
    draw_list(prepared.dataset, 16, 1)


def link(root: Path, count: int, source: Path) -> None:
    """Write `count` names of a few files, 1,000 to a folder."""
    files = sorted(source.rglob("*.jpg"))[:DISTINCT]
    for index in range(count):
        folder = root / f"class{index // 1000:05d}"
        if index % 1000 == 0:
            folder.mkdir(parents=True)
        os.link(files[index % len(files)], folder / f"{index:07d}.jpg")


def report_peak() -> None:
    """Print this process's peak memory in MB; getrusage would count the parent's in."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    print(int(line.split()[1]) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--decoded", type=int, nargs="*", default=[500, 2000])
    parser.add_argument("--listed", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--decode", nargs=2, metavar=("COUNT", "ROOT"), help=argparse.SUPPRESS)
    parser.add_argument("--list", nargs=2, metavar=("COUNT", "ROOT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    for task, run in (("decode", decode), ("list", list_images)):
        if chosen := getattr(options, task):
            run(Path(chosen[1]), int(chosen[0]))
            report_peak()
            return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        draw(root, options.images)
        compare(root, options.rounds, options.workers)
        for count in options.decoded:
            print(f"decoding {count} images: {peak('decode', root, count):.0f} MB at most")
        for count in options.listed:
            link(Path(folder) / f"listed{count}", count, root)
            listed = peak("list", Path(folder) / f"listed{count}", count)
            print(f"preparing {count} images unseen: {listed:.0f} MB at most")


if __name__ == "__main__":
    main()
