"""Speed and memory of reading images, against torchvision's ImageFolder and DataLoader.

    python -m benchmarks.image_reading [--images 1000] [--rounds 3] [--listed 10000 100000]

Draws photograph-sized JPEGs into a temporary folder, decodes and transforms all of them with both
readers in turn, and prints the images per second of each round. Then measures the peak memory of a
process that decodes, and of one that prepares a data set without looking at its images, for
growing numbers of images.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

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


def read_with_torchvision(root: Path, count: int, workers: int) -> None:
    """Decode every image below a folder with the plain loader."""
    import torch
    from torchvision.datasets import ImageFolder

    from capt_core.data.images import Preprocess, test_transform

    preprocess = Preprocess(224, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    folder = ImageFolder(str(root), transform=test_transform(preprocess))
    assert len(folder) == count
    for _ in torch.utils.data.DataLoader(folder, batch_size=BATCH, num_workers=workers):
        pass


def read_with_capt(root: Path, count: int, workers: int) -> None:
    """Decode `count` images with `image_batches`, the same files over and over."""
    from capt_core.data.images import Preprocess, image_batches, test_transform

    preprocess = Preprocess(224, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    paths = list(islice(cycle(sorted(root.rglob("*.jpg"))), count))
    for _ in image_batches(paths, test_transform(preprocess), BATCH, workers):
        pass


def list_images(root: Path, count: int, workers: int) -> None:
    """Prepare `count` hard links, 1,000 to a folder, by their names; draw a few-shot list."""
    from capt_core.data.preparation import Source, draw_list, prepare_dataset
    from capt_core.data.readers import read_split
    from capt_core.data.registry import dataset_spec
    from capt_core.params import Data

    files = sorted(root.rglob("*.jpg"))[:DISTINCT]
    listed = root.with_name(f"listed{count}")
    for index in range(count):
        folder = listed / f"class{index // 1000:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(files[index % len(files)], folder / f"{index:07d}.jpg")
    data = Data(root=str(listed))
    split = read_split(dataset_spec("mine"), data)
    prepared = prepare_dataset(dataset_spec("mine"), Source(*split), data, "none")
    assert len(prepared.dataset.samples) == count
    draw_list(prepared.dataset, 16, 1)


Work = Callable[[Path, int, int], None]


def compare(root: Path, count: int, rounds: int, workers: int) -> None:
    """Print both readers' speed, taking turns so that neither has the quieter machine."""
    readers = {"ImageFolder + DataLoader": read_with_torchvision, "image_batches": read_with_capt}
    speeds: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds + 1):
        for name, reader in readers.items():
            started = time.perf_counter()
            reader(root, count, workers)
            speeds[name].append(count / (time.perf_counter() - started))
    for name, found in speeds.items():
        timed = found[1:]  # the files are in the page cache from the second round on
        each = ", ".join(f"{speed:.0f}" for speed in timed)
        print(f"{name}: {statistics.median(timed):.0f} images/s (rounds: {each})")


def peak(work: Work, root: Path, count: int, workers: int) -> float:
    """Peak memory in MB of a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(_peak, work, root, count, workers).result()


def _peak(work: Work, root: Path, count: int, workers: int) -> float:
    work(root, count, workers)
    # getrusage would count the parent's in.
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--decoded", type=int, nargs="*", default=[500, 2000])
    parser.add_argument("--listed", type=int, nargs="*", default=[10_000, 100_000])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        draw(root, options.images)
        compare(root, options.images, options.rounds, options.workers)
        for count in options.decoded:
            used = peak(read_with_capt, root, count, options.workers)
            print(f"decoding {count} images: {used:.0f} MB at most")
        for count in options.listed:
            used = peak(list_images, root, count, options.workers)
            print(f"preparing {count} images unseen: {used:.0f} MB at most")


if __name__ == "__main__":
    main()
