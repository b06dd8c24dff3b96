"""The methods beside CAPT go through evaluation without encoding an image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
from PIL import Image

from capt_core.methods.model_file import load_model

METHODS = (
    "clip_prompts",
    "cupl",
    "fudd",
    "linear_probe",
    "tip_adapter",
    "gda",
    "gda_prompts",
    "coop",
    "clip_adapter",
    "tip_adapter_f",
    "residual_adapter",
)
QUICK = (
    "methods.linear_probe.strength=10",
    "methods.coop.epochs=5",
    "methods.clip_adapter.epochs=60",
    "methods.clip_adapter.learning_rate=0.2",
    "methods.residual_adapter.epochs=20",
)


@torch.no_grad()
def assert_scored_as_by_its_model(artifacts: Path, method: str) -> None:
    """What evaluate wrote is what the model file says of the images."""
    run = artifacts / "proctex/seed1" / method
    model = load_model(run / "model.safetensors")
    written = pl.read_parquet(run / "predictions.parquet").filter(split="test")
    classes = pl.read_parquet(artifacts / "proctex/classes.parquet")
    for group in ("base", "novel"):
        table = written.filter(group=group)[:8]
        ids = classes.filter(group=group)["class_id"]
        files = [artifacts / "proctex/images" / path for path in table["path"]]
        batch = torch.stack([model.preprocess(Image.open(file)) for file in files])
        confidences = model.fitted(batch, model.classes.only(ids.to_list())).softmax(dim=1)
        found, places = confidences.max(dim=1)
        assert ids.gather(places).to_list() == table["pseudo_label_id"].to_list(), method
        torch.testing.assert_close(
            found.double(), table["confidence"].to_torch(), rtol=1e-3, atol=1e-4
        )


def test_feature_methods_are_scored_from_stored_features(
    copy: Path,
    again: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an image was encoded")

    monkeypatch.setattr("capt_core.methods.fitting.encode_images", refuse)
    for method in METHODS:
        again("train", *QUICK, method=method)
        again("evaluate", *QUICK, method=method)
    said = capsys.readouterr().out
    assert "sees: novel images (linear probe)" in said
    again("report")
    results = pl.read_parquet(copy / "results.parquet")
    base = dict(results.filter(metric="base_accuracy").select("method", "value").iter_rows())
    assert set(base) == {"clip", "capt", *METHODS}
    for method in METHODS:
        assert base[method] > base["clip"] or method == "coop"
    assert dict(results.select("method", "sees").unique().iter_rows()) == {
        "clip": "base only",
        "clip_prompts": "difference prompts (class texts)",
        "capt": "difference prompts (class texts); "
        "generic vocabulary and the pairs' prompts (retention)",
        "cupl": "descriptions of base classes (class texts); "
        "descriptions of novel classes (class texts)",
        "fudd": "difference prompts of pairs of base classes (class texts); "
        "difference prompts of pairs of novel classes (class texts)",
        "tip_adapter": "validation images (alpha, beta)",
        "tip_adapter_f": "validation images (alpha, beta)",
        "gda": "validation images (alpha)",
        "gda_prompts": "difference prompts (class texts); validation images (alpha)",
        "coop": "base only",
        "clip_adapter": "base only",
        "linear_probe": "novel images (linear probe)",
        "residual_adapter": "difference prompts (class texts); generic vocabulary (retention)",
    }
    for method in ("clip", "capt", *METHODS):
        assert_scored_as_by_its_model(copy, method)
    for name in ("results.md", "results.csv", "report.html"):
        text = (copy / name).read_text()
        assert "novel images (linear probe)" in text, name
        assert "generic vocabulary (retention)" in text, name
