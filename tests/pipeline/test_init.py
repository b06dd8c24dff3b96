"""A project of one's own begins with files that nothing overwrites."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from capt_core.errors import CaptError
from capt_core.params import load_settings
from stages.cli import app
from tests.conftest import PROJECT

FILES = {"params.yaml", "dvc.yaml", ".dvcignore", ".gitignore"}


def init(*words: str) -> str:
    result = CliRunner().invoke(app, ["init", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_settings_are_the_packaged_ones_with_the_project_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine/photo's \\1").mkdir(parents=True)
    shown = init("mine", "--dataset", "leaves", "--root", "mine/photo's \\1", "--seeds", "4,5")
    assert {path.name for path in (tmp_path / "mine").iterdir() if path.is_file()} == FILES
    assert "dvc repro" in shown
    settings, matrix = load_settings(tmp_path / "mine/params.yaml", "leaves")
    assert (matrix.datasets, list(matrix.seeds)) == (["leaves"], [4, 5])
    assert settings.data.root == "photo's \\1"
    packaged = (PROJECT / "params.yaml").read_text().splitlines()
    own = (tmp_path / "mine/params.yaml").read_text().splitlines()
    assert sum(before != after for before, after in zip(packaged, own, strict=True)) == 4
    document = yaml.safe_load((tmp_path / "mine/params.yaml").read_text())
    assert list(document["per_dataset"]) == ["leaves"]
    assert yaml.safe_load((tmp_path / "mine/dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize("name", ["08", "1e3", "yes", "2026-01-31", "a: b", "null", "caf\u00e9"])
def test_a_root_is_written_so_that_it_is_read_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    init("--dataset", "leaves", "--root", f"./{name}", "--seeds", "07")
    settings, matrix = load_settings(tmp_path / "params.yaml", "leaves")
    assert (settings.data.root, matrix.seeds) == (name, [7])


def test_a_root_that_no_folder_can_be_is_refused(tmp_path: Path) -> None:
    for root in ("~no-such-user-here/x", "x" * 300):
        with pytest.raises(CaptError, match=r"^--root: "):
            init(str(tmp_path), "--dataset", "dtd", "--root", root)


def test_a_root_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptError, match=r"--root .*nowhere: no such file or folder"):
        init(str(tmp_path / "p"), "--dataset", "dtd", "--root", str(tmp_path / "nowhere"))
    assert not (tmp_path / "p").exists()


def test_an_absolute_root_stays_absolute(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    init(str(tmp_path / "p"), "--dataset", "dtd", "--root", str(tmp_path / "data"))
    settings, _ = load_settings(tmp_path / "p/params.yaml", "dtd")
    assert settings.data.root == str(tmp_path / "data")


@pytest.mark.parametrize("name", ["true", "12"])
def test_a_name_that_yaml_would_read_as_something_else(tmp_path: Path, name: str) -> None:
    init(str(tmp_path), "--dataset", name)
    assert load_settings(tmp_path / "params.yaml", name)[1].datasets == [name]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("mine\n")
    with pytest.raises(CaptError, match=r"already there: \.gitignore; nothing was written"):
        app(["init", str(tmp_path), "--dataset", "leaves"], standalone_mode=False)
    assert [path.name for path in tmp_path.iterdir()] == [".gitignore"]
    assert (tmp_path / ".gitignore").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "1,b"], "expected whole numbers"),
        (["--seeds", "\u0661"], "expected whole numbers"),
        (["--seeds", "1,4294967296"], "--seeds: should be from 0 to 4294967295"),
        (["--dataset", "My Photos"], "lower-case"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(CaptError, match=message):
        app(["init", str(tmp_path), "--dataset", "leaves", *words], standalone_mode=False)
    assert not list(tmp_path.iterdir())


def test_a_split_pipeline_is_the_same_in_a_file_per_data_set(tmp_path: Path) -> None:
    init(str(tmp_path), "--dataset", "leaves")
    settings = tmp_path / "params.yaml"
    names = ["leaves", "leaves-wet"]
    text = settings.read_text().replace("datasets: [leaves]", f"datasets: [{', '.join(names)}]")
    settings.write_text(text.replace("  leaves:\n", "  leaves: {}\n  leaves-wet:\n"))
    whole = yaml.safe_load((tmp_path / "dvc.yaml").read_text())["stages"]
    known = ["prepare@leaves", "train@leaves-capt-1", "train@leaves-wet-capt-1", "report"]
    lock = {"schema": "2.0", "stages": {name: {"cmd": name} for name in known}}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(lock))
    for _ in range(2):
        init(str(tmp_path), "--split")
        found = {
            each: yaml.safe_load((tmp_path / "pipelines" / each / "dvc.yaml").read_text())
            for each in names
        }
        rest = yaml.safe_load((tmp_path / "dvc.yaml").read_text())["stages"]
        for name, pipeline in found.items():
            assert pipeline["vars"] == ["../../params.yaml"]
            for stage, entry in pipeline["stages"].items():
                assert entry.pop("wdir") == "../.."
                assert entry["matrix"].pop("dataset") == [name]
                del whole_matrix(whole, stage)["dataset"]
                assert entry == whole[stage]
                whole_matrix(whole, stage)["dataset"] = "${datasets}"
            assert set(pipeline["stages"]) | set(rest) == set(whole)
        locks = {
            place: list(yaml.safe_load((tmp_path / place / "dvc.lock").read_text())["stages"])
            for place in (".", "pipelines/leaves", "pipelines/leaves-wet")
        }
        assert locks == {
            ".": ["report"],
            "pipelines/leaves": ["prepare@leaves", "train@leaves-capt-1"],
            "pipelines/leaves-wet": ["train@leaves-wet-capt-1"],
        }


def whole_matrix(stages: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = stages[name]["matrix"]
    return found


def test_a_pipeline_of_one_s_own_is_not_split(tmp_path: Path) -> None:
    with pytest.raises(CaptError, match="missing; name the folder of a project"):
        init(str(tmp_path), "--split")
    init(str(tmp_path), "--dataset", "leaves")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(CaptError, match="not written by capt-stage init"):
        init(str(tmp_path), "--split")
    assert (tmp_path / "dvc.yaml").read_text() == "stages: {}\n"
    with pytest.raises(CaptError, match="name the data set"):
        init(str(tmp_path / "other"))
