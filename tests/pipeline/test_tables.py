"""The tables that people open, as the README and artifacts/README.md promise them."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

from capt_core.artifacts.report_tables import RUN_CHANGES
from capt_core.artifacts.schemas import ALL_TABLES, open_table
from capt_core.artifacts.tables import Table, read_record


def read(artifacts: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(artifacts / name)


WRITTEN = [table for table in ALL_TABLES if table is not RUN_CHANGES]  # it compares two runs


@pytest.mark.parametrize("table", WRITTEN, ids=lambda table: str(table.name))
def test_tables_are_where_they_are_declared_to_be(small: Path, table: Table) -> None:
    found = sorted(small.glob(re.sub("<[A-Za-z]+>", "*", table.path)))
    assert found
    for path in found:
        assert read_record(path)["table"] == table.name
        open_table(path)


def test_bank_holds_the_wrong_training_images_of_the_draw(small: Path) -> None:
    bank = read(small, "proctex/seed1/confusion_bank.parquet")
    drawn = read(small, "proctex/fewshot/shots8-seed1.parquet").filter(split="train")
    predictions = read(small, "proctex/seed1/predictions.parquet").filter(
        pl.col("sample_id").is_in(drawn["sample_id"].implode()), pl.col("group") == "base"
    )
    wrong = predictions.filter(~pl.col("correct"))
    assert len(predictions) == 15 * 8
    assert 0 < len(wrong) < len(predictions)
    assert sorted(bank["sample_id"]) == sorted(wrong["sample_id"])
    assert (bank["true_class_id"] != bank["predicted_class_id"]).all()
    assert (bank["confidence"] >= bank["true_confidence"]).all()


def test_scores_are_equation_7(small: Path) -> None:
    pairs = read(small, "proctex/seed1/pairs.parquet")
    statistics = read(small, "proctex/seed1/confusion_statistics.parquet")
    rows = dict(statistics.group_by("true_class_id").agg(pl.col("count").sum()).iter_rows())
    cells = {
        (g, p): n
        for g, p, n in statistics.select("true_class_id", "predicted_class_id", "count").iter_rows()
    }
    columns = ("pseudo_label_id", "class_id", "confidence", "count", "score")
    for pseudo, other, confidence, count, score in pairs.select(columns).iter_rows():
        assert count == cells.get((pseudo, other), 0)
        assert score == pytest.approx((1 + count / max(1, rows.get(pseudo, 0))) * confidence)
        assert pseudo != other
    sizes = pairs.group_by("sample_id").len()["len"].unique().to_list()
    assert sizes == [5]


def test_nothing_novel_is_mined(small: Path) -> None:
    novel = read(small, "proctex/classes.parquet").filter(group="novel")["class_id"].to_list()
    for name, columns in {
        "confusion_bank": ["true_class_id", "predicted_class_id"],
        "pairs": ["class_id", "pseudo_label_id"],
        "class_pairs": ["class_id", "paired_class_id"],
        "prompts": ["class_id", "paired_class_id"],
        "prompt_clusters": ["class_id"],
        "representatives": ["class_id"],
    }.items():
        table = read(small, f"proctex/seed1/{name}.parquet")
        for column in columns:
            assert not table[column].is_in(novel).any(), f"{name}.{column}"


def test_results_hold_every_metric_of_every_run(small: Path) -> None:
    results = read(small, "results.parquet")
    metrics = {
        "base_accuracy",
        "novel_accuracy",
        "harmonic_mean",
        "bank_correction_rate",
        "base_correction_rate",
        "base_broken_rate",
        "test_correction_rate",
        "broken_rate",
    }
    for method in ("clip", "capt"):
        assert set(results.filter(method=method)["metric"]) == metrics
    clip = dict(results.filter(method="clip").select("metric", "value").iter_rows())
    assert clip["broken_rate"] == clip["bank_correction_rate"] == 0
    test = read(small, "proctex/seed1/predictions.parquet").filter(split="test", group="base")
    assert clip["base_accuracy"] == pytest.approx(100 * test["correct"].mean())  # type: ignore[operator]
    assert results.filter(metric="base_accuracy")["n"].to_list() == [90, 90]
