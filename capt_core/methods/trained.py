"""A trained model: images in, class scores out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import nn

from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.tensors import write_tensors
from capt_core.backbone.portable import architecture_of
from capt_core.data.images import Preprocess
from capt_core.evaluation.calibration import Calibration
from capt_core.methods.classes import Classes
from capt_core.methods.method import BASE_ONLY, Fitted, Scorer
from capt_core.methods.predicting import Images, OnBadImage, predict_images

FORMAT = 1
"""Of model files; raised when an older program could not read them."""


_BACKBONE = "backbone."


class TrainedModel(nn.Module):
    """A fitted method with the classes it was trained for, in evaluation mode.

    Args:
        fitted: the method.
        classes: that the model chooses among, in the order of its scores.
        sees: what training saw beyond few-shot images of base classes and their names, and what
            it lacked (`Fitted.left_out`), joined by "; ".
        seed: of the few-shot draw.
        provenance: data set, backbone and settings.
        calibration: of the confidences that `predict` gives; None where nothing was fitted.
    """

    def __init__(
        self,
        fitted: Fitted,
        classes: Classes,
        sees: str,
        seed: int,
        provenance: Provenance,
        calibration: Calibration | None = None,
    ) -> None:
        super().__init__()
        self.fitted = fitted
        self.classes = classes
        self.sees = sees
        fitted.saw = tuple(
            seen for seen in sees.split("; ") if seen not in (BASE_ONLY, *fitted.left_out)
        )
        self.seed = seed
        self.provenance = provenance
        self.calibration = calibration
        self._scorer: Scorer | None = None
        self._start: tuple[Fitted, Scorer] | None = None
        self.eval().requires_grad_(False)

    def __getstate__(self) -> dict[str, Any]:
        # Scorers are functions of the rest, and cannot be pickled.
        return {**self.__dict__, "_scorer": None, "_start": None}

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
        images = images.to(self.fitted.backbone.device)
        return self.scorer(self.fitted.image_features(images))

    @property
    def scorer(self) -> Scorer:
        """Function from the method's features, [N, d], to class scores [N, C]."""
        if self._scorer is None:
            self._scorer = self.fitted.scorer(self.classes)
        return self._scorer

    @property
    def start(self) -> tuple[Fitted, Scorer]:
        """What the method started from (see `Fitted.start`), and its `scorer`."""
        if self._start is None:
            start = self.fitted.start
            self._start = start, start.scorer(self.classes)
        return self._start

    def predict(
        self,
        images: Images,
        *,
        top: int = 5,
        on_bad_image: OnBadImage = "error",
        batch_size: int = 64,
        workers: int = 2,
    ) -> pl.DataFrame:
        """Classify images, beside what the model started from; see `predict_images`.

        Args:
            images: files or PIL images, several or one.
            top: how many classes the columns `top_classes` and `top_confidences` list.
            on_bad_image: ``error`` stops at an image that cannot be used, ``report`` gives it a
                row without a prediction and with the reason in `problem`.
            batch_size: images per forward pass.
            workers: threads that decode.

        Returns:
            One row per image, in order, with the columns of `PREDICT_COLUMNS`.

        Raises:
            CaptError: a file is missing or no readable image.
        """
        return predict_images(self, images, top, on_bad_image, batch_size, workers)

    def save(self, path: Path | str, *, with_backbone: bool = False) -> None:
        """Write the model atomically as one file, for `load_model`; equal models, equal bytes.

        Args:
            path: the file.
            with_backbone: put the backbone's weights into the file, too, so that it needs nothing
                else; it is as large as they are.

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
        if self.calibration is not None:
            facts["calibration"] = asdict(self.calibration)
        state = self.fitted.state_dict()
        tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        if with_backbone:
            facts["backbone"] = architecture_of(backbone).model_dump()
            weights = backbone.clip.state_dict()
            tensors |= {f"{_BACKBONE}{name}": value for name, value in weights.items()}
        write_tensors(Path(path), tensors, facts, self.provenance)


def split_tensors(
    tensors: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What a model file holds that was learnt, and the weights of its backbone, by their names."""
    weights = {
        name.removeprefix(_BACKBONE): value
        for name, value in tensors.items()
        if name.startswith(_BACKBONE)
    }
    return {name: tensors[name] for name in tensors if not name.startswith(_BACKBONE)}, weights
