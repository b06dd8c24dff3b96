"""A base model that was trained elsewhere: imported, compared by its digest, used by all stages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from capt_core import params
from capt_core.artifacts.layout import Layout
from capt_core.backbone.loading import load_backbone
from capt_core.data.dataset import load_dataset
from capt_core.methods.importing.model import UNKNOWN_IMAGES
from capt_core.methods.maple import Maple, MapleSettings
from capt_core.methods.model_file import load_model
from stages.cli import app
from tests.conftest import PROJECT
from tests.methods.importing import dassl
from tests.pipeline.commands import SMALL, arguments, contents
from tests.refusals import refusal

FIRST = ("base_model.safetensors", "base_text_features.parquet")


@pytest.fixture
def checkpoint(copy: Path) -> Path:
    """MaPLe before its first step, as if it had been trained on the base classes."""
    backbone = load_backbone(params.Backbone(), params.Runtime(device="cpu"))
    prepared = load_dataset(Layout(copy, "proctex"))
    names = [prepared.prompt_names[place] for place in prepared.class_ids("base")]
    state = dassl.state_of(Maple(MapleSettings()).start(backbone, 1), names)
    return dassl.save(state, copy.parent / "model.pth.tar-5")


def imports(copy: Path, *words: str) -> Result:
    given = arguments("import-checkpoint", "proctex", copy, SMALL)
    return CliRunner().invoke(app, [*given, *words])


def settings_of(checkpoint: Path) -> tuple[str, str]:
    return f"fit_teacher.checkpoint={checkpoint}", "fit_teacher.method=maple"


def test_all_stages_run_on_an_imported_model(
    copy: Path, checkpoint: Path, again: Callable[..., None]
) -> None:
    result = imports(copy, str(checkpoint))
    assert result.exit_code == 0, result.output
    assert "MaPLe: 2 vectors in each of 3 layers" in result.stdout
    for given in settings_of(checkpoint):
        assert f"--set {given}" in result.stdout
    seed = copy / "proctex/seed1"
    written = {name: (seed / name).read_bytes() for name in FIRST}
    # The stage itself writes the same bytes.
    again("fit-teacher", *settings_of(checkpoint))
    assert {name: (seed / name).read_bytes() for name in FIRST} == written
    # Not the place of the file but its content is compared.
    moved = Path(shutil.move(checkpoint, copy.parent / "moved"))
    for stage in ("infer-teacher", "build-bank", "mine-pairs", "generate-prompts"):
        again(stage, *settings_of(moved))
    for stage in ("cluster-prompts", "mine-samples"):
        again(stage, *settings_of(moved))
    for stage in ("train", "evaluate"):
        again(stage, *settings_of(moved), method="capt")
    held = load_file(seed / "capt/model.safetensors")
    own = load_file(seed / "base_model.safetensors")
    assert all((held[f"base.{name}"] == value).all() for name, value in own.items())
    model = load_model(seed / "capt/model.safetensors")
    assert UNKNOWN_IMAGES in model.sees
    (record,) = pl.read_parquet(copy / "evaluations/proctex/capt-seed1.parquet")["sees"].unique()
    assert UNKNOWN_IMAGES in record


def test_another_checkpoint_is_noticed(
    copy: Path, checkpoint: Path, again: Callable[..., None]
) -> None:
    assert imports(copy, str(checkpoint), "-q").exit_code == 0
    message = refusal(again, "infer-teacher")
    assert "made with fit_teacher.checkpoint='sha256:" in message
    assert "give --set fit_teacher.checkpoint=FILE with that file here, too, or run: " in message
    again("infer-teacher", *settings_of(checkpoint))
    other = checkpoint.with_name("other")
    other.write_bytes(checkpoint.read_bytes())
    with other.open("ab") as stream:
        stream.write(b"\0")
    message = refusal(again, "build-bank", *settings_of(other))
    assert "fit_teacher.checkpoint='sha256:" in message
    assert "capt-stage fit-teacher" in message
    again("fit-teacher")
    message = refusal(again, "infer-teacher", *settings_of(checkpoint))
    assert "made with fit_teacher.checkpoint=None" in message
    assert "give --set fit_teacher.checkpoint=null here, too, or run: " in message
    gone = refusal(again, "build-bank", *settings_of(checkpoint.with_name("gone")))
    assert gone.startswith("fit_teacher.checkpoint: ")
    assert "No such file" in gone


def test_a_dry_run_says_everything_and_writes_nothing(copy: Path, checkpoint: Path) -> None:
    before = contents(copy)
    named = checkpoint.with_name("a: b #1.pth.tar")
    checkpoint.rename(named)
    result = imports(copy, str(named), "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert contents(copy) == before
    assert document["written"] is None
    assert document["method"] == "maple"
    assert document["settings"]["depth"] == 3
    assert len(document["classes"]) == 15
    assert "prompt_learner.compound_prompts_text.1" in document["read"]
    assert document["unused"] == {}
    result = imports(copy, str(named), "--dry-run")
    assert f"--set 'fit_teacher.checkpoint={named}'" in result.stdout
    result = imports(copy, str(named), "--method", "coop")
    assert "trained with maple, not coop" in str(result.exception)
    result = imports(copy, str(named), "--method", "capt")
    assert "--method: capt needs what is mined" in str(result.exception)
    assert contents(copy) == before


def test_fit_teacher_wants_the_method_of_the_checkpoint(
    copy: Path, checkpoint: Path, again: Callable[..., None]
) -> None:
    message = refusal(again, "fit-teacher", f"fit_teacher.checkpoint={checkpoint}")
    assert "trained with maple, not clip; set fit_teacher.method=maple" in message


def test_the_doctor_checks_it(tmp_path: Path) -> None:
    def doctor(*overrides: str) -> Result:
        words = [word for each in overrides for word in ("--set", each)]
        given = ["doctor", "--params", str(PROJECT / "params.yaml"), "--artifacts", str(tmp_path)]
        return CliRunner().invoke(app, [*given, *words])

    checkpoint = dassl.save({"ctx": torch.ones(3, 128)}, tmp_path / "model.pth.tar")
    named = f"fit_teacher.checkpoint={checkpoint}"
    result = doctor(named, "fit_teacher.method=coop")
    assert result.exit_code == 0, result.output
    assert "CoOp: a context of 3 vectors for all classes" in result.stdout
    result = doctor(named)
    assert result.exit_code == 1
    assert "was trained with coop, not clip; set fit_teacher.method=coop" in result.stdout
