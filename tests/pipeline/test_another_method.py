"""The README's "Another method", added from outside, goes through every command."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch

from capt_core import params
from capt_core.backbone.loading import load_backbone
from capt_core.methods import registry
from capt_core.methods.fitting import fit_method
from capt_core.methods.model_file import load_model
from tests.conftest import PROJECT
from tests.methods.toy_task import toy_task
from tests.pipeline.commands import SMALL, capt

NAME = "nearest_class_mean"


@pytest.fixture
def code(monkeypatch: pytest.MonkeyPatch) -> str:
    """The code block of the section, run with a registry that is forgotten after the test."""
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    block = readme.partition("## Another method\n")[2].partition("```python\n")[2]
    block = block.partition("```")[0]
    monkeypatch.setattr(registry, "_registered", {})
    exec(compile(block, "README.md", "exec"), {"__name__": "another_method"})
    return block


def test_it_is_short_and_known_by_its_name(code: str) -> None:
    assert len(code.splitlines()) < 30
    assert registry.method_label(NAME) == "Nearest class mean"


@pytest.mark.usefixtures("code")
def test_it_compares_with_class_means(tmp_path: Path) -> None:
    backbone = load_backbone(params.Backbone(), params.Runtime(device="cpu"))
    task = toy_task(backbone, tmp_path)
    model = fit_method(registry.method_class(NAME)(), task)
    texts = model.fitted.class_texts(model.classes)
    rows = task.few_shot_rows().filter(class_id=1)["sample_id"].to_list()
    assert task.features is not None
    mean = torch.stack([task.features()[row] for row in rows]).mean(dim=0)
    torch.testing.assert_close(texts[1], mean / mean.norm())
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model", backbone)
    assert torch.equal(loaded.fitted.class_texts(loaded.classes), texts)


@pytest.mark.usefixtures("code")
def test_it_is_trained_evaluated_and_reported(copy: Path) -> None:
    for stage in ("train", "evaluate"):
        capt(stage, "proctex", copy, SMALL, method=NAME)
    capt("report", "proctex", copy, SMALL)
    results = pl.read_parquet(copy / "results.parquet").filter(method=NAME)
    values = dict(results.select("metric", "value").iter_rows())
    clip = pl.read_parquet(copy / "results.parquet").filter(method="clip")
    before = dict(clip.select("metric", "value").iter_rows())
    assert values["base_accuracy"] > 50
    assert values["novel_accuracy"] == before["novel_accuracy"]
    assert values["bank_correction_rate"] > 0
    assert set(results["sees"]) == {"base only"}
    for name in ("results.md", "report.html"):
        assert "Nearest class mean" in (copy / name).read_text(encoding="utf-8")


@pytest.mark.usefixtures("code")
def test_an_installed_package_names_it_as_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    found = registry.method_class(NAME)

    class Point:
        name = NAME

        @staticmethod
        def load() -> object:
            return found

    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(registry, "_installed", lambda: {NAME: Point})
    assert registry.method_class(NAME) is found
    assert registry.method_names()[-1] == NAME
