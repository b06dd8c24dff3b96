"""The whole way by one command: what is out of date is run, and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from capt_core.data.proctex import CLASS_NAMES
from stages.cli import app
from stages.command import run_stage
from stages.commands import PIPELINE
from stages.steps import Step, steps_to
from tests.pipeline.commands import SMALL, arguments, run
from tests.refusals import refusal
from tests.toys import draw_photographs


def test_a_confusion_report_needs_five_stages() -> None:
    assert [step.label for step in steps_to("build-bank", ["clip", "capt"], [1], True)] == [
        "prepare",
        "extract-features",
        "fit-teacher seed 1",
        "infer-teacher seed 1",
        "build-bank seed 1",
        "report",
    ]


def test_the_whole_way_trains_and_tests_each_method_of_each_draw() -> None:
    steps = steps_to("report", ["clip", "capt"], [1, 2], True)
    assert {step.stage for step in steps} == set(PIPELINE)
    assert [step.label for step in steps if step.method] == [
        f"{stage} {method} seed {seed}"
        for seed in (1, 2)
        for method in ("clip", "capt")
        for stage in ("train", "evaluate")
    ]
    assert steps[-1] == Step("report")


def test_nothing_is_mined_for_methods_that_learn_nothing_from_it() -> None:
    stages = {step.stage for step in steps_to("report", ["clip", "gda"], [1], True)}
    assert stages.isdisjoint({"mine-pairs", "generate-prompts", "cluster-prompts", "mine-samples"})


def test_lists_of_further_draws_are_drawn() -> None:
    steps = steps_to("prepare", ["clip"], [1, 9], False)
    assert steps == [Step("prepare", seed=1), Step("prepare", seed=9)]


def ran(out: str) -> list[str]:
    lines = [line.split("] ")[1] for line in out.splitlines() if line.startswith("[")]
    return [line for line in lines if not line.endswith(": up to date")]


def test_only_what_is_out_of_date_is_run(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(copy, "proctex", SMALL)
    found = capsys.readouterr().out
    assert ran(found) == []
    assert "test images wrong before" in found
    run(copy, "proctex", [*SMALL, "methods.capt.train.epochs=1", "runtime.workers=2"])
    assert ran(capsys.readouterr().out) == ["train capt seed 1", "evaluate capt seed 1", "report"]
    (copy / "proctex/seed1/pairs.parquet").unlink()
    run(copy, "proctex", [*SMALL, "methods.capt.train.epochs=1"])
    # The table comes out the same, so that nothing behind it is run again.
    assert ran(capsys.readouterr().out) == ["mine-pairs seed 1", "report"]


@pytest.mark.parametrize("name", ["photographs", "../here/10 of mine", "./null", "null", "ABS"])
def test_a_folder_is_found_however_it_is_called(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folder = name if name != "ABS" else str(tmp_path / "absolute")
    draw_photographs(Path(folder), CLASS_NAMES[:2])
    run(Path("out"), "mine", (), folder, "--until", "prepare")
    assert len(pl.read_parquet("out/mine/samples.parquet")) == 20


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    assert "--until 'x': no stage" in refusal(run, tmp_path, "proctex", (), "--until", "x")
    assert "no such file or folder" in refusal(run, tmp_path, "mine", (), str(tmp_path / "no"))
    assert "--run '../x'" in refusal(run, tmp_path, "proctex", (), "--run", "../x")


def test_it_ends_with_the_numbers_that_matter(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(copy, "proctex", SMALL, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["errors_after"] == (
        found["errors_before"] - found["repaired"] + found["newly_wrong"]
    )
    assert Path(found["report"]).is_file()
    model = copy / "proctex/seed1/capt/model.safetensors"
    assert found["next"].startswith(f"capt-stage predict {model} NEW_PHOTOS")


def test_two_runs_of_ones_own_are_compared_image_by_image(copy: Path) -> None:
    run(copy, "proctex", [*SMALL, "fewshot.shots=1"], "--run", "less", "--until", "build-bank")
    words = [*arguments("report", "proctex", copy, SMALL), "--compare"]
    assert "no run of this name, and no folder; kept: less" in refusal(app, [*words, "more"])
    app([*words, "less"], standalone_mode=False)
    changes = pl.read_csv(copy / "report/proctex/run_changes.csv")
    before = pl.read_parquet(copy / "kept/less/proctex/seed1/predictions.parquet")
    now = pl.read_parquet(copy / "proctex/seed1/capt/predictions.parquet")
    both = before.filter(split="test").join(now.filter(split="test"), on="path")
    expected = both.filter(pl.col("pseudo_label") != pl.col("pseudo_label_right"))
    assert sorted(changes["path"]) == sorted(expected["path"])
    assert "less" in (copy / "report.html").read_text()


def test_a_report_of_confusions_leaves_out_what_is_out_of_date(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = [*SMALL, "prepare.proctex_test=5"]
    run(copy, "proctex", fewer, "--until", "build-bank")
    said = capsys.readouterr()
    assert "errors" not in said.err
    assert "capt-seed1 is out of date and not shown" in said.err
    assert pl.read_parquet(copy / "results.parquet").is_empty()
    assert "wrong before\n" in said.out  # and nothing after


def test_changed_photographs_are_noticed_whatever_their_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs = tmp_path / "photographs"
    draw_photographs(photographs, CLASS_NAMES[:2])
    images = sorted(photographs.glob("*/*.png"))
    table = tmp_path / "table.csv"
    rows = [f"{each.relative_to(tmp_path)},{each.parent.name}" for each in images]
    table.write_text("\n".join(["path,label", *rows]))
    for root, name in ((photographs, "folder"), (table, "listed")):
        words = (str(root), "--until", "prepare")
        run(tmp_path / "out", name, (), *words)
        run(tmp_path / "out", name, (), *words)
        assert len(ran(capsys.readouterr().out)) == 1
        image = images[0]
        content, times = bytearray(image.read_bytes()), image.stat()
        content[-1] ^= 1
        image.write_bytes(content)
        os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
        run(tmp_path / "out", name, (), *words)
        assert ran(capsys.readouterr().out) == ["prepare"]


def test_photographs_that_come_while_a_stage_runs_are_read_next_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs = tmp_path / "photographs"
    draw_photographs(photographs, CLASS_NAMES[:2])
    image = next(photographs.glob("*/*.png"))

    def stage_and_copy(*call: Any, **given: Any) -> None:
        run_stage(*call, **given)
        (image.parent / "late.png").write_bytes(image.read_bytes())

    words = (str(photographs), "--until", "prepare")
    with monkeypatch.context() as patch:
        patch.setattr("stages.updating.run_stage", stage_and_copy)
        run(tmp_path / "out", "mine", (), *words)
    run(tmp_path / "out", "mine", (), *words)
    run(tmp_path / "out", "mine", (), *words)
    assert ran(capsys.readouterr().out) == ["prepare", "prepare"]
