"""Images decoded ahead of an encoder, each read once: its pixels, and a digest of its bytes."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import deque
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from capt_core.data.decoding import BadImageError, to_rgb
from capt_core.data.images import opened_image, pixel_transform, refused_image
from capt_core.data.parquet_images import table_file
from capt_core.data.remote.opening import ASKED_AT_ONCE, changed_before, is_elsewhere
from capt_core.errors import CaptError

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

GONE = 2**63 - 1
"""Time at which a file was touched that cannot be looked up: reading it will say why."""
_DIGITS = 32
_SPARE = 2  # times the model's image size that a JPEG is decoded to at least


@dataclass(frozen=True)
class Loaded:
    """An image as it was read.

    Attributes:
        digest: first 32 hex digits of the SHA-256 of its bytes.
        pixels: [3, S, S]; None for an image whose digest is known already.
        problem: why it cannot be used.
    """

    digest: str = ""
    pixels: Pixels | None = None
    problem: str = ""


@dataclass(frozen=True)
class PixelReader:
    """Reads images as the image tower sees them, before normalisation.

    Attributes:
        size: side S in pixels.
        fast: JPEGs are decoded at the smallest of their scales (1, 1/2, 1/4, 1/8) that leaves
            twice the size, and resized by torch. Otherwise as `images.test_transform`.
        known: digests of images whose pixels are not needed.
    """

    size: int
    fast: bool = False
    known: Container[str] = frozenset()

    def __call__(self, path: Path) -> Loaded:
        """An image file, or a row of a Parquet file."""
        try:
            with opened_image(path) as (image, content):
                digest = hashlib.sha256(content).hexdigest()[:_DIGITS]
                if digest in self.known:
                    return Loaded(digest)
                return Loaded(digest, self._pixels(image))
        except (BadImageError, OSError, ValueError) as error:
            return Loaded(problem=str(refused_image(path, error)))
        except CaptError as error:
            return Loaded(problem=str(error))

    def _pixels(self, image: Image.Image) -> Pixels:
        if not self.fast:
            return np.ascontiguousarray(np.asarray(self._exact(to_rgb(image))).transpose(2, 0, 1))
        width, height = image.size
        scale = self.size * _SPARE / min(width, height)
        if scale < 1:
            image.draft(None, (int(width * scale), int(height * scale)))
        return resized(np.asarray(to_rgb(image)), self.size)

    @cached_property
    def _exact(self) -> Any:
        return pixel_transform(self.size)


def resized(pixels: Pixels, size: int) -> Pixels:
    """`images.pixel_transform` of [H, W, 3], computed by torch: [3, S, S].

    Values differ by a level here and there, because its weights have fewer digits.
    """
    import torch
    from torch.nn import functional

    height, width = pixels.shape[:2]
    short = min(height, width)
    sides = [size * height // short, size * width // short]
    planes = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
    if sides != [height, width]:
        planes = functional.interpolate(planes, sides, mode="bicubic", antialias=True)
    top, left = (round((side - size) / 2) for side in sides)
    cut: Pixels = planes[0, :, top : top + size, left : left + size].contiguous().numpy()
    return cut


def touched(path: Path) -> int:
    """When an image's file was last touched, in ns: its content, name or place.

    Of an image elsewhere, the latest time that its store allows for. One that tells no time is
    taken never to change, since processes that share the work could not know when all is done.
    """
    try:
        if is_elsewhere(path):
            return round((changed_before(path) or 0) * 1e9)
        status = (table_file(path) or path).stat()
    except (OSError, ValueError):
        return GONE
    # Where there is a time of the last change, nobody can set it: copying tools set the other.
    return status.st_ctime_ns if os.name == "posix" else status.st_mtime_ns


def all_touched(paths: Sequence[Path]) -> list[int]:
    """`touched` of many files; stores elsewhere are asked about several at once."""
    if not any(is_elsewhere(path) for path in paths):
        return [touched(path) for path in paths]
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        return list(pool.map(touched, paths))


def load_ahead(
    paths: Sequence[Path], read: PixelReader, workers: int, ahead: int, processes: bool
) -> Iterator[Loaded]:
    """Images in order, read by threads or processes up to a number ahead of the consumer.

    Threads share the interpreter with the encoder, which the many small steps of a GPU's
    encoder would wait for; processes take some memory each.

    Args:
        paths: of the images.
        read: reads one.
        workers: threads or processes, at least one.
        ahead: images that are read and not yet taken, at most, about.
        processes: whether to start processes.
    """
    if processes and workers > 0:
        yield from _by_processes(paths, read, workers, ahead)
        return
    waiting: deque[Future[Loaded]] = deque()
    pool = ThreadPoolExecutor(max_workers=max(1, workers))
    try:
        upcoming = iter(paths)
        waiting.extend(pool.submit(read, path) for path in islice(upcoming, ahead))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(read, path) for path in islice(upcoming, 1))
    finally:
        # Not waited for: what is given up may be collected in one of these threads.
        pool.shutdown(wait=False, cancel_futures=True)


_AT_ONCE = 16  # images that a process hands over together


@dataclass(frozen=True)
class _Files:
    """Images for torch's loader."""

    paths: Sequence[Path]
    read: PixelReader

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Loaded:
        return self.read(self.paths[index])


def _by_processes(
    paths: Sequence[Path], read: PixelReader, workers: int, ahead: int
) -> Iterator[Loaded]:
    from torch.utils.data import DataLoader

    # Lists of arrays go through pipes. Tensors would go through /dev/shm, which is small in
    # containers.
    loader: DataLoader[Any] = DataLoader(
        _Files(paths, read),  # type: ignore[arg-type]
        batch_size=_AT_ONCE,
        num_workers=workers,
        collate_fn=list,
        prefetch_factor=max(2, ahead // (_AT_ONCE * workers)),
    )
    with warnings.catch_warnings():
        # Polars warns of forks, in every one: its threads are not used there.
        warnings.simplefilter("ignore", RuntimeWarning)
        batches = iter(loader)
    for images in batches:
        yield from images
