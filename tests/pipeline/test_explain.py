"""The command `explain`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from capt_core import explanation
from capt_core.errors import CaptError
from stages import cli
from tests.conftest import PROJECT

pytest.importorskip("captum")


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few windows."""
    monkeypatch.setattr(explanation, "CELLS", 2)


def words(small: Path, method: str, *more: str) -> list[str]:
    model = small / f"proctex/seed1/{method}/model.safetensors"
    image = next((small / "proctex/images/striped").glob("test_*.png"))
    return ["explain", str(model), str(image), "--params", str(PROJECT / "params.yaml"), *more]


def test_it_draws_and_tells(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "new folder/picture.png"
    done = CliRunner().invoke(
        cli.app,
        [*words(small, "capt"), "--classes", "striped", "lined", "--out", str(out), "--json"],
        catch_exceptions=False,
    )
    told = json.loads(done.stdout)
    assert told["classes"] == ["striped", "lined"]
    assert told["path"] == str(out)
    assert told["before"]["model"] == "CLIP (zero-shot)"
    assert told["after"]["model"] == "CAPT"
    for model in (told["before"], told["after"]):
        assert list(model["probabilities"]) == ["striped", "lined"]
        assert sum(model["probabilities"].values()) <= 1
        assert model["confidence"] >= max(model["probabilities"].values())
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000


def test_zero_shot_clip_has_no_after(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "picture.svg"
    more = ("--out", str(out), "--json")
    done = CliRunner().invoke(cli.app, words(small, "clip", *more), catch_exceptions=False)
    assert json.loads(done.stdout).keys() == {"classes", "before", "parts", "path"}
    assert out.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (("--out", "picture.jpg"), "expected a file whose name ends in .png or .svg"),
        (("--classes", "striped", "stripes"), "the model knows no class 'stripes'"),
        (("--parts",), "only CAPT is made of parts"),
    ],
)
def test_mistakes(small: Path, more: tuple[str, ...], part: str) -> None:
    with pytest.raises(CaptError, match=part):
        cli.app(words(small, "clip", *more), standalone_mode=False)
