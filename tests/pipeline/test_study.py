"""A variant from the bank to its results, and the study's tables."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from capt_core.errors import CaptError
from stages.job_arrays import outstanding
from stages.plans import Shared, study_plan
from tests.conftest import PROJECT
from tests.pipeline.commands import SMALL, capt, contents


def test_a_variant_runs_beside_the_main_artifacts(copy: Path) -> None:
    before = contents(copy)
    capt("study", "proctex", copy, SMALL, variant="without_statistics")
    capt("study", "proctex", copy, SMALL, method="clip", variant="recommended")
    capt("study-report", "proctex", copy, SMALL)
    after = contents(copy)
    assert {name: after[name] for name in before} == before
    assert all(name.startswith(("study/", "work/")) for name in after.keys() - before.keys())

    # Only the ranking differs: same bank, other scores.
    seed = copy / "study" / "without_statistics" / "proctex" / "seed1"
    main = copy / "proctex" / "seed1"
    for name in ("confusion_bank.parquet", "predictions.parquet"):
        assert pl.read_parquet(seed / name).equals(pl.read_parquet(main / name))
    pairs = pl.read_parquet(seed / "pairs.parquet")
    assert pairs["score"].equals(pairs["confidence"])

    results = pl.read_parquet(copy / "study" / "results.parquet")
    runs = results.select("method", "variant", "seed").unique().sort("method").rows()
    assert runs == [("capt", "without_statistics", 1), ("clip", "recommended", 1)]

    # A queue gets the cells that are not there, and the tables of all.
    shared = Shared("proctex", PROJECT / "params.yaml", copy, [*SMALL])
    arrays = outstanding(study_plan(shared, ["without_statistics"], (), [1], 1))
    assert not arrays
    arrays = outstanding(study_plan(shared, ["without_statistics", "paper"], (), [1], 1))
    assert [job.name for array in arrays for job in array.jobs] == ["paper-seed1", "study-report"]
    page = (copy / "study" / "study.md").read_text()
    assert "Table 6" in page
    assert (copy / "study" / "study.html").is_file()


def test_a_study_without_runs_says_how_to_get_them(small: Path) -> None:
    with pytest.raises(CaptError, match=r"no variant has been evaluated.*study/dvc\.yaml"):
        capt("study-report", "proctex", small, SMALL)
