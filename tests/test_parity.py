"""Methods give what their reference code gave, and the comparison can say no."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.parity import dpc, promptkd
from benchmarks.parity.__main__ import Comparison, compared, main, relative_difference
from benchmarks.parity.fixture import Fixture
from capt_core.errors import CaptError

COVERED = (
    *("plain", "coop", "maple", "promptsrc", "promptkd", "dpc_coop", "dpc_promptkd"),
    *("tac", "tap", "lweib", "twosfs"),
    *("spotlighter", "spotlighter_promptkd"),
)


@pytest.fixture(scope="session")
def parity(shared: Path) -> Path:
    folder = shared / "parity"
    if not folder.is_dir():
        pytest.skip(f"no parity fixtures: {folder} is not there")
    return folder


@pytest.mark.parametrize("name", COVERED)
def test_a_method_agrees_with_its_reference(
    name: str, parity: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(parity / name)]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = load_file(parity / name / "expected.safetensors")
    assert [line.split("  ")[:2] for line in lines[:-1]] == [[name, each] for each in expected]
    assert f"{len(expected)} quantities, 0 beyond tolerance" in lines[-1]


def test_folders_of_other_methods_are_named(
    parity: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/plain").symlink_to(parity / "plain")
    copy = tmp_path / "unheard_of"
    shutil.copytree(parity / "plain", copy)
    weights = load_file(copy / "weights.safetensors")
    save_file(weights | {"unheard.of": torch.zeros(1)}, copy / "weights.safetensors")
    assert main([str(tmp_path)]) == 1
    assert "unheard_of  not covered: no runner" in capsys.readouterr().out
    assert main([str(tmp_path), "--known"]) == 0


@pytest.mark.parametrize(
    ("method", "file", "name"),
    [
        ("maple", "weights.safetensors", "maple.ctx"),
        ("maple", "expected.safetensors", "after.ctx"),
        ("tac", "weights.safetensors", "trainable/ctx"),
    ],
)
def test_a_changed_number_is_found(
    method: str, file: str, name: str, parity: Path, tmp_path: Path
) -> None:
    copy = tmp_path / method
    shutil.copytree(parity / method, copy)
    tensors = load_file(copy / file)
    tensors[name][0, 0] += 1e-6
    save_file(tensors, copy / file)
    assert main([str(copy)]) == 1


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        ("coop", {"weight_decay": 0.0}),
        ("coop", {"base_names": ["a", "b"]}),
        ("maple", {"prompt_depth": 1}),
        ("promptkd", {"n_text": 3}),
        ("promptkd", {"depth_visual_student": 1}),
        ("dpc_coop", {"mining_scale": 50.0}),
        ("dpc_promptkd", {"mining_scale": 50.0}),
    ],
)
def test_a_wrong_setting_is_found(
    method: str, wrong: dict[str, object], parity: Path, tmp_path: Path
) -> None:
    copy = tmp_path / method
    shutil.copytree(parity / method, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **wrong}))
    assert main([str(copy)]) == 1


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("config.json", "cannot be read"),
        ("inputs.safetensors", "cannot be read"),
        ("expected.safetensors", "cannot be read"),
        (None, "no fixtures"),
    ],
)
def test_damaged_folders_are_no_success(
    file: str | None,
    said: str,
    parity: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = tmp_path / "plain"
    shutil.copytree(parity / "plain", copy)
    for each in copy.iterdir():
        if file is None:
            each.unlink()
        elif each.name == file:
            each.write_bytes(each.read_bytes()[:20])
    assert main([str(tmp_path)]) == (2 if file is None else 1)
    captured = capsys.readouterr()
    assert said in captured.out + captured.err
    if file is not None:
        (copy / file).unlink()
        assert main([str(tmp_path)]) == 1


def test_relative_differences_by_hand() -> None:
    expected = torch.tensor([4.0, -8.0])
    assert relative_difference(torch.tensor([4.0, -7.0]), expected) == 1 / 8
    assert relative_difference(torch.tensor([0.0, 0.5]), torch.zeros(2)) == 0.5
    assert relative_difference(torch.zeros(0), torch.zeros(0)) == 0
    for found in (None, torch.zeros(3), torch.tensor([4.0, float("nan")])):
        assert relative_difference(found, expected) == float("inf")
    assert relative_difference(expected, torch.full((2,), float("nan"))) == float("inf")
    line = str(Comparison("maple", "loss", 2e-9, 1e-9))
    assert line == "maple  loss  2.0e-09  differs (tolerance 1e-09)"
    assert Fixture("a", {}, {"x.y": expected}, {}, {}).below("x.") == {"y": expected}


def test_what_is_noise_has_an_absolute_tolerance() -> None:
    expected = {"grad.bias": torch.tensor([1e-18]), "bias": torch.tensor([1e-18])}
    fixture = Fixture("a", {}, {}, {}, expected)
    found = {"grad.bias": torch.tensor([5e-11]), "bias": torch.tensor([5e-11])}
    verdicts = {each.quantity: each.agrees for each in compared(fixture, found, {}, ["grad.*"])}
    assert verdicts == {"grad.bias": True, "bias": False}
    found = {"grad.bias": torch.tensor([5e-10])}
    assert not any(each.agrees for each in compared(fixture, found, {}, ["grad.*"]))


def test_a_bias_that_normalisation_takes_away_is_compared_beside_rounding() -> None:
    name = "after.projector.conv1.bias"
    start = torch.full((2,), 0.1, dtype=torch.float64)
    fixture = Fixture("a", {}, {}, {}, {name: start + 1e-15})
    for runner in (promptkd, dpc):
        found = {name: start - 1e-14}
        assert all(each.agrees for each in compared(fixture, found, {name: start}, runner.NOISE))
        found = {name: start * (1 - 1e-8)}
        assert not any(
            each.agrees for each in compared(fixture, found, {name: start}, runner.NOISE)
        )


@pytest.mark.parametrize(("depth", "count"), [(1, 2), (3, 2), (2, 1), (2, 3)])
def test_prompts_are_those_that_the_settings_name(depth: int, count: int) -> None:
    weights = {f"p.{index}": torch.full((2, 3), float(index)) for index in (1, 0)}
    prompts = Fixture("a", {"J": 2, "n": 2}, weights, {}, {}).prompts("p.", "J", "n")
    assert prompts[:, 0, 0].tolist() == [0, 1]
    with pytest.raises(CaptError, match=f"a: p\\.\\* are not the {depth} tensors of {count}"):
        Fixture("a", {"J": depth, "n": count}, weights, {}, {}).prompts("p.", "J", "n")


def test_names_are_as_many_as_their_texts() -> None:
    fixture = Fixture("a", {"names": ["fox", "owl"]}, {}, {}, {})
    fixture.check_names("names", torch.zeros(2, 5))
    with pytest.raises(CaptError, match="a: names are 2, and there are 3 texts"):
        fixture.check_names("names", torch.zeros(3, 5))
