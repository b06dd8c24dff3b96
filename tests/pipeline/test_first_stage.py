"""What is wrong with a backbone is said by the first stage and by the doctor, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from capt_core import diagnosis
from capt_core.backbone import tiny_clip
from capt_core.params import Settings
from tests.pipeline.commands import SMALL, capt
from tests.pipeline.test_doctor import doctor
from tests.refusals import refusal


def prepare(folder: Path, *overrides: str) -> None:
    capt("prepare", "proctex", folder / "artifacts", [*SMALL, *overrides])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["backbone.name=ViT-B/16"], "did you mean ViT-B-16"),
        (["backbone.name=vit_b_32"], "did you mean ViT-B-32"),
        (["backbone.name=tinyclip"], "did you mean tiny-clip"),
        (["backbone.name=ViT-B-16-SigLIP"], "not CLIP's own"),
        (["backbone.name=ViT-B-16"], "no weights named"),
        (["backbone.name=ViT-B-16", "backbone.pretrained=opnai"], "known: openai"),
        (["backbone.checkpoint=gone.pt"], "no such file"),
        (["backbone.checkpoint=~nobody-of-that-name/x.pt"], "backbone.checkpoint"),
    ],
)
def test_prepare_refuses_what_no_later_stage_could_load(
    tmp_path: Path, overrides: list[str], words: str
) -> None:
    assert words in refusal(prepare, tmp_path, *overrides)
    assert not (tmp_path / "artifacts").exists()


def test_prepare_refuses_weights_of_another_model(tmp_path: Path) -> None:
    torch.save({"visual.proj": torch.ones(2, 2)}, tmp_path / "other.pt")
    message = refusal(prepare, tmp_path, f"backbone.checkpoint={tmp_path / 'other.pt'}")
    assert "tensors missing" in message


def test_methods_that_the_backbone_does_not_suit_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path, "backbone.name=RN50", "backbone.pretrained=openai")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "RN50" in line]
    assert line.startswith("note: capt cannot be used with backbone RN50")
    result = doctor("--set", "backbone.name=RN50", "--set", "backbone.pretrained=openai")
    assert result.exit_code == 1
    assert "capt cannot be used with backbone RN50" in result.stdout


def test_the_doctor_reads_the_values(tmp_path: Path) -> None:
    weights = tiny_clip.load_model().state_dict()
    weights["ln_final.weight"][0] = float("nan")
    torch.save(weights, tmp_path / "nan.pt")
    settings = Settings.model_validate({"backbone": {"checkpoint": str(tmp_path / "nan.pt")}})
    finding = diagnosis.check_weights(settings)
    assert finding.state == "fail"
    assert "1 of 128 values of 'ln_final.weight' are NaN" in finding.detail
