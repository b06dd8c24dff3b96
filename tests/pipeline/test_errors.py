"""A user's mistake ends in one line that says what, where and what to do, and exit code 2."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from safetensors.torch import save_file

from capt_core.artifacts.locks import exclusive
from capt_core.artifacts.tensors import load_sealed, save_sealed
from capt_core.backbone.tiny_clip import build_model
from capt_core.methods.model_file import load_model
from tests.data.own_images import dtd
from tests.pipeline.commands import BEFORE_TRAINING, SMALL, arguments, capt, command
from tests.refusals import refusal


def refused(stage: str, dataset: str, artifacts: Path, *overrides: str) -> str:
    """The message of a refused stage."""
    return refusal(capt, stage, dataset, artifacts, overrides)


def test_one_line_and_exit_code_2(tmp_path: Path) -> None:
    words = arguments("mine-pairs", "proctex", tmp_path, ["mine_pairs.pairz=3"])
    result = command(words)
    assert result.returncode == 2
    assert result.stdout == ""
    # On a slow machine a line before it says that libraries are loaded.
    expected = "error: --set: mine_pairs.pairz: unknown key; did you mean pairs?"
    assert result.stderr.splitlines()[-1] == expected


def test_set_is_refused_under_dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "prepare@proctex")
    assert "edit params.yaml" in refused("prepare", "proctex", tmp_path, "fewshot.shots=1")


@pytest.mark.parametrize(
    ("stage", "missing", "remedy"),
    [
        ("extract-features", "samples.parquet", "prepare"),
        ("infer-teacher", "image_features.parquet", "extract-features"),
        ("infer-teacher", "seed1/base_model.safetensors", "fit-teacher"),
        ("build-bank", "seed1/predictions.parquet", "infer-teacher"),
        ("build-bank", "fewshot/shots8-seed1.parquet", "prepare"),
        ("mine-pairs", "seed1/confusion_statistics.parquet", "build-bank"),
        ("mine-pairs", "seed1/base_text_features.parquet", "fit-teacher"),
        ("generate-prompts", "seed1/class_pairs.parquet", "mine-pairs"),
        ("cluster-prompts", "seed1/prompts.parquet", "generate-prompts"),
        ("mine-samples", "seed1/pairs.parquet", "mine-pairs"),
        ("train", "seed1/prompt_centres.safetensors", "cluster-prompts"),
        ("train", "seed1/representatives.parquet", "mine-samples"),
        ("evaluate", "seed1/capt/model.safetensors", "train"),
    ],
)
def test_missing_input_names_the_command(copy: Path, stage: str, missing: str, remedy: str) -> None:
    (copy / "proctex" / missing).unlink()
    message = refused(stage, "proctex", copy, *SMALL)
    assert missing.split("/")[-1] in message
    assert f"run: capt-stage {remedy} --dataset proctex" in message


def test_report_without_runs(tmp_path: Path) -> None:
    assert "run: capt-stage prepare --dataset" in refused("report", "proctex", tmp_path)


def test_unreadable_image_is_named_or_quarantined(tmp_path: Path) -> None:
    root = dtd(tmp_path / "data", ("banded", "dotted", "lined", "woven"))
    bad = root / "dtd/images/banded/banded_0.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    setting = f"data.root={root}"
    message = refused("prepare", "dtd", tmp_path / "a", setting)
    assert str(bad) in message
    assert "data.on_bad_image=quarantine" in message
    assert not (tmp_path / "a/dtd/samples.parquet").exists()

    capt("prepare", "dtd", tmp_path / "a", [setting, "data.on_bad_image=quarantine"])
    rejected = pl.read_parquet(tmp_path / "a/dtd/rejected.parquet")
    samples = pl.read_parquet(tmp_path / "a/dtd/samples.parquet")
    assert rejected["path"].to_list() == ["banded/banded_0.jpg"]
    assert len(samples) == 4 * 6 - 1
    assert samples["sample_id"].to_list() == list(range(len(samples)))


def test_leaving_out_an_image_that_prepare_did_not_look_at_looks_at_it(tmp_path: Path) -> None:
    root = dtd(tmp_path / "data", ("banded", "dotted", "lined", "woven"))
    bad = root / "dtd/images/banded/banded_0.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    given = [f"data.root={root}", "prepare.check_images=none"]
    capt("prepare", "dtd", tmp_path / "a", given)
    message = refused("extract-features", "dtd", tmp_path / "a", *given)
    advised = "--set data.on_bad_image=quarantine --set prepare.check_images=decode"
    assert message.rstrip().endswith(advised)


def test_class_left_without_images(tmp_path: Path) -> None:
    root = dtd(tmp_path / "data", ("banded", "dotted", "lined", "woven"))
    for index in range(3):
        (root / f"dtd/images/lined/lined_{index}.jpg").unlink()
    message = refused(
        "prepare", "dtd", tmp_path / "a", f"data.root={root}", "data.on_bad_image=quarantine"
    )
    assert "lined" in message
    assert "no training images" in message


def test_a_single_base_class_has_nothing_to_be_confused_with(tmp_path: Path) -> None:
    message = refused("prepare", "dtd", tmp_path / "a", f"data.root={dtd(tmp_path / 'data')}")
    assert "base half has only 1" in message
    assert "data.protocol=all_classes" in message


def test_artifact_of_another_data_set(copy: Path, tmp_path: Path) -> None:
    overrides = ["prepare.proctex_seed=5", *SMALL]
    capt("prepare", "proctex", tmp_path / "other", overrides)
    for name in ("samples.parquet", "classes.parquet"):
        shutil.copy(tmp_path / "other/proctex" / name, copy / "proctex" / name)
    message = refused("build-bank", "proctex", copy, *SMALL)
    assert "made from other images or classes" in message
    assert "capt-stage" in message


def random_weights(path: Path) -> str:
    """The setting that takes fresh weights for the embedded CLIP."""
    state = {name: value.contiguous() for name, value in build_model().state_dict().items()}
    save_file(state, path)
    return f"backbone.checkpoint={path}"


def test_artifact_of_another_backbone(copy: Path, tmp_path: Path) -> None:
    setting = random_weights(tmp_path / "other.safetensors")
    message = refused("mine-pairs", "proctex", copy, *SMALL, setting)
    assert "made from another backbone" in message
    # The frozen features are of the other one, too, and come first.
    assert "run: capt-stage extract-features --dataset proctex" in message


def test_untrained_weights_are_called_so(
    copy: Path, again: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = random_weights(tmp_path / "random.safetensors")
    for stage in BEFORE_TRAINING[1:]:
        again(stage, setting)
    again("train", setting, "methods.capt.train.epochs=1", method="capt")
    capsys.readouterr()
    again("evaluate", setting, "methods.capt.train.epochs=1", method="capt")
    assert "these numbers mean nothing" in capsys.readouterr().out
    again("train", setting, method="clip")
    again("evaluate", setting, method="clip")
    again("report", setting)
    assert "these numbers mean nothing" in (copy / "report.html").read_text()
    assert "these numbers mean nothing" in (copy / "results.md").read_text()


def test_artifacts_folder_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where a folder should be")
    message = refused("prepare", "proctex", tmp_path / "taken", *SMALL)
    assert "cannot write" in message
    assert (tmp_path / "taken").read_text() == "a file where a folder should be"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("methods.captt.train.epochs=3", "unknown method 'captt'"),
        ("methods.capt.train.epoch=3", "methods.capt.train.epoch: unknown key; did you mean"),
        ("methods.coop.epochs=many", "methods.coop.epochs: should be a valid integer"),
        ("fit_teacher.method=clp", "fit_teacher.method: unknown method 'clp'"),
    ],
)
def test_a_mistake_in_any_methods_settings_stops_the_first_stage(
    tmp_path: Path, override: str, message: str
) -> None:
    assert message in refused("prepare", "proctex", tmp_path, override)
    assert not (tmp_path / "proctex").exists()


@pytest.mark.parametrize("method", ["capt", "residual_adapter", "linear_probe", "gda"])
def test_a_method_that_cannot_be_the_base_model_is_refused_with_its_setting(
    small: Path, method: str
) -> None:
    message = refused("fit-teacher", "proctex", small, f"fit_teacher.method={method}")
    assert message.startswith(f"fit_teacher.method: {method} ")
    assert "such as clip or coop" in message


def test_a_base_model_of_other_settings_meets_no_other_stage(
    copy: Path, again: Callable[..., None]
) -> None:
    coop = ("fit_teacher.method=coop", "methods.coop.epochs=1")
    again("fit-teacher", *coop)
    message = refusal(again, "infer-teacher")
    assert "base_model.safetensors: made with fit_teacher.method='coop', this run has" in message
    assert "or run: capt-stage fit-teacher --dataset proctex " in message
    # What was made from the earlier base model is behind the one that is there now.
    for stage in ("build-bank", "mine-samples"):
        message = refusal(again, stage, *coop)
        assert "predictions.parquet: made with" not in message
        assert "run: capt-stage" in message
    again("infer-teacher", *coop)
    again("build-bank", *coop, "mine_pairs.pairs=3")


def test_what_was_kept_of_another_draw_is_refused_and_nothing_replaced(
    copy: Path, again: Callable[..., None]
) -> None:
    before = (copy / "proctex/seed1/pairs.parquet").read_bytes()
    lists = copy / "proctex/fewshot"
    shutil.copyfile(lists / "shots8-seed2.parquet", lists / "shots8-seed1.parquet")
    message = refusal(again, "mine-pairs", "mine_pairs.pairs=3")
    assert "likely_classes.parquet: holds other images than the few-shot list; run: capt" in message
    assert (copy / "proctex/seed1/pairs.parquet").read_bytes() == before


def test_a_stage_that_runs_already_is_refused(copy: Path, again: Callable[..., None]) -> None:
    lock = copy / "runs" / "mine-pairs-dataset-proctex-seed-1.lock"
    with exclusive(lock, "mine-pairs"):
        message = refusal(again, "mine-pairs")
        again("mine-samples")
    assert "capt-stage mine-pairs --dataset proctex --seed 1 is running already" in message


@pytest.mark.parametrize(
    "change",
    [
        {"classes": {"names": ["a", "a"], "templates": ["{}", "{}"]}},
        {"classes": {"names": ["a"], "templates": ["{0.x}"]}},
        {"classes": None},
        {"seed": "one"},
        {"model": {"method": "capt", "settings": {}, "facts": {}}},
        {"model": []},
    ],
)
def test_a_model_file_of_other_facts_is_one_line(
    small: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    saved = load_sealed(small / "proctex/seed1/capt/model.safetensors")
    record = {**saved.record, "facts": {**saved.facts, **change}}
    path = tmp_path / "model.safetensors"
    save_sealed(path, saved.tensors, record)
    message = refusal(load_model, path)
    assert message.startswith(f"{path}: ")
    assert len(message) < 600


def test_a_misspelt_method_of_an_override_is_blamed_on_it(tmp_path: Path) -> None:
    message = refusal(capt, "prepare", "proctex", tmp_path, ["methods.cpat.train.epochs=1"])
    assert message.startswith("--set methods: unknown method 'cpat'")
    assert message.endswith("did you mean capt?")


def test_what_a_record_names_is_intact(copy: Path, again: Callable[..., None]) -> None:
    log = copy / "proctex" / "seed1" / "capt" / "training_log.parquet"
    log.write_bytes(log.read_bytes()[:-9])
    message = refusal(again, "evaluate", method="capt")
    assert message.startswith(f"{log}: damaged")
    assert "run: capt-stage train --dataset proctex --method capt" in message
