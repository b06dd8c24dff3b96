"""Stages by hand: same bytes, frozen backbone, evaluation from the model alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from safetensors.torch import load_file

from capt_core.artifacts import lineage
from capt_core.artifacts.features import read_base_text_features, read_image_features
from capt_core.artifacts.layout import Layout
from capt_core.artifacts.schemas import (
    CLASS_PAIRS,
    CONFUSION_BANK,
    CONFUSION_STATISTICS,
    PAIRS,
    PREDICTIONS,
)
from capt_core.artifacts.tables import Table, read_provenance, read_table, write_table
from capt_core.artifacts.tensors import load_tensors
from capt_core.backbone.loading import load_backbone
from capt_core.confusion.semantic_miner import pairs_of_draw
from capt_core.data.dataset import load_dataset, load_fewshot
from capt_core.methods.fitting import group_scorers
from capt_core.methods.model_file import load_model
from capt_core.params import Settings
from stages.commands import PIPELINE
from tests.pipeline.commands import BEFORE_TRAINING, SMALL, contents, run_pipeline
from tests.refusals import refusal


def test_stages_by_hand_give_the_same_bytes_as_one_command(small: Path, tmp_path: Path) -> None:
    run_pipeline(tmp_path / "again", "proctex", SMALL)
    first, second = contents(small), contents(tmp_path / "again")
    for seed in (2, 3):  # drawn for later by the one, not by the other
        del first[f"proctex/fewshot/shots8-seed{seed}.parquet"]
    assert first.keys() == second.keys()
    # What to run next names the folder.
    told = [f"report/proctex/next_steps.{kind}" for kind in ("csv", "parquet")] + ["report.html"]
    assert [name for name in first if first[name] != second[name] and name not in told] == []
    for name in (told[0], told[2]):
        texts = [(root / name).read_text() for root in (small, tmp_path / "again")]
        assert texts[0].replace(str(small), str(tmp_path / "again")) == texts[1]


def test_results_say_which_settings_the_method_was_fitted_with(small: Path) -> None:
    runs = small / "proctex/seed1"
    shown = {
        m: read_provenance(runs / m / "predictions.parquet").settings for m in ("clip", "capt")
    }
    assert shown["clip"] != shown["capt"]
    assert shown["capt"] == load_tensors(runs / "capt/model.safetensors", "").provenance.settings


def test_pairs_are_those_of_all_confidences(small: Path) -> None:
    layout, seed = Layout(small, "proctex"), Layout(small, "proctex").seed(1)
    dataset, settings = load_dataset(layout), Settings()
    backbone = load_backbone(settings.backbone, settings.runtime)
    origin = dataset.provenance(backbone.identity)
    drawn = load_fewshot(layout, dataset, 8, 1).filter(split="train")
    base = dataset.class_ids("base")
    drawn = drawn.filter(pl.col("class_id").is_in(base))
    scorer = group_scorers(load_model(seed.base_model, backbone).fitted, dataset)["base"]
    features = read_image_features(layout.image_features, origin)[drawn["sample_id"].to_list()]
    statistics = read_table(CONFUSION_STATISTICS, seed.confusion_statistics)
    texts = read_base_text_features(seed.base_text_features, origin)[base]
    confidences = scorer(features).softmax(dim=1)
    found = pairs_of_draw(dataset, drawn, confidences, texts, statistics, settings.mine_pairs)
    assert_frame_equal(read_table(PAIRS, seed.pairs), found.pairs)
    assert_frame_equal(read_table(CLASS_PAIRS, seed.class_pairs), found.class_pairs)


def test_training_changes_its_own_tensors_only(small: Path) -> None:
    state = load_file(small / "proctex/seed1/capt/model.safetensors")
    parts = {name.removeprefix("model.").split(".")[0] for name in state}
    assert parts == {"experts", "running_alpha", "alpha_steps", "class_vectors", "space"}
    assert float(state["model.experts.residual_gate"]) != 0
    assert load_file(small / "proctex/seed1/clip/model.safetensors") == {}


def test_the_log_shows_that_the_loss_falls(copy: Path, again: Callable[..., None]) -> None:
    again("train", "methods.capt.train.epochs=6", method="capt")
    log = pl.read_parquet(copy / "proctex/seed1/capt/training_log.parquet")
    by_epoch = log.group_by("epoch", maintain_order=True).agg(pl.col("loss").mean())["loss"]
    assert by_epoch[-1] < by_epoch[0]
    shares = log.select(pl.sum_horizontal(pl.col("^.*_expert_share$")))
    assert shares.to_series().is_between(0.999, 1.001).all()  # of one expert behind the router


def rewrite(table: Table, path: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """Write a table anew with other rows."""
    write_table(table, change(pl.read_parquet(path)), path, read_provenance(path))


def test_predictions_do_not_depend_on_the_bank(
    small: Path, copy: Path, again: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = copy / "proctex/seed1/confusion_bank.parquet"
    rewrite(CONFUSION_BANK, bank, lambda frame: frame.head(1))
    assert "made from another confusion_bank.parquet" in refusal(again, "evaluate", method="capt")
    monkeypatch.setattr(lineage, "_compare", lambda *_: None)
    again("evaluate", method="capt")
    name = "proctex/seed1/capt/predictions.parquet"
    assert pl.read_parquet(copy / name).equals(pl.read_parquet(small / name))


def test_training_runs_with_an_empty_bank(copy: Path, again: Callable[..., None]) -> None:
    for table in (CONFUSION_BANK, CONFUSION_STATISTICS):
        rewrite(table, copy / f"proctex/seed1/{table.name}.parquet", pl.DataFrame.clear)
    for stage in ("mine-pairs", "generate-prompts", "cluster-prompts", "mine-samples"):
        again(stage)
    short = "methods.capt.train.epochs=1"
    again("train", short, method="capt")
    again("evaluate", short, method="capt")
    sources = pl.read_parquet(copy / "proctex/seed1/representatives.parquet")["source"]
    assert set(sources) == {"random_train"}
    metrics = json.loads((copy / "proctex/seed1/capt/metrics.json").read_text())
    assert metrics["bank_correction_rate"] is None
    skipped = "mine_samples.fallback=skip"
    again("mine-samples", skipped)
    again("train", short, skipped, method="capt")
    assert "than is there now; run: capt-stage evaluate" in refusal(again, "report")
    for method in ("clip", "capt"):
        again("evaluate", short, skipped, method=method)
    again("report")


def test_a_bank_without_errors_is_told(
    copy: Path, again: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    again("build-bank")
    assert "nearly so" not in capsys.readouterr().out
    path = copy / "proctex/seed1/predictions.parquet"
    rewrite(PREDICTIONS, path, lambda frame: frame.with_columns(correct=pl.lit(True)))
    again("build-bank")
    said = capsys.readouterr().out
    assert "0 of 120 training images misclassified" in said
    assert "empty or nearly so" in said
    assert "build_bank.source=augmented_views" in said


def test_prompts_from_templates_are_no_part_of_the_class_texts(
    copy: Path, again: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    templates = ("generate_prompts.provider=template", "generate_prompts.store=none")
    again("generate-prompts", *templates)
    for method in ("clip", "clip_prompts"):
        again("train", method=method)
        again("evaluate", method=method)
    assert "0 of 15 base classes described" in capsys.readouterr().out
    plain, same = (
        pl.read_parquet(copy / f"proctex/seed1/{method}/predictions.parquet")
        for method in ("clip", "clip_prompts")
    )
    assert plain.equals(same)


def test_runs_are_recorded_apart_from_the_artifacts_and_plots_are_csv(small: Path) -> None:
    record = json.loads((small / "runs" / "train-proctex-capt-seed1.json").read_text())
    assert record["seconds"] > 0
    assert record["torch"]
    loss = pl.read_csv(small / "proctex/seed1/capt/plots/loss.csv")
    confusion = pl.read_csv(small / "proctex/seed1/capt/plots/confusion.csv")
    assert loss.columns == ["step", "loss"]
    assert confusion.columns == ["actual", "predicted"]
    assert len(confusion) == 30 * 6


@pytest.mark.parametrize(
    ("first", "overrides"),
    [
        ("extract-features", ["runtime.precision=bf16"]),
        ("fit-teacher", ["fit_teacher.method=coop", "methods.coop.epochs=3"]),
        ("build-bank", ["build_bank.source=full_train", "mine_pairs.use_statistics=false"]),
        (
            "build-bank",
            [
                "build_bank.source=augmented_views",
                "build_bank.views=2",
                "mine_pairs.pseudo_label=real_gt",
                "mine_samples.representatives=2",
            ],
        ),
        (
            "mine-pairs",
            ["mine_pairs.selection=any", "mine_pairs.pairs=10", "mine_samples.fallback=skip"],
        ),
        ("mine-samples", ["mine_samples.choice=random"]),
        (
            "train",
            [
                "methods.capt.train.augmentation=crop_flip",
                "methods.capt.train.cache_prefix=false",
                "methods.capt.train.optimizer=sgd",
                "methods.capt.adapter.blocks=all",
            ],
        ),
        ("prepare", ["fewshot.shots=0", "methods.capt.train.batch_size=40"]),
    ],
)
def test_other_settings_run_through(
    copy: Path, again: Callable[..., None], first: str, overrides: list[str]
) -> None:
    for stage in BEFORE_TRAINING[PIPELINE.index(first) :]:
        again(stage, *overrides)
    model = copy / "proctex/seed1/capt/model.safetensors"
    written = []
    overrides = [*overrides, "methods.capt.train.epochs=1"]
    for _ in range(2):
        again("train", *overrides, method="capt")
        written.append(model.read_bytes())
    assert written[0] == written[1]
    again("evaluate", *overrides, method="capt")
    bank = pl.read_parquet(copy / "proctex/seed1/confusion_bank.parquet")
    pairs = pl.read_parquet(copy / "proctex/seed1/pairs.parquet")
    novel = pl.read_parquet(copy / "proctex/classes.parquet").filter(group="novel")["class_id"]
    assert not pl.concat([bank["true_class_id"], pairs["class_id"]]).is_in(novel.implode()).any()
    judged = pl.read_parquet(copy / "proctex/seed1/capt/predictions.parquet")
    assert set(bank["sample_id"]) <= set(judged["sample_id"])
    log = pl.read_parquet(copy / "proctex/seed1/capt/training_log.parquet")
    assert len(log) > 0
    assert log["loss"].is_finite().all()
