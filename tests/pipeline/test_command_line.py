"""The command line itself: its list of commands, settings without a file, what is printed where."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from capt_core import __version__
from capt_core.errors import CaptError
from stages import cli
from stages.commands import STAGES, TOOLS
from tests.conftest import PROJECT

FEW = [f"--set=prepare.proctex_{part}=1" for part in ("train", "val", "test")]
PREPARE = ["prepare", "--dataset", "proctex", *FEW]
NOTICE = "no params.yaml here: using the packaged settings\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> Result:
    result = CliRunner().invoke(cli.app, words, prog_name="capt-stage", catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize("name", [*STAGES, *TOOLS])
def test_every_listed_command_is_there(name: str) -> None:
    shown = run(name, "--help").stdout
    assert shown.startswith(f"Usage: capt-stage {name} ")
    assert (STAGES | TOOLS)[name] in " ".join(shown.split())


def test_help_lists_the_stages_in_order_then_the_tools() -> None:
    lines = run("--help").stdout.splitlines()
    first = [line.split()[0] for line in lines if line.startswith("  ") and line[2:3].isalpha()]
    named = [word for word in first if word in STAGES | TOOLS]
    assert named == [*STAGES, *TOOLS]


def test_a_slip_is_answered_with_what_was_meant() -> None:
    result = CliRunner().invoke(cli.app, ["prepar"])
    assert result.exit_code == 2
    assert "Did you mean 'prepare'" in result.stderr


def test_version() -> None:
    assert run("--version").stdout == f"capt-stage {__version__}\n"


def test_without_a_settings_file_the_packaged_settings_hold(folder: Path) -> None:
    result = run(*PREPARE)
    assert result.stderr.startswith(NOTICE)
    assert "30 classes" in result.stdout
    # Few-shot lists of every seed of the packaged settings.
    assert len(list((folder / "artifacts/proctex/fewshot").iterdir())) == 3


def test_the_settings_file_of_the_current_folder_is_read(folder: Path) -> None:
    text = (PROJECT / "params.yaml").read_text().replace("seeds: [1, 2, 3]", "seeds: [7]")
    (folder / "params.yaml").write_text(text)
    assert NOTICE not in run(*PREPARE).stderr
    (listed,) = (folder / "artifacts/proctex/fewshot").iterdir()
    assert listed.name.endswith("seed7.parquet")


def test_a_tilde_that_the_shell_leaves_is_the_home_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = folder / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    (home / "mine.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
    run(*PREPARE, "--artifacts=~/made", "--params=~/mine.yaml")
    assert (home / "made/proctex/samples.parquet").is_file()
    assert [each.name for each in folder.iterdir()] == ["home"]


@pytest.mark.parametrize("option", ["--artifacts", "--params"])
@pytest.mark.parametrize("path", ["~no-such-user-here/x", "x" * 300, "x/" * 3000])
def test_an_impossible_path_is_shown_in_part(folder: Path, option: str, path: str) -> None:
    with pytest.raises(CaptError) as caught:
        run(*PREPARE, f"{option}={path}")
    assert str(caught.value).startswith(f"{option}: ")
    assert len(str(caught.value)) < 200
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    "words", [["-q", *PREPARE], [*PREPARE, "--quiet"]], ids=["before", "after"]
)
def test_quiet(folder: Path, words: list[str]) -> None:
    assert run(*words).output == ""
    assert (folder / "artifacts/proctex/samples.parquet").is_file()
    # It holds for one invocation.
    assert run(*PREPARE).stdout


def test_verbose_names_settings_versions_and_device(folder: Path) -> None:
    run("init", "--dataset", "proctex")
    printed = run(*PREPARE, "--verbose").stderr
    assert f"settings: {folder}/params.yaml\n" in printed
    assert f"capt-stage {__version__}, Python" in printed
    assert "device: " in printed
    assert "runtime.device is auto" in printed


@pytest.mark.parametrize("words", [[], ["--verbose"]], ids=["plain", "verbose"])
def test_a_mistake_is_one_line_and_with_verbose_its_traceback(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["capt-stage", *words, *PREPARE, "--params", "nowhere.yaml"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    printed = capsys.readouterr().err.splitlines()
    assert printed[-1].startswith("error: nowhere.yaml: cannot be read")
    assert (len(printed) > 1) == bool(words)
    # The cause is shown, too.
    assert any("FileNotFoundError" in line for line in printed) == bool(words)


def test_json_is_all_that_is_on_standard_output(folder: Path) -> None:
    result = run("doctor", "--json")
    found = json.loads(result.stdout)
    assert found["ok"]
    assert {"check", "state", "detail", "remedy"} == set(found["findings"][0])
    assert result.stderr.startswith(NOTICE)

    result = run("prompts", "verify", "--dataset", "proctex", "--json", "-q")
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert (found["problems"], found["pairs"], found["answers"]) == (0, 210, 0)


def test_json_of_the_report(copy: Path) -> None:
    words = ["--artifacts", str(copy), "--params", str(PROJECT / "params.yaml")]
    found = json.loads(run("report", *words, "--json").stdout)
    assert {row["method"] for row in found["results"]} == {"clip", "capt"}
    assert str(copy / "report.html") in found["files"]


@pytest.mark.parametrize("words", [["[" * 5000], ["prepare", "--" + "x" * 5000]])
def test_what_makes_no_sense_is_quoted_in_part(words: list[str]) -> None:
    result = CliRunner().invoke(cli.app, words, prog_name="capt-stage")
    assert result.exit_code == 2
    assert all(len(line) < 400 for line in result.stderr.splitlines())
