"""Calibrating a fitted model on validation images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import torch

from capt_core.data.dataset import Dataset
from capt_core.errors import CaptError
from capt_core.evaluation.calibration import LEAST_IMAGES, Calibration, fit_calibration
from capt_core.methods.fitting import dataset_features
from capt_core.methods.trained import TrainedModel
from capt_core.reporter import SILENT, Reporter

_BATCH = 64


def calibration_images(dataset: Dataset, most: int, seed: int) -> pl.Series:
    """Validation images of the trained classes, by sample id; `most` of them drawn by the seed."""
    found = dataset.samples.filter(
        pl.col("split") == "val", pl.col("class_id").is_in(dataset.class_ids("base"))
    )["sample_id"].sort()
    if len(found) <= most:
        return found
    chosen = np.random.default_rng(seed).choice(len(found), most, replace=False)
    return found.gather(np.sort(chosen))


@torch.no_grad()
def calibrate(
    model: TrainedModel,
    dataset: Dataset,
    most: int,
    precision: float,
    stored: Callable[[], torch.Tensor] | None = None,
    image_root: Path | None = None,
    workers: int = 2,
    reporter: Reporter = SILENT,
) -> Calibration | None:
    """What `predict` divides logits by, and from which confidence on it is sure.

    Images of trained classes are classified among all classes of the model, as `predict` does, so
    classes that were not trained are in the way, as they will be there. Where a method has chosen
    one or two settings on few-shot validation images, these are among the images.

    Args:
        model: fitted.
        dataset: that it was fitted on.
        most: images that are used at most; 0 calibrates nothing.
        precision: share of right answers to aim at.
        stored: gives the frozen features of all samples, [N, d], asked where the method leaves the
            tower as it is; None encodes the images.
        image_root: folder that sample paths are relative to.
        workers: threads that decode.
        reporter: takes progress and what was found.

    Returns:
        None without enough validation images, or where one cannot be read: a model that took hours
        to train must not be lost for it.
    """
    if most < 1:
        return None
    ids = calibration_images(dataset, most, model.seed)
    if len(ids) < LEAST_IMAGES:
        reporter.say(
            f"confidences are not calibrated: {len(ids)} validation images of trained classes, "
            f"{LEAST_IMAGES} are needed"
        )
        return None
    frozen = stored() if stored is not None and model.fitted.frozen_tower else None
    try:
        features = dataset_features(
            model.fitted, dataset, ids, frozen, image_root, _BATCH, workers, reporter
        )
    except CaptError as error:
        reporter.warn(f"confidences are not calibrated: {error}")
        return None
    labels = dataset.samples["class_id"].gather(ids).to_list()
    logits = model.fitted.logits(features, model.classes)
    found = fit_calibration(logits.cpu().numpy(), labels, precision)
    assert found is not None
    reporter.say(f"calibrated on {found.images} validation images: {described(found)}")
    return found


def described(calibration: Calibration) -> str:
    """What a calibration promises, in words."""
    aimed = f"right {calibration.precision:.0%} of the time"
    if calibration.threshold is None:
        return f"no confidence is known to be {aimed}"
    return f"answers are {aimed} from a confidence of {calibration.threshold:.1%} on"
