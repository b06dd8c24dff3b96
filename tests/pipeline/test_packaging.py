"""The wheel: what is in it, and that it works away from the checkout."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.processes import python

BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked."""
    # Built from a copy: setuptools leaves files beside the sources, and takes up old ones.
    source = tmp_path_factory.mktemp("source")
    for name in ("capt_core", "stages"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "params.yaml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    target = tmp_path_factory.mktemp("wheel")
    python("-c", BUILD, target, cwd=source).check_returncode()
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target / "unpacked")
    return target / "unpacked"


def files_below(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_library_and_the_commands_under_their_own_name(
    installed: Path,
) -> None:
    folders = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert folders == {"capt_core", "capt_stages"}
    assert files_below(installed / "capt_core") == files_below(PROJECT / "capt_core")
    assert files_below(installed / "capt_stages") == files_below(PROJECT / "stages")


def test_it_runs_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    def run(*words: str) -> str:
        done = python(*words, cwd=tmp_path, code=installed)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run("-c", "import capt_stages.cli; print(capt_stages.cli.__file__)")
    assert where.startswith(str(installed))
    few = [f"--set=prepare.proctex_{part}=1" for part in ("train", "val", "test")]
    assert "30 classes" in run("-m", "capt_core", "prepare", "--dataset", "proctex", *few)
    run("-m", "capt_core", "init", "project", "--dataset", "leaves")
    assert (tmp_path / "project/params.yaml").is_file()
