"""The stages that are measured at ImageNet's size run on a small one, and mine what they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks import mining_at_scale
from benchmarks.mining_at_scale import DATASET, SEED, STAGES, Size, class_texts, image_features
from capt_core.artifacts.layout import Layout
from stages.commands import module_of


@pytest.mark.parametrize("all_classes", [False, True])
def test_each_half_of_the_classes_is_told_apart_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, all_classes: bool
) -> None:
    size = Size(images=320, classes=32, width=16, shots=0, all_classes=all_classes)
    mining_at_scale.make(tmp_path, size)
    for name in STAGES:
        module = module_of(name)
        for stand_in in ("load_backbone", "base_model"):
            # Stand-ins are left in the modules of the stages; here the real ones come back.
            monkeypatch.setattr(module, stand_in, getattr(module, stand_in, None), raising=False)
        mining_at_scale.run_stage(name, tmp_path, size)

    labels = np.arange(size.images) * size.classes // size.images
    scores = image_features(size, labels, 0) @ class_texts(size).T
    if not all_classes:
        scores[(labels < 16)[:, None] != (np.arange(32) < 16)] = -np.inf
    paths = Layout(tmp_path, DATASET).seed(SEED)
    predictions = pl.read_parquet(paths.predictions)
    assert np.array_equal(predictions["pseudo_label_id"].to_numpy(), scores.argmax(axis=1))
    trained = 320 if all_classes else 160
    errors = int((scores.argmax(axis=1) != labels)[:trained].sum())
    assert len(pl.read_parquet(paths.confusion_bank)) == errors > 0
    assert pl.read_parquet(paths.representatives)["sample_id"].n_unique() == trained
