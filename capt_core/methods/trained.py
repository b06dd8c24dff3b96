"""A trained model: images in, class scores out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import polars as pl
import torch
from PIL import Image
from torch import nn

from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.tensors import write_tensors
from capt_core.data.images import Preprocess, image_batches
from capt_core.errors import CaptError
from capt_core.methods.method import Classes, Fitted

OneImage = Path | str | Image.Image
Images = OneImage | Iterable[OneImage]

FORMAT = 1
"""Of model files; raised when an older program could not read them."""


_REMEDY = "give another image, or leave it out"


class TrainedModel(nn.Module):
    """A fitted method with the classes it was trained for, in evaluation mode.

    Args:
        fitted: the method.
        classes: that the model chooses among, in the order of its scores.
        sees: what training saw beyond few-shot images of base classes and their names.
        seed: of the few-shot draw.
        provenance: data set, backbone and settings.
    """

    def __init__(
        self, fitted: Fitted, classes: Classes, sees: str, seed: int, provenance: Provenance
    ) -> None:
        super().__init__()
        self.fitted = fitted
        self.classes = classes
        self.sees = sees
        self.seed = seed
        self.provenance = provenance
        self._scorer: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.eval().requires_grad_(False)

    def __getstate__(self) -> dict[str, Any]:
        # The scorer is a function of the rest, and cannot be pickled.
        return {**self.__dict__, "_scorer": None}

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classes.names

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.fitted.method.name

    @property
    def preprocess(self) -> Preprocess:
        """Makes of a PIL image the tensor [3, S, S] that the model takes."""
        return self.fitted.backbone.preprocess

    def train(self, mode: bool = True) -> TrainedModel:
        """Training has ended: the model stays in evaluation mode."""
        super().train(False)
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Image tensors [B, 3, S, S], preprocessed, to class scores (logits) [B, C]."""
        if self._scorer is None:
            self._scorer = self.fitted.scorer(self.classes)
        images = images.to(self.fitted.backbone.device)
        return self._scorer(self.fitted.image_features(images))

    @torch.no_grad()
    def predict(
        self, images: Images, *, top: int = 5, batch_size: int = 64, workers: int = 2
    ) -> pl.DataFrame:
        """Classify images.

        Args:
            images: files or PIL images, several or one.
            top: how many classes the columns `top_classes` and `top_confidences` list.
            batch_size: images per forward pass.
            workers: threads that decode.

        Returns:
            One row per image, in order: `path` (null for PIL images), `prediction`, `confidence`,
            `top_classes`, `top_confidences`.

        Raises:
            CaptError: a file is missing or no readable image.
        """
        given = [images] if isinstance(images, OneImage) else list(images)
        if top < 1:
            raise CaptError(f"top={top}: expected a whole number from 1")
        transform = self.preprocess
        scores = [
            self(batch).float().softmax(dim=-1).cpu()
            for batch in image_batches(given, transform, batch_size, workers, _REMEDY)
        ]
        shown = min(top, len(self.class_names))
        table = torch.cat(scores) if scores else torch.zeros(0, len(self.class_names))
        values, places = table.topk(shown, dim=-1)
        names = [[self.class_names[place] for place in row] for row in places.tolist()]
        paths = [None if isinstance(image, Image.Image) else str(image) for image in given]
        return pl.DataFrame(
            {
                "path": pl.Series(paths, dtype=pl.String),
                "prediction": pl.Series([row[0] for row in names], dtype=pl.String),
                "confidence": pl.Series([row[0] for row in values.tolist()], dtype=pl.Float64),
                "top_classes": pl.Series(names, dtype=pl.List(pl.String)),
                "top_confidences": pl.Series(values.tolist(), dtype=pl.List(pl.Float64)),
            }
        )

    def save(self, path: Path | str) -> None:
        """Write the model atomically as one file, for `load_model`; equal models, equal bytes.

        Raises:
            CaptError: the file cannot be written.
        """
        backbone, preprocess = self.fitted.backbone, self.preprocess
        facts = {
            "format": FORMAT,
            "model": self.fitted.record(),
            "classes": {"names": self.classes.names, "templates": self.classes.templates},
            "preprocess": {
                "size": preprocess.size,
                "mean": preprocess.mean,
                "std": preprocess.std,
            },
            "sees": self.sees,
            "seed": self.seed,
            "logit_scale": backbone.logit_scale,
            "untrained": backbone.untrained,
        }
        state = self.fitted.state_dict()
        tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        write_tensors(Path(path), tensors, facts, self.provenance)
