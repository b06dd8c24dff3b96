"""Speed and memory of reading images, against torchvision's ImageFolder and DataLoader.

    python -m benchmarks.image_reading [--images 1000] [--rounds 3] [--listed 10000 100000]
    python -m benchmarks.image_reading --change FOLDER [--backbone tiny-clip ViT-B-32]

Draws photograph-sized JPEGs into a temporary folder, decodes and transforms all of them with every
reader in turn, and prints the images per second of each round. Then measures the peak memory of a
process that decodes, and of one that prepares a data set without looking at its images, for
growing numbers of images.

The second form reads the photographs below a folder, and mosaics of sixteen of them, exactly and
in faster ways, and prints how far that moves their features, and how often the nearest other
photograph is another one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch

BATCH = 128
CLASSES = 10
DISTINCT = 20  # files behind the hard links of a long listing, below the file system's limit


def draw(root: Path, count: int, scale: int = 1) -> None:
    """Write smooth random JPEGs of 500 x 375 pixels or a multiple, `CLASSES` folders of them."""
    random = np.random.default_rng(0)
    for index in range(count):
        folder = root / f"class{index % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((500 * scale, 375 * scale), Image.Resampling.BICUBIC)
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


def read_ahead(root: Path, count: int, workers: int, fast: bool, processes: bool) -> None:
    """Decode `count` images with `load_ahead`, the same files over and over."""
    from capt_core.data.loading import PixelReader, load_ahead

    paths = list(islice(cycle(sorted(root.rglob("*.jpg"))), count))
    for _ in load_ahead(paths, PixelReader(224, fast), workers, 2 * BATCH, processes):
        pass


def read_with_torchvision_io(root: Path, count: int, workers: int) -> None:
    """Decode with torchvision's own JPEG decoder and resize with torch, in threads."""
    import torch
    from torchvision.io import decode_jpeg, read_file

    from capt_core.data.loading import resized

    def read(path: Path) -> object:
        return resized(decode_jpeg(read_file(str(path))).permute(1, 2, 0).numpy(), 224)

    paths = list(islice(cycle(sorted(root.rglob("*.jpg"))), count))
    torch.set_num_threads(1)
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(read, paths):
            pass


def feature_change(root: Path, backbone: str, count: int) -> None:
    """Print how far faster ways of reading move the features of photographs below a folder."""
    import torch

    from benchmarks.capt_speed import random_weights
    from capt_core.backbone.extraction import PixelEncoder
    from capt_core.backbone.identity import EMBEDDED
    from capt_core.data.loading import PixelReader, resized
    from capt_core.library import load_backbone

    paths = sorted(root.rglob("*.jpg"))
    paths = [paths[place] for place in np.random.default_rng(0).permutation(len(paths))]
    with tempfile.TemporaryDirectory() as folder:
        weights = None
        if backbone not in EMBEDDED:
            weights = Path(folder) / "random.safetensors"
            random_weights(backbone, weights)
        loaded = load_backbone(backbone, checkpoint=weights, device="cpu")
        mosaics = [Path(folder) / f"{number}.jpg" for number in range(count // 4)]
        for number, path in enumerate(mosaics):
            _mosaic(paths[16 * number : 16 * (number + 1)], path)
        size, encoder = loaded.preprocess.size, PixelEncoder(loaded, 32)

        def features(files: list[Path], read: Callable[[Path], object]) -> torch.Tensor:
            pixels = [np.asarray(read(file)) for file in files]
            parts = [
                encoder.finish(encoder.start(pixels[start : start + 32]))
                for start in range(0, len(pixels), 32)
            ]
            return torch.from_numpy(np.concatenate(parts))

        def whole(path: Path) -> object:
            return resized(np.asarray(Image.open(path).convert("RGB")), size)

        for name, files in (("photographs", paths[:count]), ("mosaics", mosaics)):
            exact = features(files, lambda path: PixelReader(size)(path).pixels)
            ways: dict[str, Callable[[Path], object]] = {
                "resized by torch": whole,
                "fast": lambda path: PixelReader(size, fast=True)(path).pixels,
            }
            for way, read in ways.items():
                found = features(files, read)
                cosines = (found * exact).sum(1)
                changed = int((_nearest(found) != _nearest(exact)).sum())
                print(
                    f"{backbone}, {len(files)} {name}, {way}: cosine {cosines.median():.6f}, "
                    f"least {cosines.min():.6f}; {changed} have another nearest neighbour"
                )


def _nearest(features: torch.Tensor) -> torch.Tensor:
    return (features @ features.T).fill_diagonal_(-1).argmax(1)


def _mosaic(files: list[Path], path: Path) -> None:
    """Photographs side by side, 1,024 pixels square: a large one with details of its own."""
    image = Image.new("RGB", (1024, 1024))
    for place, file in enumerate(files):
        part = Image.open(file).convert("RGB").crop((0, 0, 256, 256))
        image.paste(part, (place % 4 * 256, place // 4 * 256))
    image.save(path, quality=92)


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
    """Print the readers' speed, taking turns so that none has the quieter machine."""
    readers: dict[str, Work] = {
        "ImageFolder + DataLoader": read_with_torchvision,
        "image_batches": read_with_capt,
        "load_ahead, threads": partial(read_ahead, fast=False, processes=False),
        "load_ahead, processes": partial(read_ahead, fast=False, processes=True),
        "load_ahead, fast, threads": partial(read_ahead, fast=True, processes=False),
        "torchvision.io, threads": read_with_torchvision_io,
    }
    try:
        read_with_torchvision_io(root, 1, 1)
    except (ImportError, RuntimeError) as error:
        del readers["torchvision.io, threads"]
        print(f"torchvision.io cannot decode here: {str(error).partition('.')[0]}")
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
    parser.add_argument("--large", action="store_true", help="JPEGs of 2,000 x 1,500 pixels")
    parser.add_argument("--change", type=Path, help="folder of photographs")
    parser.add_argument("--backbone", nargs="*", default=["tiny-clip", "ViT-B-32"])
    parser.add_argument("--decoded", type=int, nargs="*", default=[500, 2000])
    parser.add_argument("--listed", type=int, nargs="*", default=[10_000, 100_000])
    options = parser.parse_args()
    if options.change is not None:
        for backbone in options.backbone:
            feature_change(options.change, backbone, min(options.images, 200))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        draw(root, options.images, 4 if options.large else 1)
        compare(root, options.images, options.rounds, options.workers)
        for count in options.decoded:
            used = peak(read_with_capt, root, count, options.workers)
            print(f"decoding {count} images: {used:.0f} MB at most")
        for count in options.listed:
            used = peak(list_images, root, count, options.workers)
            print(f"preparing {count} images unseen: {used:.0f} MB at most")


if __name__ == "__main__":
    main()
