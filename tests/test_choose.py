"""Variants are compared on the same folds, by paired differences."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

import capt_core
from benchmarks.choose import (
    MEASURES,
    Case,
    Drawing,
    main,
    named_changes,
    paired,
    summarise,
)
from capt_core.errors import CaptError

RESULTS = pl.DataFrame(
    {
        "row": ["one", "one", "one", "two", "two", "two"],
        "case": ["a", "b", "c", "b", "a", "c"],
        "base": [80.0, 82.0, 84.0, 84.0, 81.0, 87.0],
        "novel": [70.0, 72.0, None, 71.0, 70.0, None],
        "frozen_novel": [70.0, 70.0, None, 70.0, 70.0, None],
        "corrected": [50.0] * 6,
        "broken": [4.0] * 6,
    }
)


def test_differences_are_paired_by_case() -> None:
    # +1, +2, +3: mean 2, standard deviation 1, of three cases.
    assert paired(RESULTS, "two", "one", "base") == pytest.approx((2.0, 3**-0.5))
    assert paired(RESULTS, "two", "one", "novel") == pytest.approx((-0.5, 0.5))
    assert paired(RESULTS.filter(case="a"), "two", "one", "base") == (1.0, None)
    assert paired(RESULTS.filter(case="c"), "two", "one", "novel") == (None, None)
    line = summarise(RESULTS).row(1, named=True)
    assert line["Δ base"] == "+2.00 ± 0.58"
    assert line["novel change"] == pytest.approx(0.5)


def test_rows_of_a_fold(tmp_path: Path) -> None:
    textures = capt_core.open_dataset("proctex", folder=tmp_path, images=(2, 1, 1), seed=7)
    drawing = Drawing.of(textures, capt_core.load_backbone())
    case = Case(drawing, ("stripes",), 1, tmp_path / "work")
    quick = {
        "train": {"epochs": 2, "batch_size": 4, "warmup_epochs": 0},
        "adapter": {"blocks": 0},
        "experts": {"granularities": ["sample"]},
    }
    names = ["rows_zone", "with_discriminant"]
    rows = ["gda_prompts", "gda_prompts:alpha=0,difference_weight=0"]
    found = dict(case.rows(names, rows, quick))
    assert list(found) == [*names, *rows]
    assert found[rows[1]]["corrected"] == 0.0  # the settings are taken: it is the frozen model
    for values in found.values():
        assert all(0 <= (values[measure] or 0) <= 100 for measure in MEASURES)
    # Nothing is added to the logits of classes without images.
    assert found["gda_prompts"]["novel"] == found["gda_prompts"]["frozen_novel"]
    with pytest.raises(CaptError, match="coop_base: changes more than"):
        list(case.rows(["coop_base"], [], {}))


def test_settings_of_a_method_stand_behind_its_name() -> None:
    assert named_changes("coop") == ("coop", {"methods": {"coop": {}}})
    name, change = named_changes("capt:train.epochs=3,losses.margin=0.5")
    assert change == {"methods": {name: {"train": {"epochs": 3}, "losses": {"margin": 0.5}}}}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("coop:epochs", "--method 'epochs': give KEY=VALUE"),
        ("coop:epoch=3", "methods.coop.epoch: "),
        ("coop:epochs=0", "methods.coop.epochs: "),
        ("coup", "unknown method 'coup'"),
    ],
)
def test_a_row_that_cannot_be_fitted_is_refused_at_once(
    row: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--method", row])
    assert told in capsys.readouterr().err
