"""The doctor names what is wrong and how to correct it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from capt_core import diagnosis
from capt_core.params import Settings
from stages.cli import app
from tests.conftest import PROJECT

SECRET = "sk-not-to-be-shown"


def settings(**sections: dict[str, object]) -> Settings:
    return Settings.model_validate(sections)


def doctor(*words: str) -> Result:
    return CliRunner().invoke(app, ["doctor", "--params", str(PROJECT / "params.yaml"), *words])


def test_a_sound_installation_and_a_missing_root(tmp_path: Path) -> None:
    result = doctor("--artifacts", str(tmp_path))
    assert result.exit_code == 0, result.output
    for word in ("open_clip", "GPU", "weights", "artifacts", "proctex", "API key"):
        assert word in result.stdout
    # Troubles end in exit code 1.
    result = doctor("--dataset", "dtd", "--artifacts", str(tmp_path))
    assert result.exit_code == 1
    assert "data.root" in result.stdout


def test_missing_weights() -> None:
    finding = diagnosis.check_weights(settings(backbone={"name": "ViT-B-32"}))
    assert finding.state == "fail"
    assert "backbone.checkpoint" in finding.remedy


def test_a_gpu_that_torch_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    finding = diagnosis.check_gpu(settings(runtime={"device": "cuda"}))
    assert finding.state == "fail"
    assert finding.remedy
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/nvidia-smi")
    finding = diagnosis.check_gpu(settings())
    assert finding.state == "note"
    assert "pip install" in finding.remedy


def test_artifacts_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    assert diagnosis.check_artifacts(tmp_path / "taken").state == "fail"


def test_data_root(tmp_path: Path) -> None:
    (finding,), listed = diagnosis.check_data(settings(), "proctex")
    assert (finding.state, listed) == ("ok", None)
    (finding, layout), _ = diagnosis.check_data(settings(data={"root": str(tmp_path)}), "dtd")
    assert "capt-stage fetch --dataset dtd" in layout.remedy
    assert finding.state == "fail"
    assert str(tmp_path / "dtd") in finding.detail


def test_api_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    assert "export ANTHROPIC_API_KEY" in diagnosis.check_api_key().remedy
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    finding = diagnosis.check_api_key()
    assert finding.state == "ok"
    assert SECRET not in finding.detail + finding.remedy


def test_torchvision_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    finding = diagnosis.check_torchvision()
    assert finding.state == "fail"
    assert finding.remedy.startswith("pip install")


def test_methods_are_asked_about_by_name() -> None:
    words = ("--set", "backbone.name=RN50", "--method", "maple")
    found = json.loads(doctor(*words, "--method", "gda", "--json").stdout)["findings"]
    refused = [each["detail"] for each in found if each["check"] == "methods"]
    assert any(detail.startswith("maple") for detail in refused)
    assert not any(detail.startswith(("gda", "capt")) for detail in refused)
    assert "did you mean maple?" in str(doctor("--method", "maples").exception)
