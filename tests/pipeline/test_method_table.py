"""The table of all methods: rows are fitted where they are out of date, apart from all else."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from capt_core.errors import CaptError
from capt_core.method_table import TableRow, rows_of
from stages import tables
from stages.cli import app
from stages.job_arrays import outstanding
from stages.plans import Shared, tables_plan
from stages.variation import variation, variation_at
from tests.conftest import PROJECT
from tests.pipeline.commands import SMALL, capt, contents


def run(artifacts: Path, *words: str) -> None:
    shared = ["--artifacts", str(artifacts), "--params", str(PROJECT / "params.yaml")]
    shared += [word for setting in SMALL for word in ("--set", setting)]
    app(["tables", "--seed", "1", *shared, *words], standalone_mode=False)


def test_rows_are_fitted_once_and_apart(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(copy)
    run(copy, "--row", "clip", "--method", "gda")
    after = contents(copy)
    assert {name: after[name] for name in before} == before
    assert all(name.startswith(("tables/", "work/")) for name in after.keys() - before.keys())
    told = capsys.readouterr().out
    assert "on_clip, seed 1: fit-teacher\n" in told
    assert "GDA: base " in told

    table = pl.read_csv(copy / "tables" / "table1.csv")
    fitted = table.filter(pl.col("seeds") > 0)
    assert fitted["row"].to_list() == ["clip", "gda"]
    # The same as the whole pipeline gives.
    main = pl.read_parquet(copy / "evaluations" / "proctex" / "clip-seed1.parquet")
    assert fitted["base"][0] == round(main.filter(metric="base_accuracy")["value"][0], 4)
    assert fitted["seconds"].null_count() == 0

    # A second call does nothing again, and what was lost in between is made good alone.
    (copy / "tables" / "on_clip" / "evaluations" / "proctex" / "gda-seed1.parquet").unlink()
    run(copy, "--row", "clip", "--row", "gda", "--json")
    printed = capsys.readouterr()
    again = [line for line in printed.err.splitlines() if ", seed 1: " in line]
    assert [line for line in again if "up to date" not in line] == ["gda, seed 1: evaluate"]
    found = json.loads(printed.out)["rows"]
    assert [row["base"] for row in found[:1]] == fitted["base"][:1].to_list()
    parts = {name: data for name, data in contents(copy).items() if name.startswith("tables/")}

    # A queue gets none of it, as one job or as parts.
    rows = rows_of(["clip", "gda"], ())
    settings = [*SMALL]
    params = PROJECT / "params.yaml"
    work = tables.Work.of(rows, "proctex", [1], params, copy, settings)
    assert not outstanding(tables_plan(Shared("proctex", params, copy, settings), rows, work, 1))
    (copy / "tables" / "on_clip" / "evaluations" / "proctex" / "gda-seed1.parquet").unlink()
    arrays = outstanding(tables_plan(Shared("proctex", params, copy, settings), rows, work, 1))
    assert [job.name for array in arrays for job in array.jobs] == ["gda-seed1", "table"]
    # What the parts write is what the whole wrote.
    for job in (job for array in arrays for job in array.jobs):
        app(list(job.words), standalone_mode=False)
    whole = {name: data for name, data in contents(copy).items() if name.startswith("tables/")}
    assert whole == parts

    # Rows of other settings are not shown beside those of these.
    run(copy, "--row", "clip", "--set", "methods.gda.alpha=1.0")
    shown = pl.read_csv(copy / "tables" / "table1.csv").filter(pl.col("seeds") > 0)
    assert shown["row"].to_list() == ["clip"]

    # One row that fails leaves the others; the error names it.
    def broken(job: object, row: TableRow) -> None:
        if row.name == "gda":
            raise CaptError("no images")

    monkeypatch.setattr(tables, "_bring_row", broken)
    with pytest.raises(CaptError, match=r"1 rows failed.*--row gda"):
        run(copy, "--row", "clip", "--row", "gda")
    assert "warning: gda: no images" in capsys.readouterr().err


def test_the_stages_take_a_row_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(CaptError, match=r"a row of coop, not of 'capt'; give --variant capt, "):
        capt("train", "proctex", tmp_path, SMALL, method="capt", variant="coop_augmented")
    row = variation("coop_augmented")
    assert row.entry("coop") == "coop_augmented"
    assert row.layout(tmp_path, "d").root == tmp_path / "tables" / "on_clip"
    assert row.change == {"methods": {"coop": {"images": "augmented"}}}
    model = tmp_path / "tables" / "on_clip" / "d" / "seed2" / "coop_augmented" / "model.safetensors"
    assert variation_at(model, tmp_path, "coop_augmented") == "coop_augmented"
    base = tmp_path / "tables" / "on_clip" / "d" / "seed2" / "base_model.safetensors"
    assert variation_at(base, tmp_path, "") == "on_clip"
    assert variation_at(tmp_path / "d" / "seed1" / "base_model.safetensors", tmp_path, "") is None


def test_a_data_set_without_novel_classes_has_no_such_table(tmp_path: Path) -> None:
    with pytest.raises(CaptError, match=r"mine: all classes are trained"):
        run(tmp_path, "--dataset", "mine", "--set", "data.root=/photos")
