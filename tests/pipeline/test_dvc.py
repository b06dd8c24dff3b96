"""dvc.yaml says what the stages do."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from stages import cli
from tests.pipeline.code_use import ROOT, imported_files, settings_read

STAGES = [module.__name__.rpartition(".")[2] for module in cli.PIPELINE]
DVC: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
SHARED_KEYS = ("per_dataset", "seeds")
STUDY: dict[str, Any] = yaml.safe_load((ROOT / "study" / "dvc.yaml").read_text())["stages"]
BEHIND_FEATURES = (*STAGES[2:-3], "train", "evaluate")


def test_one_word_names_stage_file_and_section() -> None:
    sections = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert list(DVC) == [name.replace("_", "-") for name in STAGES]
    assert [name for name in sections if name in STAGES] == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_declared_files_are_the_imported_ones(stage: str) -> None:
    declared = {path for path in DVC[stage.replace("_", "-")]["deps"] if path.endswith(".py")}
    assert declared == imported_files(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_declared_settings_are_the_ones_read(stage: str) -> None:
    declared = DVC[stage.replace("_", "-")].get("params", [])
    assert {key for key in declared if not key.startswith(SHARED_KEYS)} == settings_read(stage)


def test_every_input_is_an_output_or_a_file_of_the_project() -> None:
    outputs = {out for stage in DVC.values() for out in stage["outs"]}
    for name, stage in DVC.items():
        for dep in stage["deps"]:
            if dep.startswith("artifacts/"):
                produced = any(
                    out == dep or out.startswith(f"{dep}/") or dep.startswith(f"{out}/")
                    for out in outputs
                )
                assert produced, f"{name} reads {dep}, which no stage writes"
            else:
                assert (ROOT / dep).exists(), f"{name} depends on {dep}, which is not there"


def test_answers_of_language_models_are_no_outputs() -> None:
    # DVC deletes outputs before a stage runs and rolls them back with the lock file.
    for name, stage in DVC.items():
        assert not any("cache" in str(out) for out in stage["outs"]), name


def test_every_data_set_of_the_matrix_has_its_own_settings() -> None:
    document = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert set(document["datasets"]) <= set(document["per_dataset"])


def test_the_study_declares_what_its_stages_import_and_read() -> None:
    for stage, command in (("variant", "study"), ("tables", "study_report")):
        declared = {path for path in STUDY[stage]["deps"] if path.endswith(".py")}
        assert declared == imported_files(command)
    read = {key for stage in BEHIND_FEATURES for key in settings_read(stage)}
    own = {"seeds", "study.methods", "variants.${item.variant}"}
    assert set(STUDY["variant"]["params"]) == read | own


def test_the_study_s_tables_depend_on_every_variant() -> None:
    variants = yaml.safe_load((ROOT / "params.yaml").read_text())["study"]["variants"]
    outputs = {path for path in STUDY["tables"]["deps"] if path.startswith("artifacts/study/")}
    assert outputs == {f"artifacts/study/{name}" for name in variants}
