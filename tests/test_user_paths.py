"""Paths: what a file system refuses is named in one line, and briefly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from capt_core.data.image_lists import list_images
from capt_core.data.readers import read_split
from capt_core.data.registry import dataset_spec
from capt_core.params import Data
from capt_core.user_paths import brief, naming_files
from tests.data.own_images import class_folders
from tests.refusals import refusal


def test_a_long_path_shows_its_end() -> None:
    assert brief("a/b.jpg", 7) == "a/b.jpg"
    assert brief("aa/b.jpg", 7) == "....jpg"
    assert len(brief(Path("x/" * 3000))) == 200


def test_an_error_names_its_file(tmp_path: Path) -> None:
    @naming_files("the data")
    def fail(error: BaseException) -> None:
        raise error

    assert refusal(fail, OSError(13, "Permission denied", "a.jpg")).startswith(
        "a.jpg: Permission denied; correct"
    )
    assert refusal(fail, OSError("odd")).startswith("the data: odd; correct")
    assert "nested too deep" in refusal(fail, RecursionError())


def test_folders_nested_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(class_folders(tmp_path, bolt=3, nut=3) / "bolt")
    for _ in range(30):
        os.mkdir("x" * 200)
        os.chdir("x" * 200)
    message = refusal(read_split, dataset_spec("mine"), Data(root=str(tmp_path)))
    assert "File name too long" in message
    assert len(message) < 400


def test_what_predict_is_given(tmp_path: Path) -> None:
    class_folders(tmp_path, bolt=2)
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "bolt/up").symlink_to("..")
    assert "neither a file nor a folder" in refusal(list_images, [tmp_path / "pipe.jpg"])
    assert "File name too long" in refusal(list_images, [tmp_path / ("x" * 300)])
    assert "no such file or folder" in refusal(list_images, [tmp_path / "gone.jpg"])
    found = list_images([tmp_path / "bolt"])
    listed = found.block(0, len(found))
    # Its own two, the pipe by way of the link, and the link that leads back.
    assert len(listed) == 4
    assert sum("a folder above it" in (image.problem or "") for image in listed) == 1
