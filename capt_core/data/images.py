"""Opening, transforming and batching images."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image

from capt_core.advice import prepare
from capt_core.data.decoding import (
    BadImageError,
    check_sides,
    file_size,
    large_turn,
    opened,
    problem_of,
    read_file,
    to_rgb,
)
from capt_core.data.parquet_images import in_table, read_row
from capt_core.data.remote.opening import is_elsewhere, read_elsewhere
from capt_core.data.scan import is_utf8
from capt_core.errors import CaptError
from capt_core.user_paths import brief

if TYPE_CHECKING:
    import torch

_Loaded = TypeVar("_Loaded")

OneImage = Path | str | Image.Image


@contextmanager
def opened_image(path: Path) -> Iterator[tuple[Image.Image, bytes]]:
    """Open an image, not yet decoded, and its bytes.

    It is a file, a row of a Parquet file, a remote file or a member of a tar shard.

    Every image that is used passes through here, so the bounds of `capt_core.data.decoding` hold
    for all.

    Raises:
        BadImageError: here or in the body: it cannot be used.
        OSError, ValueError: it cannot be looked up or read.
    """
    with ExitStack() as stack:
        if is_elsewhere(path):
            content = read_elsewhere(path)
        elif in_table(path):
            content = read_row(path)
        else:
            stack.enter_context(large_turn(file_size(path)))
            content = read_file(path)
        yield stack.enter_context(opened(content, path.suffix)), content


def read_image(path: Path) -> Image.Image:
    """Read an image as RGB; the path may name a row of a Parquet file.

    Raises:
        BadImageError: it is missing or cannot be read; the message says why, without its name.
    """
    try:
        with opened_image(path) as (image, _):
            return to_rgb(image)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadImageError("image missing") from error
    except (BadImageError, OSError, ValueError) as error:
        raise BadImageError(problem_of(error)) from error


def open_image(path: Path | Image.Image, remedy: str | None = None) -> Image.Image:
    """Read an image as RGB; the path may name a row of a Parquet file.

    Args:
        path: the file; an image is taken as it is.
        remedy: what to do about an image that cannot be read; None speaks of a prepared data set.

    Raises:
        CaptError: the file is missing or not a readable image; the message names it.
    """
    if isinstance(path, Image.Image):
        return to_rgb(path)
    try:
        with opened_image(path) as (image, _):
            return to_rgb(image)
    except (BadImageError, OSError, ValueError) as error:
        raise refused_image(path, error, remedy) from error


def refused_image(path: Path, error: BaseException, remedy: str | None = None) -> CaptError:
    """What `open_image` raises about an image whose reading raised an error."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return CaptError(
            f"{brief(path)}: image missing; " + (remedy or f"check data.root, then {prepare()}")
        )
    return CaptError(
        f"{brief(path)}: not a readable image ({problem_of(error)}); "
        + (remedy or f"replace it, or leave it out: {prepare('data.on_bad_image=quarantine')}")
    )


@dataclass(frozen=True)
class Preprocess:
    """How a backbone turns an image into the tensor that its image tower takes.

    Attributes:
        size: side length S in pixels.
        mean: per channel, of pixel values between 0 and 1.
        std: standard deviation, likewise.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """`test_transform` of an image in any mode: a tensor [3, S, S].

        Raises:
            BadImageError: pixels whose range is not known, or sides out of bounds.
        """
        check_sides(image.size)
        return self._transform(to_rgb(image))  # type: ignore[no-any-return]

    def channels(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation, each [3, 1, 1], on a device."""
        import torch

        mean, std = (
            torch.tensor(values, device=device).view(-1, 1, 1) for values in (self.mean, self.std)
        )
        return mean, std

    @cached_property
    def _transform(self) -> Any:
        return test_transform(self)


def test_transform(preprocess: Preprocess) -> Any:
    """Resize the shorter side (bicubic), crop the centre, normalise: PIL image to [3, S, S]."""
    transforms = _torchvision_transforms()
    return transforms.Compose(
        [
            *pixel_transform(preprocess.size).transforms,
            transforms.ToTensor(),
            transforms.Normalize(preprocess.mean, preprocess.std),
        ]
    )


def pixel_transform(size: int) -> Any:
    """`test_transform` before it normalises: PIL image to PIL image of sides `size`."""
    transforms = _torchvision_transforms()
    return transforms.Compose(
        [
            transforms.Resize(size, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
        ]
    )


def normalised(pixels: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Pixels [B, 3, S, S] in uint8 as `test_transform` leaves them, in fp32.

    Args:
        pixels: as `pixel_transform` leaves them.
        mean, std: `Preprocess.channels`, on the same device.
    """
    return pixels.float().div_(255).sub_(mean).div_(std)


def square_transform(preprocess: Preprocess) -> Any:
    """Resize to a square (bicubic), whatever the sides, normalise: PIL image to [3, S, S]."""
    transforms = _torchvision_transforms()
    return transforms.Compose(
        [
            transforms.Resize(
                (preprocess.size, preprocess.size),
                interpolation=transforms.InterpolationMode.BICUBIC,
            ),
            transforms.ToTensor(),
            transforms.Normalize(preprocess.mean, preprocess.std),
        ]
    )


def train_transform(preprocess: Preprocess, smallest: float = 0.08) -> Any:
    """Random resized crop (bicubic) of some share of the image's area, random flip, normalise.

    Args:
        preprocess: of the backbone.
        smallest: share; the largest is 1.
    """
    transforms = _torchvision_transforms()
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(
                preprocess.size,
                scale=(smallest, 1.0),
                interpolation=transforms.InterpolationMode.BICUBIC,
            ),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(preprocess.mean, preprocess.std),
        ]
    )


def transform_with_seed(transform: Any, image: Image.Image, seed: int) -> torch.Tensor:
    """The tensor [3, S, S] that a random transform makes of an image when it is given a seed.

    torchvision draws from the CPU's global generator, so calls cannot be threaded; it is left as
    it was.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also note every call for accelerators that are not in use.
        torch.default_generator.manual_seed(seed)
        pixels: torch.Tensor = transform(image)
    return pixels


def _torchvision_transforms() -> Any:
    from torchvision import transforms

    return transforms


def image_batches(
    images: Sequence[OneImage],
    transform: Callable[[Image.Image], torch.Tensor],
    batch_size: int,
    workers: int,
    remedy: str | None = None,
) -> Iterator[torch.Tensor]:
    """Stream images in order as batches [B, 3, S, S]; see `loaded_ahead` and `transformed`."""
    import torch

    batches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
    load = partial(transformed, transform=transform, remedy=remedy)
    for batch in loaded_ahead(batches, load, workers):
        yield torch.stack(batch)


def transformed(
    image: OneImage,
    transform: Callable[[Image.Image], torch.Tensor],
    remedy: str | None = None,
) -> torch.Tensor:
    """The tensor [3, S, S] that a transform makes of an image or of a file.

    Raises:
        CaptError: see `open_image`.
    """
    if not isinstance(image, Image.Image):
        image = open_image(Path(image), remedy)
    return transform(image)


def transformed_or_problem(
    image: OneImage, transform: Callable[[Image.Image], torch.Tensor]
) -> torch.Tensor | str:
    """As `transformed`, but for an image that cannot be used, the reason why."""
    try:
        if isinstance(image, Image.Image):
            return transform(image)
        if not is_utf8(str(image)):
            return "a file name that is not valid UTF-8"
        return transform(read_image(Path(image)))
    except CaptError as error:
        return str(error)


def loaded_ahead(
    batches: Iterable[Sequence[OneImage]], load: Callable[[OneImage], _Loaded], workers: int
) -> Iterator[list[_Loaded]]:
    """Stream batches of loaded images in order.

    Threads load ahead of the consumer, by at most two batches: Pillow releases the interpreter
    lock while it decodes and resizes, and an error keeps its type and message.

    Args:
        batches: of images; each is asked for when the second one before it is taken.
        load: called by several threads at once, so it must not draw random numbers.
        workers: threads, at least one.
    """
    upcoming = iter(batches)
    ahead: deque[list[Future[_Loaded]]] = deque()
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:

        def ask(count: int) -> None:
            for batch in islice(upcoming, count):
                ahead.append([pool.submit(load, image) for image in batch])

        try:
            ask(2)
            while ahead:
                loaded = [image.result() for image in ahead.popleft()]
                ask(1)
                yield loaded
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
