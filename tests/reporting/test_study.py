"""The study's tables: measured means, clear differences, and the verdict on tendencies."""

from __future__ import annotations

import polars as pl
import pytest

from capt_core.reporting.study import (
    difference,
    measure,
    table_cells,
    tendency,
    to_html,
    to_markdown,
)
from capt_core.study import FULL, Row, Table, tables

FULL_ROW = Row("with", paper=(87.41, 80.90, 83.90))
OTHER = Row("without", "other", paper=(86.77, 78.84, 82.62))
TABLE = Table("statistics", "Statistics", "Table 6", (OTHER, FULL_ROW), FULL_ROW)


def results(values: dict[str, list[tuple[float, float, float]]]) -> pl.DataFrame:
    """Rows of `results`: per variant, base, novel and harmonic mean of each seed."""
    metrics = ("base_accuracy", "novel_accuracy", "harmonic_mean")
    rows = [
        ("proctex", "capt", variant, "base_to_novel", seed, name, value, 10, "base only")
        for variant, seeds in values.items()
        for seed, triple in enumerate(seeds, start=1)
        for name, value in zip(metrics, triple, strict=True)
    ]
    columns = ["dataset", "method", "variant", "protocol", "seed", "metric", "value", "n", "sees"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def test_the_harmonic_mean_is_taken_of_the_means() -> None:
    found = measure(results({FULL: [(60.0, 90.0, 72.0), (90.0, 60.0, 72.0)]}), FULL_ROW)
    assert (found["base_accuracy"].mean, found["base_accuracy"].sd) == (75.0, 15.0)
    assert found["harmonic_mean"].mean == 75.0  # of 75 and 75, not the mean of 72 and 72
    assert measure(results({FULL: [(1.0, 1.0, 1.0)]}), OTHER) == {}


def test_a_difference_is_paired_and_clear_beyond_two_standard_errors() -> None:
    # Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3) = 0.577, so 2 is clear.
    close = results(
        {"other": [(0, 0, 70), (0, 0, 50), (0, 0, 60)], FULL: [(0, 0, 71), (0, 0, 52), (0, 0, 63)]}
    )
    found = difference(close, OTHER, FULL_ROW, "harmonic_mean")
    assert found is not None
    assert found[0] == pytest.approx(2.0)
    assert found[1]
    # Differences -1, 1, 3: mean 1, standard error 2 / sqrt(3) = 1.155.
    noisy = results(
        {"other": [(0, 0, 70), (0, 0, 50), (0, 0, 60)], FULL: [(0, 0, 69), (0, 0, 51), (0, 0, 63)]}
    )
    found = difference(noisy, OTHER, FULL_ROW, "harmonic_mean")
    assert found is not None
    assert found[0] == pytest.approx(1.0)
    assert not found[1]
    single = results({"other": [(0, 0, 70)], FULL: [(0, 0, 69)]})
    assert difference(single, OTHER, FULL_ROW, "harmonic_mean") is None


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [((71.0, 72.0), "agrees"), ((69.0, 68.0), "disagrees"), ((75.0, 66.0), "no clear difference")],
)
def test_the_verdict_compares_directions(ours: tuple[float, float], verdict: str) -> None:
    found = results(
        {"other": [(70, 70, 70), (70, 70, 70)], FULL: [(value, value, value) for value in ours]}
    )
    assert verdict in tendency(found, TABLE)
    assert "+1.28 in the paper" in tendency(found, TABLE)


def test_a_curve_is_judged_by_its_best_setting() -> None:
    full = Row("5", setting=5)
    table = Table("scale", "s", "Figure 10", (Row("1", "other", setting=1), full), full)
    worse = results({"other": [(60, 60, 60), (61, 61, 61)], FULL: [(70, 70, 70), (71, 71, 71)]})
    assert "Best at 5, as in the paper: agrees." in tendency(worse, table)
    better = results({"other": [(80, 80, 80), (81, 81, 81)], FULL: [(70, 70, 70), (71, 71, 71)]})
    assert "Best at 1, +10.00" in tendency(better, table)
    assert "disagrees" in tendency(better, table)
    # A lead that is within its errors is no verdict, whoever leads.
    noisy = [(70.0, 70.0, 70.0), (60.0, 60.0, 60.0)], [(60.0, 60.0, 60.0), (69.0, 69.0, 69.0)]
    ahead = results({"other": noisy[1], FULL: noisy[0]})
    found = tendency(ahead, table)
    assert found == "Best at 5, as in the paper: no clear difference here from 1."
    behind = results({"other": noisy[0], FULL: noisy[1]})
    assert tendency(behind, table).endswith("no clear difference here.")


CURVE = Table(
    "scale",
    "s",
    "Figure 10",
    (Row("1", "one", setting=1), Row("5", setting=5), Row("10", "ten", setting=10)),
    Row("5", setting=5),
)


@pytest.mark.parametrize("table", [TABLE, CURVE])
def test_there_is_no_verdict_before_every_row_was_run_on_every_draw(table: Table) -> None:
    seeds = [(60.0, 60.0, 60.0), (61.0, 61.0, 61.0)]
    every = {row.variant: seeds for row in table.rows}
    whole = tendency(results(every), table)
    assert "agrees" in whole or "no clear difference" in whole
    for row in table.rows:
        for fewer in ([], seeds[:1]):
            found = tendency(results({**every, row.variant: fewer}), table)
            assert found == f"No verdict; not run on every draw: {row.label}."
    # What was not run at all needs no words, and neither does a run without a harmonic mean.
    assert tendency(results({"another": seeds}), table) == ""
    alone = results(every).with_columns(metric=pl.lit("accuracy"))
    assert tendency(alone, table) == ""


def test_what_was_not_run_is_a_dash() -> None:
    headings, rows = table_cells(results({FULL: [(1, 2, 3)]}), TABLE)
    assert rows[0][1:7] == ["–"] * 6
    assert rows[1][1] == "1.00 ± 0.00"
    assert headings[-3:] == ["Paper: base", "novel", "HM"]
    assert rows[1][-3:] == ["87.41", "80.90", "83.90"]


def test_both_pages_show_every_table() -> None:
    found = results(
        {FULL: [(70, 71, 70.5), (72, 70, 71.0)], "sem_only": [(60, 60, 60), (61, 62, 61.5)]}
    )
    markdown, page = to_markdown(found, tables(), 3360), to_html(found, tables(), 3360)
    for table in tables():
        assert f"## {table.title}" in markdown
        assert f'id="{table.name}"' in page
    assert "3,360 test images, 2 seeds" in markdown
    assert "<script" not in page
    assert to_html(found, tables(), 3360) == page
