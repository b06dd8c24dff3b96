"""The declared rows of the table of all methods: settings that exist, the paper's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from capt_core import method_table, study
from capt_core.method_table import bases, rows_of, table_rows, trials
from capt_core.methods import registry
from capt_core.params import load_settings
from capt_core.yaml_file import parse_yaml
from tests.refusals import refusal

ADDED = """
paper: {CoOp: [80, 60, 68.57]}
bases: {on_clip: {}, on_coop: {fit_teacher: {method: coop}}}
rows:
  clip: {}
  other: {method: coop, label: Other, base: on_coop, paper: CoOp, settings: {epochs: 3}}
tuned: {trials: 5, rows: {other: {learning_rate: 0.01}}}
"""
CACHED = (bases, table_rows, method_table._declared)


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tables.yaml"
    path.write_text(ADDED)
    monkeypatch.setattr(method_table, "DECLARED", path)
    for each in CACHED:
        each.cache_clear()
        monkeypatch.setattr(method_table, each.__name__, each.__wrapped__)


@pytest.mark.parametrize("name", table_rows())
def test_a_row_has_a_method_and_settings_that_exist(name: str) -> None:
    row = table_rows()[name]
    load_settings(None, change=row.change)
    registry.configured_method(row.method, None, change=row.change)
    assert load_settings(None, change=bases()[row.base])[0].fit_teacher.method != row.method or (
        row.method == registry.BASE_METHOD
    )


def test_every_method_of_the_project_has_a_row() -> None:
    assert registry._BUILT_IN.keys() <= {row.method for row in table_rows().values()}


def test_names_differ_from_those_of_the_studys_variants() -> None:
    assert study.variants().keys().isdisjoint({*table_rows(), *bases()})


def test_the_papers_numbers_are_consistent() -> None:
    for name, (base, novel, mean) in method_table._declared().paper.items():
        # Means over data sets, some of them misprinted: 0.2 points.
        assert mean == pytest.approx(2 * base * novel / (base + novel), abs=0.2), name


@pytest.mark.usefixtures("added")
def test_a_row_joins_its_base_models_change_and_its_own() -> None:
    clip, other, tuned = method_table.table_rows().values()
    assert (clip.method, clip.label, clip.change, clip.paper) == ("clip", "", {}, None)
    change = {"fit_teacher": {"method": "coop"}, "methods": {"coop": {"epochs": 3}}}
    assert (other.change, other.paper, other.tuned) == (change, (80.0, 60.0, 68.57), False)
    assert tuned.name == "other_tuned"
    assert tuned.tuned
    assert tuned.change["methods"] == {"coop": {"epochs": 3, "learning_rate": 0.01}}
    assert trials() == 5


def test_rows_are_chosen_by_name_and_method() -> None:
    assert rows_of([], []) == list(table_rows().values())
    coop = [row.name for row in rows_of([], ["coop"])]
    assert coop == ["coop", "coop_augmented"]
    assert [row.name for row in rows_of(["clip"], ["coop"])] == ["clip", *coop]
    assert "--row: no row of 'cop'; known: clip" in refusal(rows_of, ["cop"], [])
    assert "did you mean maple?" in refusal(rows_of, [], ["mapel"])


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("base: on_coop", "base: on_other", "no base model on_other"),
        ("paper: CoOp,", "paper: CoCoOp,", "the paper has no CoCoOp"),
        ("rows: {other:", "rows: {third:", "tuned: no rows"),
        ("  clip: {}", "  on_clip: {}", "both a base model and a row"),
    ],
)
def test_a_wrong_name_is_refused(right: str, wrong: str, told: str) -> None:
    declared = parse_yaml(ADDED.replace(right, wrong), "").value
    with pytest.raises(ValueError, match=told):
        method_table._Declared.model_validate(declared)
