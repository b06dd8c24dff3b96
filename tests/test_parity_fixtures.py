"""What the comparison reads of a fixture, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.parity.__main__ import main
from benchmarks.parity.fixture import Fixture, read_fixture
from benchmarks.parity.tap import _RecordedOrder
from benchmarks.parity.training import paces, steps_of
from benchmarks.parity.twosfs import _looked_at
from capt_core.errors import CaptError
from capt_core.methods.tap.settings import TapSettings

NOTHING = torch.zeros(1)


def of(config: dict[str, Any], **tensors: dict[str, torch.Tensor]) -> Fixture:
    weights, inputs, expected = (
        tensors.get(name, {}) for name in ("weights", "inputs", "expected")
    )
    return Fixture("a", config, weights, inputs, expected)


def written(folder: Path, config: dict[str, Any], inputs: dict[str, torch.Tensor]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("weights", "expected"):
        save_file({"x": NOTHING}, folder / f"{name}.safetensors")
    save_file(inputs, folder / "inputs.safetensors")
    return folder


def test_a_configuration_that_contradicts_its_tensors_is_refused() -> None:
    fixture = of({"views": 4, "trainable": ["b", "a"]})
    fixture.check(views=4, trainable=["a", "b"], unsaid=7)
    for held in ({"views": 3}, {"trainable": ["a"]}):
        with pytest.raises(CaptError, match=f"for {next(iter(held))} of config"):
            fixture.check(**held)


def test_a_tensor_that_the_list_names_must_be_there(tmp_path: Path) -> None:
    folder = written(tmp_path, {}, {"x": NOTHING})
    (folder / "tensors.txt").write_text("[inputs.safetensors]\nx  (1,)  float32\n")
    assert read_fixture(folder, folder).inputs
    (folder / "tensors.txt").write_text("[inputs.safetensors]\nx  (1,)  f\n\ny  (1,)  f\n")
    with pytest.raises(CaptError, match=r"tensors\.txt names \(y of inputs"):
        read_fixture(folder, folder)


def test_a_base_model_that_cannot_be_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vision = {"image_size": 8, "layers": 1, "width": 9, "head_width": 4, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 9, "width": 8, "heads": 2, "layers": 1}
    clip = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}
    inputs = {name: torch.zeros(1) for name in ("stage1_iterations", "total_iterations")}
    assert main([str(written(tmp_path, {"clip": clip}, inputs))]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "does not fit" in lines[0]


def test_the_pace_is_read_where_there_is_one() -> None:
    config = {"lr": 0.1, "weight_decay": 0.0, "momentum": 0.8}
    assert paces(of(config)) == {"learning_rate": 0.1, "weight_decay": 0.0}
    fixture = of({}, expected={"averaged/lr": torch.zeros(5)})
    assert (steps_of(fixture, "averaged/lr", 3), steps_of(fixture, "lr", 3)) == (5, 3)
    names = ("stage1/param_after4/a.b", "stage2/classifier_after2", "stage2/classifier_final")
    assert _looked_at(of({}, expected=dict.fromkeys(names, NOTHING))) == {2, 4}


def test_tap_follows_a_recorded_order() -> None:
    plain = TapSettings.model_validate({"epochs": 4, "text_epochs": 2})
    order = (False, False, True, True, False, False)
    other = _RecordedOrder.model_validate({"epochs": 4, "text_epochs": 2, "order": order})
    assert [phase.text for phase in other.phases] == list(order)
    assert [phase.epoch for phase in other.phases] == [1, 2, 1, 2, 3, 4]
    assert sorted(other.rates) == sorted(plain.rates)
    same = _RecordedOrder.model_validate({"epochs": 4, "text_epochs": 2})
    assert same.phases == plain.phases
