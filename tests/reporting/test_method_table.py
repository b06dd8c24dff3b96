"""The table of all methods: blocks by what was seen, means over seeds, rows that are missing."""

from __future__ import annotations

import polars as pl
import pytest

from capt_core.method_table import TableRow
from capt_core.reporting.method_table import (
    COLUMNS,
    EFFORT,
    INDUCTIVE,
    NOT_FITTED,
    TRANSDUCTIVE,
    block_of,
    in_words,
    method_table,
    to_html,
    to_markdown,
)

METRICS = ("base_accuracy", "novel_accuracy", "harmonic_mean", "test_correction_rate")
ROWS = [
    TableRow("clip", "clip", "on_clip", {}),
    TableRow("coop", "coop", "on_clip", {}, "CoOp <stored>", (82.69, 63.22, 71.66)),
    TableRow("probe", "linear_probe", "on_clip", {}),
    TableRow("gone", "absent", "on_clip", {}),
]


@pytest.mark.parametrize(
    ("sees", "block"),
    [
        ("base only", INDUCTIVE),
        ("validation images (alpha, beta)", INDUCTIVE),
        ("descriptions of novel classes (class texts)", INDUCTIVE),
        ("all base training images (shots); novel names (retention)", INDUCTIVE),
        ("unlabelled images of base classes", INDUCTIVE),
        ("novel images (linear probe)", TRANSDUCTIVE),
        ("validation images (alpha); unlabelled training images", TRANSDUCTIVE),
        ("all training images of all classes, unlabelled", TRANSDUCTIVE),
        ("unlabelled training images of base and novel classes", TRANSDUCTIVE),
    ],
)
def test_who_has_seen_novel_images_is_in_a_block_of_their_own(sees: str, block: str) -> None:
    assert block_of(sees) == block


@pytest.fixture
def table() -> pl.DataFrame:
    measured = {
        ("clip", "clip", "base only"): [(60.0, 70.0, 64.6, 0.0)] * 2,
        ("coop", "coop", "base only"): [(60.0, 90.0, 72.0, 10.0), (90.0, 60.0, 72.0, 30.0)],
        ("probe", "linear_probe", "novel images (linear probe)"): [(80.0, 80.0, 80.0, 50.0)],
    }
    results = pl.DataFrame(
        [
            ("proctex", method, row, seed, metric, value, sees)
            for (row, method, sees), seeds in measured.items()
            for seed, values in enumerate(seeds, start=1)
            for metric, value in zip(METRICS, values, strict=True)
        ],
        schema=["dataset", "method", "variant", "seed", "metric", "value", "sees"],
        orient="row",
    )
    # The second fit was interrupted: nobody knows what it took.
    efforts = pl.DataFrame(
        [("coop", 1, 512, 4.0), ("coop", 2, 512, None)], schema=EFFORT, orient="row"
    )
    return method_table(results, efforts, ROWS)


def test_a_row_has_means_and_what_its_fits_took(table: pl.DataFrame) -> None:
    clip, coop, probe, gone = table.to_dicts()
    assert (coop["base"], coop["base_sd"], coop["novel"], coop["hm"]) == (75.0, 15.0, 75.0, 75.0)
    assert (coop["corrected"], coop["corrected_sd"]) == (20.0, 10.0)
    assert (coop["parameters"], coop["seconds"], coop["seeds"]) == (512, 4.0, 2)
    assert (coop["paper_base"], coop["block"]) == (82.69, INDUCTIVE)
    assert (clip["base"], clip["corrected"]) == (60.0, None)  # it is its own base model
    assert (probe["block"], probe["seeds"]) == (TRANSDUCTIVE, 1)
    assert (gone["label"], gone["base"], gone["block"], gone["seeds"]) == (
        "gone",
        None,
        NOT_FITTED,
        0,
    )
    assert in_words(gone) == "gone: not fitted yet"
    assert in_words(coop).startswith("CoOp <stored>: base 75.00 ± 15.00, novel 75.00 ± 15.00")
    assert "4.0 s a fit, 512 parameters" in in_words(coop)


def test_the_files_have_every_row_in_its_block(table: pl.DataFrame) -> None:
    again = pl.read_csv(table.write_csv().encode(), schema=COLUMNS)
    assert again.equals(table)
    text = to_markdown(again)
    assert text.index("## Inductive") < text.index("CoOp <stored>") < text.index("## Transductive")
    assert text.index("Linear probe (1 of 2 seeds)") < text.index("## Not fitted yet")
    assert "| gone | – |" in text
    assert "learning rates" not in text  # no row is tuned
    page = to_html(table)
    assert "CoOp &lt;stored&gt;" in page
    assert "CoOp <stored>" not in page
    assert page.count("data:image/svg+xml") == 2
    assert "default-src 'none'" in page


def test_tuned_rows_stand_apart_with_their_trials(table: pl.DataFrame) -> None:
    tuned = table.with_columns(tuned=pl.col("row") == "coop")
    text = to_markdown(tuned)
    assert "## Inductive, learning rate tuned" in text
    assert "learning rates, as many for every method" in text


def test_a_table_without_any_run_can_be_written() -> None:
    results = pl.DataFrame(
        schema={"dataset": str, "method": str, "variant": str, "seed": int, "metric": str}
        | {"value": float, "sees": str}
    )
    table = method_table(results, pl.DataFrame(schema=EFFORT), ROWS)
    assert to_markdown(table).count("not fitted") + to_markdown(table).count("Not fitted") == 1
    assert "data:image" not in to_html(table)
