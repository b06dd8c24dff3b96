"""The commands export, push and pull: a model leaves a project, and is used without it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from capt_core.methods.model_file import load_model
from stages.cli import app
from tests.refusals import refusal


@pytest.fixture
def model(small: Path) -> Path:
    return small / "proctex/seed1/capt/model.safetensors"


def run(*words: object) -> None:
    app([*map(str, words)], standalone_mode=False)


def document(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    run(*words, "--json")
    return json.loads(capsys.readouterr().out)


def test_the_name_or_the_option_tells_the_format(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = document(capsys, "export", model, "--out", tmp_path / "whole.safetensors")
    assert (found["format"], found["largest_difference"]) == ("safetensors", 0)
    assert load_model(found["path"]).class_names == tuple(found["classes"])
    # A file that holds its backbone is exported in turn.
    odd = tmp_path / "odd.bin"
    found = document(capsys, "export", found["path"], "--out", odd, "--format", "torchscript")
    assert found["format"] == "torchscript"
    assert odd.read_bytes()[:2] == b"PK"


def test_targets_that_cannot_be_meant_are_refused(model: Path, tmp_path: Path) -> None:
    assert "what format is '.bin'" in refusal(run, "export", model, "--out", tmp_path / "a.bin")
    assert "the file to read" in refusal(run, "export", model, "--out", model)
    folder = tmp_path / "a.onnx"
    folder.mkdir()
    assert "a folder; name a file" in refusal(run, "export", model, "--out", folder)
    assert "a folder; name a file" in refusal(run, "pull", "me/mine", "--out", folder)


def test_a_card_names_what_is_confused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "layout", tmp_path / "got.safetensors"
    run("push", model, "me/mine", "--folder", folder, "--license", "mit")
    card = (folder / "README.md").read_text(encoding="utf-8")
    capsys.readouterr()
    assert "license: mit" in card
    assert "up to 8 images per class" in card
    assert "| true class | taken for | images |" in card
    found = document(capsys, "pull", folder, "--out", out)
    assert found["method"] == "capt"
    assert out.read_bytes() == (folder / "model.safetensors").read_bytes()


def test_predictions_of_another_model_are_not_in_the_card(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(model, tmp_path / "model.safetensors")
    (tmp_path / "predictions.parquet").write_bytes(b"no table")
    run("push", tmp_path / "model.safetensors", "me/mine", "--folder", tmp_path / "layout")
    assert "the card does not say what is confused" in capsys.readouterr().err
    assert "was not evaluated" in (tmp_path / "layout/README.md").read_text(encoding="utf-8")


def test_without_a_token_nothing_is_loaded(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", " ")
    assert "export HF_TOKEN=" in refusal(run, "push", "nowhere", "me/mine")
    assert "owner/name" in refusal(run, "push", model, "mine")
