"""Opening, checking, transforming and batching images."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from capt_core.errors import CaptError
from capt_core.torchvision_ops import ensure_torchvision

if TYPE_CHECKING:
    import torch


def open_image(path: Path) -> Image.Image:
    """Read an image as RGB.

    Raises:
        CaptError: the file is missing or not a readable image; the message names it.
    """
    try:
        with Image.open(path) as image:
            return to_rgb(image)
    except FileNotFoundError as error:
        raise CaptError(
            f"{path}: image missing; check data.root, then run: capt-stage prepare"
        ) from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CaptError(
            f"{path}: not a readable image ({error}); replace it, or set "
            "data.on_bad_image=quarantine and run: capt-stage prepare"
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB; 16-bit grey values keep their contrast.

    Raises:
        ValueError: 32-bit pixels, whose range is not known.
    """
    if image.mode.startswith("I;16"):
        # Pillow would clip these values at 255 instead of scaling them.
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"32-bit pixels (mode {image.mode}), save it with 8 or 16 bits")
    return image.convert("RGB")


@dataclass(frozen=True)
class ImageCheck:
    """What is wrong with an image file (None: nothing) and a digest of its content."""

    problem: str | None
    digest: str


ImageLook = Literal["decode", "exists", "none"]


def check_image(path: Path, look: ImageLook) -> ImageCheck:
    """Look at one image file.

    Args:
        path: the file.
        look: `decode` reads all pixels and digests all bytes, `exists` takes the file's size for
            its digest, `none` does not touch the file.
    """
    try:
        if look == "none":
            return ImageCheck(None, "")
        if look == "exists":
            return ImageCheck(None, str(path.stat().st_size))
        content = path.read_bytes()
        with Image.open(BytesIO(content)) as image:
            to_rgb(image)
    except FileNotFoundError:
        return ImageCheck("missing", "")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow's message quotes the address of the buffer.
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        return ImageCheck(f"unreadable: {reason}", "")
    return ImageCheck(None, hashlib.sha256(content).hexdigest())


def check_images(paths: Sequence[Path], look: ImageLook, workers: int) -> Iterator[ImageCheck]:
    """`check_image` of many files in order, by several threads."""
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        for start in range(0, len(paths), _CHUNK):
            chunk = paths[start : start + _CHUNK]
            yield from pool.map(lambda path: check_image(path, look), chunk)


_CHUNK = 1024


@dataclass(frozen=True)
class ImageStyle:
    """How pixels become a tensor: side length, and mean and standard deviation per channel."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def test_transform(style: ImageStyle) -> Any:
    """Resize the shorter side (bicubic), crop the centre, normalise: PIL image to [3, S, S]."""
    transforms = _torchvision_transforms()
    return transforms.Compose(
        [
            transforms.Resize(style.size, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(style.size),
            transforms.ToTensor(),
            transforms.Normalize(style.mean, style.std),
        ]
    )


def train_transform(style: ImageStyle) -> Any:
    """Random resized crop (scale 0.08-1, bicubic), random flip, normalise."""
    transforms = _torchvision_transforms()
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(
                style.size,
                scale=(0.08, 1.0),
                interpolation=transforms.InterpolationMode.BICUBIC,
            ),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(style.mean, style.std),
        ]
    )


def _torchvision_transforms() -> Any:
    ensure_torchvision()
    from torchvision import transforms

    return transforms


def image_batches(
    paths: Sequence[Path],
    transform: Callable[[Image.Image], torch.Tensor],
    batch_size: int,
    workers: int,
) -> Iterator[torch.Tensor]:
    """Stream images in order as batches [B, 3, S, S].

    Threads decode ahead of the consumer, by at most two batches: Pillow releases the
    interpreter lock while it decodes and resizes, and an error keeps its type and message.
    `transform` must not draw random numbers.
    """
    import torch

    def load(path: Path) -> torch.Tensor:
        return transform(open_image(path))

    ahead: deque[Future[torch.Tensor]] = deque()
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        upcoming = iter(paths)
        ahead.extend(pool.submit(load, path) for path in islice(upcoming, 2 * batch_size))
        while ahead:
            batch = [ahead.popleft().result() for _ in range(min(batch_size, len(ahead)))]
            ahead.extend(pool.submit(load, path) for path in islice(upcoming, len(batch)))
            yield torch.stack(batch)
