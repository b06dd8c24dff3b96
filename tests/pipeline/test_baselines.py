"""The methods beside CAPT go through evaluation without encoding an image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from capt_core.evaluation.visibility import sees
from capt_core.methods.baselines import BaselineData, BaselineSettings, fit_baseline
from capt_core.methods.saved import write_tensors

from capt_core import params
from capt_core.artifacts.features import read_image_features, read_text_features
from capt_core.artifacts.layout import Layout
from capt_core.artifacts.schemas import TRAINING_LOG
from capt_core.artifacts.tables import write_table
from capt_core.backbone.loading import load_backbone
from capt_core.data.dataset import load_dataset, load_fewshot

SETTINGS = BaselineSettings(
    params.Coop(epochs=5), params.LinearProbe(strength=10.0), params.Residual(epochs=20)
)


def fitted(artifacts: Path, method: str) -> None:
    """Fit a method on the small run and save it as `train` does."""
    layout = Layout(artifacts, "proctex")
    dataset = load_dataset(layout)
    backbone = load_backbone(params.Backbone(), params.Runtime())
    origin = dataset.provenance(backbone.identity)
    texts = read_text_features(layout.text_features, origin)
    data = BaselineData(
        dataset,
        load_fewshot(layout, dataset, 8, 1),
        read_image_features(layout.image_features, origin),
        texts,
        texts,
        lambda: texts,
    )
    tensors, _ = fit_baseline(method, data, backbone, SETTINGS, seed=1)
    paths = layout.seed(1).run(method)
    facts = {
        "method": method,
        "sees": sees(method, 8, "fewshot", SETTINGS.residual if method == "residual" else None),
    }
    write_tensors(paths.model, tensors, facts, origin)
    write_table(
        TRAINING_LOG, pl.DataFrame(schema=dict(TRAINING_LOG.columns)), paths.training_log, origin
    )


def test_feature_methods_are_scored_from_stored_features(
    copy: Path,
    again: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an image was encoded")

    monkeypatch.setattr("capt_core.backbone.encoding.encode_images", refuse)
    again("train", method="clip_prompts")
    again("evaluate", method="clip_prompts")
    for method in ("linear_probe", "coop", "residual"):
        fitted(copy, method)
        again("evaluate", method=method)
    said = capsys.readouterr().out
    assert "sees: novel images (linear probe)" in said
    again("report")
    results = pl.read_parquet(copy / "results.parquet")
    base = dict(results.filter(metric="base_accuracy").select("method", "value").iter_rows())
    assert set(base) == {"clip", "clip_prompts", "linear_probe", "coop", "residual", "capt"}
    assert base["clip_prompts"] > base["clip"]
    assert base["linear_probe"] > base["clip"]
    assert base["residual"] > base["clip"]
    told = dict(results.select("method", "sees").unique().iter_rows())
    assert told == {
        "clip": "base only",
        "clip_prompts": "difference prompts (class texts)",
        "capt": "difference prompts (class texts); "
        "generic vocabulary and the pairs' prompts (retention)",
        "coop": "base only",
        "linear_probe": "novel images (linear probe)",
        "residual": "generic vocabulary (retention)",
    }
    for name in ("results.md", "results.csv", "report.html"):
        text = (copy / name).read_text()
        assert "novel images (linear probe)" in text, name
        assert "generic vocabulary (retention)" in text, name
