"""Commands that messages name can be copied: each leads on, and the last one to success."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from capt_core import advice
from capt_core.advice import Axes, axes_of, quoted
from capt_core.artifacts.layout import Layout, StudyLayout
from capt_core.errors import CaptError, one_line
from stages import cli
from stages.advising import CommandAdviser
from tests.conftest import PROJECT
from tests.pipeline.test_errors import random_weights

TINY = (
    "prepare.proctex_train=6",
    "prepare.proctex_val=2",
    "prepare.proctex_test=2",
    "fewshot.shots=4",
    "methods.capt.train.epochs=1",
    "runtime.workers=1",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with blanks in its name, and settings under another name."""
    folder = tmp_path / "my work"
    folder.mkdir()
    settings = (PROJECT / "params.yaml").read_text().replace("seeds: [1, 2, 3]", "seeds: [4, 5]")
    (folder / "my settings.yaml").write_text(settings)
    monkeypatch.chdir(folder)
    return folder


def run(words: list[str]) -> str | None:
    """The message that a command is refused with; None if it succeeds."""
    try:
        cli.app(words, standalone_mode=False)
    except CaptError as error:
        return str(error)
    return None


def follow(words: list[str]) -> list[str]:
    """Run a command, then whatever its messages advise, until it succeeds; the stages run."""
    done: list[str] = []
    while (message := run(words)) is not None:
        command = message.partition("; run: ")[2]
        assert command.startswith("capt-stage "), message
        advised = shlex.split(command)[1:]
        # It is the first stage that is missing, so it runs, and the message does not come again.
        assert run(advised) is None, command
        done.append(advised[0])
        assert len(done) < 20, f"advice leads in a circle: {message}"
    return done


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["train", "--method", "clip", "--seed", "9"],
            ["prepare", "extract-features"],
        ),
        (
            ["report"],
            ["prepare", "extract-features", "fit-teacher", "infer-teacher"],
        ),
        (
            ["evaluate", "--method", "clip", "--variant", "without_statistics"],
            ["prepare", "extract-features", "train", "fit-teacher", "infer-teacher", "build-bank"],
        ),
    ],
    ids=["a seed of its own", "a report of the base model alone", "a variant"],
)
def test_advice_leads_from_nothing_to_success(
    folder: Path, words: list[str], expected: list[str]
) -> None:
    given = ["--params", "my settings.yaml", "--artifacts", "my artifacts"]
    given += [f"--set={setting}" for setting in TINY]
    given += ["--set", "generate_prompts.answers=my answers"]
    assert follow([*words, "--dataset", "proctex", *given]) == expected
    assert not (folder / "artifacts").exists()


def test_an_input_made_with_another_backbone_counts_as_missing(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = random_weights(tmp_path / "other weights.safetensors")
    adviser = CommandAdviser("proctex", None, copy, ("fewshot.shots=8", weights), seed=1)
    path = Layout(copy, "proctex").seed(1).run("capt").model
    assert adviser.stage("train", path).startswith("capt-stage extract-features --dataset proctex")
    assert f"--set {shlex.quote(weights)}" in adviser.stage("train", path)


def test_a_path_says_what_the_artifact_is_of() -> None:
    layout = Layout(Path("seed9/artifacts"), "dtd")
    assert axes_of(layout.samples) == Axes("dtd")
    assert axes_of(layout.fewshot(8, 3)) == Axes("dtd", 3)
    assert axes_of(layout.seed(3).pairs) == Axes("dtd", 3)
    assert axes_of(layout.seed(3).run("capt").loss_plot) == Axes("dtd", 3, "capt")
    assert axes_of(layout.evaluation("zero-seed", 3)) == Axes("dtd", 3, "zero-seed")


def test_the_variant_follows_from_the_path(tmp_path: Path) -> None:
    root = StudyLayout(tmp_path).variant("without_statistics")
    told = CommandAdviser(artifacts=tmp_path).stage(
        "evaluate", Layout(root, "proctex", tmp_path).evaluation("clip", 1)
    )
    # Nothing is there: what no variant changes comes first.
    assert told == f"capt-stage prepare --dataset proctex --artifacts {tmp_path}"


@pytest.mark.parametrize(
    "word", ["plain", "a b", "it's", "a\nb", "back\\slash\t'", "caf\udce9", ""]
)
def test_a_quoted_word_is_read_by_the_shell_as_it_was(word: str, tmp_path: Path) -> None:
    line = quoted(word)
    assert one_line(line) == line
    told = subprocess.run(
        ["bash", "-c", f"printf %s {line}"], capture_output=True, check=True
    ).stdout
    assert told == os.fsencode(word)


def test_outside_the_command_line_settings_are_arguments(tmp_path: Path) -> None:
    assert advice.setting("data.on_bad_image", "quarantine") == "on_bad_image=quarantine"
    assert advice.prepare() == "open the data set again"
    path = Layout(tmp_path, "dtd").samples
    assert str(advice.run_stage("prepare", path)) == "run: capt-stage prepare --dataset dtd"


def test_under_dvc_a_setting_belongs_into_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    adviser = CommandAdviser()
    assert adviser.setting("data.root", "DIR") == "--set data.root=DIR"
    monkeypatch.setenv("DVC_STAGE", "prepare@dtd")
    assert adviser.setting("data.root", "DIR") == "data.root=DIR in params.yaml"


def test_a_tools_command_carries_what_the_tool_takes() -> None:
    adviser = CommandAdviser("dtd", Path("my.yaml"), Path("out"), ("data.layout=table",))
    shared = "--params my.yaml --artifacts out --set data.layout=table"
    assert adviser.tool("doctor", dataset="dtd") == f"capt-stage doctor --dataset dtd {shared}"
    told = adviser.tool("fetch", dataset="dtd", root=Path("a b"), only=["x", "y"], again=True)
    assert told == "capt-stage fetch --dataset dtd --root 'a b' --only x --only y --again"
