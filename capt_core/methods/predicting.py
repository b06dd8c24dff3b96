"""What `TrainedModel.predict` does: images to a table of answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

import polars as pl
import torch
from PIL import Image
from torch.nn import functional

from capt_core.data.images import OneImage, loaded_ahead, transformed, transformed_or_problem
from capt_core.data.scan import as_text, is_utf8
from capt_core.errors import CaptError, shown

if TYPE_CHECKING:
    from capt_core.methods.trained import TrainedModel

Images = OneImage | Iterable[OneImage]
OnBadImage = Literal["error", "report"]

PREDICT_COLUMNS = {
    "path": pl.String(),
    "prediction": pl.String(),
    "confidence": pl.Float64(),
    "base_prediction": pl.String(),
    "base_confidence": pl.Float64(),
    "changed": pl.Boolean(),
    "unsure": pl.Boolean(),
    "top_classes": pl.List(pl.String),
    "top_confidences": pl.List(pl.Float64),
    "problem": pl.String(),
}
"""Columns of a table of answers."""

_REMEDY = "give another image, or leave it out"


def no_progress(_: int) -> None:
    """Takes numbers of classified images, and does nothing with them."""


def predict_images(
    model: TrainedModel,
    images: Images,
    top: int = 5,
    on_bad_image: OnBadImage = "error",
    batch_size: int = 64,
    workers: int = 2,
    advance: Callable[[int], None] = no_progress,
) -> pl.DataFrame:
    """Classify images, beside what the model started from.

    Confidences are softmax probabilities among the model's classes, at the temperature of its
    calibration if it has one. Calibration measured images of the trained classes: of classes that
    the model was not trained on its confidences promise nothing.

    Args:
        model: the model.
        images: files or PIL images, several or one.
        top: how many classes `top_classes` and `top_confidences` list.
        on_bad_image: ``error`` or ``report``.
        batch_size: images per forward pass.
        workers: threads that decode.
        advance: takes numbers of classified images.

    Returns:
        One row per image, in order:

        - `path`: as given; null for PIL images; undecodable bytes of a name are escaped;
        - `prediction`, `confidence`;
        - `base_prediction`, `base_confidence`: of what the model started from, its fitted base
          model or else zero-shot CLIP, among the same classes, not calibrated;
        - `changed`: whether the two predictions differ;
        - `unsure`: whether the confidence is below the calibration's threshold; null without one;
        - `top_classes`, `top_confidences`: best first;
        - `problem`: why an image could not be used; all else is null then.

    Raises:
        CaptError: a file is missing or no readable image, and `on_bad_image` is ``error``.
    """
    given = [images] if isinstance(images, OneImage) else list(images)
    (table,) = predict_blocks(model, [given], top, on_bad_image, batch_size, workers, advance)
    return table


def predict_blocks(
    model: TrainedModel,
    blocks: Iterable[Sequence[OneImage]],
    top: int = 5,
    on_bad_image: OnBadImage = "error",
    batch_size: int = 64,
    workers: int = 2,
    advance: Callable[[int], None] = no_progress,
) -> Iterator[pl.DataFrame]:
    """Classify blocks of images, decoding the next one's while one is encoded.

    Args:
        model: the model.
        blocks: each asked for when up to two batches before it are to be encoded yet.
        top, on_bad_image, batch_size, workers, advance: see `predict_images`. No forward pass
            takes images of two blocks.

    Returns:
        A table as of `predict_images` for each block, in order.

    Raises:
        CaptError: see `predict_images`.
    """
    if top < 1:
        raise CaptError(f"top={top}: expected a whole number from 1")
    if on_bad_image not in ("error", "report"):
        raise CaptError(f"on_bad_image={shown(on_bad_image)}: expected error or report")
    answer = _Answerer(model, top)
    rows = list[pl.DataFrame]()
    for batch in _loaded(model, blocks, on_bad_image, batch_size, workers):
        usable = [image for image in batch.images if not isinstance(image, str)]
        problems = [image if isinstance(image, str) else None for image in batch.images]
        rows.append(answer.table(usable, problems, batch.paths))
        advance(len(batch.images))
        if batch.last:
            yield pl.concat(rows)
            rows.clear()


class _Batch(NamedTuple):
    """Images of a forward pass.

    Attributes:
        images: tensors [3, S, S], or problems in their place.
        paths: of the images, as tables show them.
        last: whether no other batch of its block follows.
    """

    images: Sequence[torch.Tensor | str]
    paths: list[str | None]
    last: bool


def _loaded(
    model: TrainedModel,
    blocks: Iterable[Sequence[OneImage]],
    on_bad_image: OnBadImage,
    batch_size: int,
    workers: int,
) -> Iterator[_Batch]:
    """The batches of blocks, one or more of each."""
    asked = deque[tuple[list[str | None], bool]]()

    def batches() -> Iterator[Sequence[OneImage]]:
        for block in blocks:
            paths = _shown_paths(block, on_bad_image)
            for start in range(0, max(len(block), 1), batch_size):
                end = start + batch_size
                asked.append((paths[start:end], end >= len(block)))
                yield block[start:end]

    load: Callable[[OneImage], torch.Tensor | str]
    if on_bad_image == "error":
        load = partial(transformed, transform=model.preprocess, remedy=_REMEDY)
    else:
        load = partial(transformed_or_problem, transform=model.preprocess)
    for images in loaded_ahead(batches(), load, workers):
        yield _Batch(images, *asked.popleft())


def _shown_paths(images: Iterable[OneImage], on_bad_image: OnBadImage) -> list[str | None]:
    paths = [None if isinstance(image, Image.Image) else str(image) for image in images]
    named = [path and as_text(path) for path in paths]
    if on_bad_image == "error":
        for path, plain in zip(paths, named, strict=True):
            if path and not is_utf8(path):
                raise CaptError(f"{plain}: a file name that is not valid UTF-8; rename it")
    return named


class _Answerer:
    """Rows about images, by a model and what it started from."""

    def __init__(self, model: TrainedModel, top: int) -> None:
        self._fitted, self._score = model.fitted, model.scorer
        self._start, self._score_start = model.start
        self._names = model.class_names
        self._calibration = model.calibration
        self._shown = min(top, len(self._names))

    @torch.no_grad()
    def table(
        self,
        images: Sequence[torch.Tensor],
        problems: Sequence[str | None],
        paths: Sequence[str | None],
    ) -> pl.DataFrame:
        """Rows in the order of `problems` and `paths`; those without a problem take an image."""
        confidences, base = self._confidences(images)
        values, places = confidences.topk(self._shown, dim=-1)
        base_values, base_places = base.max(dim=-1)
        found = zip(
            values.tolist(),
            places.tolist(),
            base_values.tolist(),
            base_places.tolist(),
            strict=True,
        )
        rows = []
        for path, problem in zip(paths, problems, strict=True):
            row: dict[str, object] = {"path": path, "problem": problem}
            if problem is None:
                best, classes, base_confidence, base_class = next(found)
                row |= {
                    "prediction": self._names[classes[0]],
                    "confidence": best[0],
                    "base_prediction": self._names[base_class],
                    "base_confidence": base_confidence,
                    "changed": classes[0] != base_class,
                    "unsure": self._unsure(best[0]),
                    "top_classes": [self._names[place] for place in classes],
                    "top_confidences": best,
                }
            rows.append(row)
        return pl.DataFrame(rows, schema=PREDICT_COLUMNS)

    def _confidences(self, images: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Softmax probabilities [B, C] of the model and of what it started from, in fp64."""
        if not images:
            return (torch.zeros(0, len(self._names)),) * 2
        fitted, start = self._fitted, self._start
        batch = torch.stack(list(images)).to(fitted.backbone.device)
        with fitted.backbone.precision():
            encoded = fitted.encode_with_start(batch, start)
        own, base = (functional.normalize(features.float(), dim=-1) for features in encoded)
        temperature = 1.0 if self._calibration is None else self._calibration.temperature
        logits = self._score(fitted.adapt(own)).double() / temperature
        base_logits = self._score_start(start.adapt(base)).double()
        return logits.softmax(dim=-1).cpu(), base_logits.softmax(dim=-1).cpu()

    def _unsure(self, confidence: float) -> bool | None:
        threshold = None if self._calibration is None else self._calibration.threshold
        return None if threshold is None else confidence < threshold
