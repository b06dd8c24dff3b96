"""Every stage on real photographs, with the embedded backbone."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tests.pipeline.commands import run_pipeline


def test_describable_textures(shared: Path, tmp_path: Path) -> None:
    settings = [
        f"data.root={shared}/data/coop_root",
        "methods.capt.train.epochs=1",
        "methods.capt.train.batch_size=16",
    ]
    run_pipeline(tmp_path, "dtd", settings)
    samples = pl.read_parquet(tmp_path / "dtd/samples.parquet")
    classes = pl.read_parquet(tmp_path / "dtd/classes.parquet")
    sizes = dict(samples["split"].value_counts().iter_rows())
    assert sizes == {"train": 600, "val": 240, "test": 360}
    base = classes.filter(group="base")["class_name"].to_list()
    assert base == ["banded", "blotchy", "braided", "bubbly", "bumpy"]
    drawn = pl.read_parquet(tmp_path / "dtd/fewshot/shots16-seed1.parquet")
    assert drawn["path"][0] == "banded/banded_0117.jpg"
    # Four other base classes exist, so four pairs are all there can be.
    pairs = pl.read_parquet(tmp_path / "dtd/seed1/pairs.parquet")
    assert pairs.group_by("sample_id").len()["len"].unique().to_list() == [4]
    sources = set(pl.read_parquet(tmp_path / "dtd/seed1/prompts.parquet")["source"])
    assert sources == {"shipped with the package"}
    results = pl.read_parquet(tmp_path / "results.parquet")
    assert results.filter(metric="base_accuracy")["n"].to_list() == [180, 180]
