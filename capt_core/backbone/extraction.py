"""Frozen features of many images, kept part by part, by one process or several."""

from __future__ import annotations

import contextvars
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from capt_core.artifacts.feature_parts import Encoded, FeatureParts, Features
from capt_core.backbone.encoding import unit_features
from capt_core.backbone.loading import Backbone
from capt_core.data.images import normalised
from capt_core.data.loading import Loaded, PixelReader, Pixels, load_ahead
from capt_core.errors import CaptError

FEWEST_ROWS = 32
"""Images of a forward pass on the CPU, whose kernels for a few rows round otherwise."""


def rows_of_pass(images: int, batch_size: int, device: torch.device) -> int:
    """Rows of a forward pass over some images, those that fill it up included.

    So many that an image's feature has the same bits whatever images are encoded beside it: on
    the CPU `FEWEST_ROWS` do, elsewhere kernels are chosen by the exact number.
    """
    fewest = min(FEWEST_ROWS, batch_size) if device.type == "cpu" else batch_size
    return max(images, fewest)


@dataclass(frozen=True)
class Started:
    """What the tower gives for a batch, [n, d], on the CPU once an event of the device is over."""

    encoded: torch.Tensor
    done: torch.cuda.Event | None


class PixelEncoder:
    """Encodes batches of pixels [n, 3, S, S] without waiting for the device.

    Args:
        backbone: whose image tower encodes.
        batch_size: images of a batch at most.
    """

    def __init__(self, backbone: Backbone, batch_size: int) -> None:
        self._backbone, self._batch_size = backbone, batch_size
        self._channels = backbone.preprocess.channels(backbone.device)
        self._pinned = deque[torch.Tensor]()
        self._copying: torch.cuda.Stream | None = None
        if backbone.device.type == "cuda":
            torch.cuda.set_device(backbone.device)
            # Two in turn: the first has been copied when the second pass is started and read.
            sides = (batch_size, 3, *(backbone.preprocess.size,) * 2)
            for _ in range(2):
                self._pinned.append(torch.zeros(sides, dtype=torch.uint8, pin_memory=True))
            self._copying = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def start(self, images: Sequence[Pixels]) -> Started:
        """Set the tower to work on images; at most one earlier batch may be under way."""
        rows = rows_of_pass(len(images), self._batch_size, self._backbone.device)
        if self._copying is None:
            pixels = torch.zeros((rows, *images[0].shape), dtype=torch.uint8)
            np.stack(images, out=pixels.numpy()[: len(images)])
            return Started(self._encode(pixels)[: len(images)], None)
        self._pinned.rotate()
        pixels = self._pinned[0][:rows]
        np.stack(images, out=pixels.numpy()[: len(images)])
        computing = torch.cuda.current_stream()
        # On a stream of its own, the copy goes on beside the pass before.
        with torch.cuda.stream(self._copying):
            on_device = pixels.to(self._backbone.device, non_blocking=True)
        computing.wait_stream(self._copying)
        on_device.record_stream(computing)
        encoded = self._encode(on_device)[: len(images)]
        # An event of its own: to read it back plainly would wait for the batch behind it, too.
        there = torch.empty(encoded.shape, dtype=encoded.dtype, pin_memory=True)
        there.copy_(encoded, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(computing)
        return Started(there, done)

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        batch = normalised(pixels, *self._channels)
        with self._backbone.precision():
            encoded: torch.Tensor = self._backbone.clip.encode_image(batch)
        return encoded

    def finish(self, batch: Started) -> Features:
        """Unit-length features [n, d] of a batch that was started.

        Raises:
            CaptError: a feature is no number.
        """
        if batch.done is not None:
            batch.done.synchronize()
        features: Features = unit_features(batch.encoded, self._backbone, "images").numpy()
        return features


@dataclass(frozen=True)
class Share:
    """One process's share of the parts: every `count`-th from number `index`, from 0."""

    index: int = 0
    count: int = 1


WHOLE = Share()


def images_of(share: Share, count: int, part_images: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which of `count` images are in a process's share, [count]."""
    mine: np.ndarray[Any, np.dtype[np.bool_]]
    mine = np.arange(count) // part_images % share.count == share.index
    return mine


@dataclass(frozen=True)
class Images:
    """What is to be encoded.

    Attributes:
        paths: relative to the data set's image folder, by which features are kept.
        files: the same, to be opened.
        touched: when each file was last touched [ns], or `loading.GONE`.
    """

    paths: pl.Series
    files: Sequence[Path]
    touched: pl.Series


@dataclass
class Effort:
    """What a run of `encode_parts` has done.

    Attributes:
        encoded: images whose features were computed.
        seconds: that it took.
        waited: of these, seconds in which the encoder had no images.
    """

    encoded: int = 0
    seconds: float = 0.0
    waited: float = 0.0


@dataclass
class _Part:
    """A part under way."""

    paths: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    fresh: list[int] = field(default_factory=list)  # places of images that are encoded here
    features: list[Features] = field(default_factory=list)
    under_way: int = 0
    complete: bool = False


def encode_parts(
    images: Images,
    parts: FeatureParts,
    backbone: Backbone,
    batch_size: int,
    part_images: int,
    fast: bool = False,
    workers: int = 2,
    share: Share = WHOLE,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[Effort, Images]:
    """Encode the images of a process's share that there are no features of.

    Parts are cut by position, `part_images` each, and batches never span two of them. So what is
    encoded together, and with it every bit, does not depend on the number of processes or on what
    was interrupted before.

    Args:
        images: all images.
        parts: takes the features.
        backbone: whose image tower encodes.
        batch_size: images of a forward pass.
        part_images: images of a part.
        fast: see `loading.PixelReader`.
        workers: threads that decode; with a GPU, processes.
        share: of this process.
        advance: takes numbers of finished images of the share.

    Returns:
        What was done, and the images, with those that were read here as not touched since.

    Raises:
        CaptError: an image cannot be used, or a feature is no number.
    """
    began = time.perf_counter()
    effort, read_at = Effort(), parts.now()
    wanted = ~parts.known(images.paths, images.touched).to_numpy()
    number = np.arange(len(wanted)) // part_images
    mine = images_of(share, len(wanted), part_images)
    rows = np.flatnonzero(wanted & mine)
    advance(int(mine.sum()) - len(rows))
    chosen = pl.Series(rows, dtype=pl.UInt32)
    reader = PixelReader(backbone.preprocess.size, fast, parts.digests())
    on_gpu = backbone.device.type == "cuda"
    files = _Chosen(images.files, rows)
    loaded = _timed(load_ahead(files, reader, workers, 2 * batch_size, on_gpu), effort)
    encoder = PixelEncoder(backbone, batch_size)
    cuts = (np.flatnonzero(np.diff(number[rows])) + 1).tolist()
    with ThreadPoolExecutor(1) as writing:
        written: Future[None] | None = None
        started: deque[tuple[_Part, Started]] = deque()

        def keep(part: _Part) -> None:
            nonlocal written
            if part.complete and not part.under_way:
                if written is not None:
                    written.result()
                context = contextvars.copy_context()
                written = writing.submit(context.run, _write, part, parts, read_at)

        def finish() -> None:
            part, batch = started.popleft()
            part.features.append(encoder.finish(batch))
            part.under_way -= 1
            effort.encoded += len(part.features[-1])
            advance(len(part.features[-1]))
            keep(part)

        try:
            for names in _cut(images.paths.gather(chosen), cuts):
                part = _Part(names)
                for pixels in _batches(part, loaded, batch_size, advance):
                    started.append((part, encoder.start(pixels)))
                    part.under_way += 1
                    # The device has this batch to work on while the one before is read back.
                    while len(started) > 1:
                        finish()
                part.complete = True
                keep(part)
        finally:
            # A part that lacks nothing else is kept though an image behind it is bad.
            while started:
                finish()
        if written is not None:
            written.result()
    touched = images.touched.to_numpy().copy()
    touched[rows] = 0
    effort.seconds = time.perf_counter() - began
    parts.refresh()
    return effort, Images(images.paths, images.files, pl.Series(touched))


@dataclass(frozen=True)
class _Chosen(Sequence[Path]):
    """Files at some positions, each asked for when it is read."""

    files: Sequence[Path]
    rows: np.ndarray[Any, np.dtype[np.intp]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Path:  # type: ignore[override]
        return self.files[int(self.rows[index])]


def _cut(names: pl.Series, cuts: Sequence[int]) -> Iterator[list[str]]:
    """Names between cuts; none for no names."""
    start = 0
    for end in [*cuts, len(names)]:
        if end > start:
            yield names[start:end].to_list()
        start = end


def _batches(
    part: _Part, loaded: Iterator[Loaded], batch_size: int, advance: Callable[[int], None]
) -> Iterator[list[Pixels]]:
    """Pixels of a part's images, as many at a time as are encoded together."""
    batch = list[Pixels]()
    for place in range(len(part.paths)):
        image = next(loaded)
        if image.problem:
            raise CaptError(image.problem)
        part.digests.append(image.digest)
        if image.pixels is None:
            advance(1)
            continue
        part.fresh.append(place)
        batch.append(image.pixels)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _write(part: _Part, parts: FeatureParts, read_at: int) -> None:
    found = np.concatenate(part.features) if part.features else None
    if len(part.fresh) < len(part.paths):
        stale = np.setdiff1d(np.arange(len(part.paths)), part.fresh)
        known = parts.of_digests([part.digests[place] for place in stale])
        features = np.empty((len(part.paths), known.shape[1]), dtype=np.float32)
        features[stale] = known
        if found is not None:
            features[part.fresh] = found
    else:
        assert found is not None
        features = found
    parts.write(Encoded(part.paths, part.digests, features, read_at))


def _timed(images: Iterator[Loaded], effort: Effort) -> Iterator[Loaded]:
    """The same images; counts the time in which they are waited for."""
    while True:
        began = time.perf_counter()
        image = next(images, None)
        effort.waited += time.perf_counter() - began
        if image is None:
            return
        yield image
