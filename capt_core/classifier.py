"""CLIP, its confusions and their repair as a scikit-learn classifier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from capt_core import library
from capt_core.backbone.loading import Backbone
from capt_core.confusion.bank import confusion_bank, confusion_statistics
from capt_core.data.dataset import Dataset
from capt_core.data.images import image_batches
from capt_core.data.in_memory import Images, images_of, memory_dataset
from capt_core.data.registry import OWN_TEMPLATE, check_template
from capt_core.errors import CaptError, reason, shown
from capt_core.evaluation.predictions import classified
from capt_core.methods.fitting import dataset_features, group_scorers
from capt_core.methods.trained import TrainedModel
from capt_core.params import check_seed
from capt_core.text import clean_name

_BATCH = 128
_REMEDY = "give another image, or leave it out"


class ClassifierError(CaptError, ValueError):
    """A mistake in the arguments of a classifier, which scikit-learn's users catch as ValueError.

    The message is one line.
    """


class ConfusionAwareClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """CLIP fitted on images, with the confusions that it had before and has after.

    `X` is a sequence of N images: paths, PIL images or arrays [H, W, 3] (also 1 or 4 channels, or
    none for grey), or one array [N, H, W, 3] or [N, H, W]. Arrays are uint8, or floating-point
    from 0 to 1; nothing is written to disk. `y` holds N labels of two or more classes, text or
    numbers, and a class is called by its label in prompts unless `class_names` says otherwise.

    Part of each class's images is held out of training, to count the errors of the base model and
    of the repaired one on images that neither learnt from. (`linear_probe`, `tip_adapter` and
    `gda` choose their strength on up to four of these images per class.)

    Args:
        backbone: the frozen CLIP: a `Backbone`, which clones share, or the name of a model, loaded
            by every fit; None takes the embedded one, which knows drawn textures only.
        method: name of a method, such as ``capt``; ``clip`` learns nothing.
        shots: training images per class; 0 takes all that are not held out.
        seed: of what is held out, of the draw, and of everything random in training.
        settings: keys of the section ``methods.<method>`` that differ from the packaged ones.
        prompts: JSON store of written prompts about pairs of classes; None fills templates.
        validation_fraction: share of each class's images that is held out, at least 0 and below
            1; a class keeps at least one image for training.
        device: `auto`, `cpu` or `cuda`, for a backbone that is named.
        base_model: method whose errors are counted and repaired.
        class_names: names used in prompts, by label; labels that it leaves out are named by
            themselves.
        template: prompt with one ``{}`` for the class name.
        checkpoint: local weights of a backbone that is named (`.safetensors`, `.pt`).
        pretrained: tag of weights that open_clip downloads, likewise.
        workers: threads that decode images.

    Attributes:
        classes_: the labels, sorted, [C].
        model_: the fitted `TrainedModel`; it scores classes in the order of `classes_`.
        base_model_: the model whose errors were repaired.
        held_out_: positions in X of the images that were held out, ascending.
        confusions_: a Polars frame with one row per model (`base`, `repaired`) and pair of
            classes, most frequent first: `model`, `true`, `predicted` (labels), `count` (images),
            `rate` (`count` over the true class's images that were looked at), `images` (their
            positions in X) and `held_out`. With nothing to hold out the training images are
            counted, `held_out` is false, and the rows of `repaired` flatter it.

    Raises:
        ClassifierError: a `CaptError` and ValueError: images, labels or arguments that cannot be
            used; the message is one line.
        NotFittedError: it is asked to predict before `fit`.
    """

    classes_: np.ndarray[Any, Any]
    model_: TrainedModel
    base_model_: TrainedModel
    held_out_: np.ndarray[Any, Any]
    confusions_: pl.DataFrame

    def __init__(
        self,
        backbone: Backbone | str | None = None,
        *,
        method: str = "capt",
        shots: int = 0,
        seed: int = 1,
        settings: Mapping[str, Any] | None = None,
        prompts: Path | str | None = None,
        validation_fraction: float = 0.2,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        base_model: str = "clip",
        class_names: Mapping[Any, str] | None = None,
        template: str = OWN_TEMPLATE,
        checkpoint: Path | str | None = None,
        pretrained: str | None = None,
        workers: int = 2,
    ) -> None:
        self.backbone = backbone
        self.method = method
        self.shots = shots
        self.seed = seed
        self.settings = settings
        self.prompts = prompts
        self.validation_fraction = validation_fraction
        self.device = device
        self.base_model = base_model
        self.class_names = class_names
        self.template = template
        self.checkpoint = checkpoint
        self.pretrained = pretrained
        self.workers = workers

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags

    def fit(self, X: Any, y: Any) -> ConfusionAwareClassifier:  # noqa: N803
        """Fit the base model, find what it confuses, fit the method, count again.

        Raises:
            ClassifierError: see the class.
        """
        with _as_value_errors():
            images = _images(X)
            classes, class_ids = _class_ids(y, len(images))
            held_out = _held_out(
                class_ids, _fraction(self.validation_fraction), check_seed(self.seed, "seed")
            )
            splits = np.where(held_out, "val", "train")
            dataset = memory_dataset(
                images, class_ids.tolist(), self._names(classes), splits.tolist(), self._template()
            )
            backbone = self._loaded()
            base, model = self._models(dataset, backbone)
            looked_at = np.flatnonzero(held_out)
            if not len(looked_at):
                looked_at = np.arange(len(images))
            frames = [
                _confusions(which, fitted, dataset, looked_at, classes, bool(held_out.any()))
                for which, fitted in (("base", base), ("repaired", model))
            ]
        self.classes_ = classes
        self.base_model_, self.model_ = base, model
        self.held_out_ = np.flatnonzero(held_out)
        self.confusions_ = pl.concat(frames)
        return self

    def decision_function(self, X: Any) -> np.ndarray[Any, Any]:  # noqa: N803
        """Logits [N, C]; of two classes, that of the second above that of the first, [N]."""
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def predict_proba(self, X: Any) -> np.ndarray[Any, Any]:  # noqa: N803
        """Softmax probabilities [N, C], classes in the order of `classes_`."""
        return torch.from_numpy(self._scores(X)).softmax(dim=1).numpy()

    def predict(self, X: Any) -> np.ndarray[Any, Any]:  # noqa: N803
        """The label of the most probable class of each image, [N]."""
        places = self._scores(X).argmax(axis=1)
        return self.classes_[places]  # type: ignore[no-any-return]

    @torch.no_grad()
    def _scores(self, given: Any) -> np.ndarray[Any, Any]:
        check_is_fitted(self)
        with _as_value_errors():
            images = _images(given)
            batches = image_batches(
                images, self.model_.preprocess, _BATCH, self._threads(), _REMEDY
            )
            return torch.cat([self.model_(batch).double().cpu() for batch in batches]).numpy()

    def _names(self, classes: np.ndarray[Any, Any]) -> list[str]:
        named = {} if self.class_names is None else self.class_names
        if not isinstance(named, Mapping):
            raise CaptError(
                f"class_names: expected labels with their names, found {shown(named, 60)}"
            )
        return [clean_name(str(named.get(label, label))) for label in classes.tolist()]

    def _threads(self) -> int:
        if isinstance(self.workers, bool) or not isinstance(self.workers, int | np.integer):
            raise CaptError(f"workers: expected a number of threads, found {shown(self.workers)}")
        return int(self.workers)

    def _template(self) -> str:
        try:
            return check_template(str(self.template))
        except ValueError as error:
            raise CaptError(reason(error)) from error

    def _loaded(self) -> Backbone:
        if isinstance(self.backbone, Backbone):
            return self.backbone
        if not isinstance(self.backbone, str | None):
            raise CaptError(
                f"backbone: expected a Backbone or the name of one, found {shown(self.backbone)}"
            )
        named: dict[str, Any] = {} if self.backbone is None else {"name": self.backbone}
        return library.load_backbone(
            **named,
            checkpoint=self.checkpoint,
            pretrained=self.pretrained,
            device=self.device,
        )

    def _models(self, dataset: Dataset, backbone: Backbone) -> tuple[TrainedModel, TrainedModel]:
        for name in ("method", "base_model"):
            if not isinstance(given := getattr(self, name), str):
                raise CaptError(f"{name}: expected the name of a method, found {shown(given)}")
        shots: Any = self.shots
        if isinstance(shots, np.integer):  # as a grid of np.arange holds
            shots = int(shots)
        drawn: dict[str, Any] = {"shots": shots, "seed": self.seed, "prompts": self.prompts}
        same = self.method == self.base_model
        base = library.fit(
            self.base_model,
            dataset,
            backbone,
            settings=self.settings if same else None,
            **drawn,
        )
        if same:
            return base, base
        model = library.fit(
            self.method, dataset, backbone, base_model=base, settings=self.settings, **drawn
        )
        return base, model


@contextmanager
def _as_value_errors() -> Iterator[None]:
    try:
        yield
    except CaptError as error:
        raise ClassifierError(str(error)) from error


def _images(given: Any) -> Images:
    images = images_of(given, "X")
    if not len(images):
        raise CaptError("X: found 0 images, while a minimum of 1 is required")
    return images


def _class_ids(given: Any, count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The labels, sorted, and each image's position among them."""
    if given is None:
        raise CaptError(
            "ConfusionAwareClassifier requires y to be passed, but the target y is None"
        )
    try:
        labels = column_or_1d(given, warn=True)
        assert_all_finite(labels, input_name="y")
        check_classification_targets(labels)
        classes, class_ids = np.unique(labels, return_inverse=True)
    except (TypeError, ValueError) as error:
        raise CaptError(f"y: {reason(error)}") from error
    if len(class_ids) != count:
        raise CaptError(f"X holds {count} images, y {len(class_ids)} labels; give one for each")
    if len(classes) < 2:
        raise CaptError(
            f"y: the number of classes has to be greater than one; found 1 class, "
            f"{shown(classes[0].item() if hasattr(classes[0], 'item') else classes[0])}"
        )
    return classes, class_ids


def _fraction(given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, float | int | np.floating):
        raise CaptError(f"validation_fraction: expected a number, found {shown(given)}")
    if not 0 <= given < 1:
        raise CaptError(f"validation_fraction={given}: expected at least 0 and below 1")
    return float(given)


def _held_out(
    class_ids: np.ndarray[Any, Any], fraction: float, seed: int
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which images are held out: of each class's n, round(n * fraction), but never all."""
    chosen = np.zeros(len(class_ids), dtype=bool)
    draws = np.random.default_rng(seed)
    for class_id in range(int(class_ids.max()) + 1):
        members = draws.permutation(np.flatnonzero(class_ids == class_id))
        chosen[members[: min(round(len(members) * fraction), len(members) - 1)]] = True
    return chosen


def _confusions(
    which: str,
    model: TrainedModel,
    dataset: Dataset,
    positions: np.ndarray[Any, Any],
    classes: np.ndarray[Any, Any],
    held_out: bool,
) -> pl.DataFrame:
    """Rows of `confusions_` of one model."""
    ids = pl.Series(positions, dtype=pl.Int64)
    features = dataset_features(model.fitted, dataset, ids, None, None, _BATCH, 2)
    scorers = group_scorers(model.fitted, dataset)
    predictions = classified(dataset, ids, features, scorers, top_classes=1)
    bank = confusion_bank(predictions)
    pair = ["true_class_id", "predicted_class_id"]
    images = bank.group_by(pair).agg(pl.col("sample_id").sort().alias("images"))
    found = confusion_statistics(bank, predictions).join(images, on=pair, maintain_order="left")
    labels = pl.Series(classes.tolist())
    return found.select(
        pl.lit(which).alias("model"),
        labels.gather(found["true_class_id"]).alias("true"),
        labels.gather(found["predicted_class_id"]).alias("predicted"),
        "count",
        "rate",
        "images",
        pl.lit(held_out).alias("held_out"),
    )
