"""Atomic writing: the old file or the new one, and nothing else in the folder."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from capt_core.artifacts.files import atomic_path, write_json, write_text
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.tables import Column, Table, write_table
from capt_core.artifacts.tensors import write_tensors
from capt_core.artifacts.work_files import write_work_file
from tests.processes import python
from tests.refusals import refusal


def test_text_is_written_into_folders_that_do_not_exist_yet(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "notes.txt"
    write_text(target, "äöü\n")
    assert target.read_bytes() == "äöü\n".encode()
    assert [path.name for path in target.parent.iterdir()] == ["notes.txt"]


def test_the_target_appears_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "notes.txt"
    target.write_text("old")
    with atomic_path(target) as temporary:
        assert temporary.parent.parent == target.parent
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert not temporary.exists()


@pytest.mark.parametrize("old", [[], ["old"]], ids=["new", "old"])
@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit, ValueError])
def test_a_failure_in_the_body_keeps_the_old_file_and_its_own_type(
    tmp_path: Path, failure: type[BaseException], old: list[str]
) -> None:
    target = tmp_path / "notes.txt"
    for text in old:
        target.write_text(text)

    def body() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half of the ne")
            raise failure("stopped")

    with pytest.raises(failure):
        body()
    assert [path.read_text() for path in tmp_path.iterdir()] == old


def test_a_file_in_the_place_of_the_folder_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("in the way")
    target = tmp_path / "artifacts" / "notes.txt"
    message = refusal(write_text, target, "x")
    assert "a file is in the place of its folder; move it away" in message
    assert str(target) in message


def test_a_folder_in_the_place_of_the_file_is_a_users_mistake(tmp_path: Path) -> None:
    target = tmp_path / "notes.txt"
    target.mkdir()
    assert "a folder is in its place; move it away" in refusal(write_text, target, "x")
    assert list(tmp_path.iterdir()) == [target]


def test_files_get_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    write_text(tmp_path / "atomic", "x")
    assert stat.S_IMODE((tmp_path / "atomic").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "plain").stat().st_mode
    )


def test_equal_values_give_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "one.json", {"b": [1, 2], "a": "ä"})
    write_json(tmp_path / "two.json", {"a": "ä", "b": [1, 2]})
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert json.loads((tmp_path / "one.json").read_text(encoding="utf-8")) == {
        "a": "ä",
        "b": [1, 2],
    }


_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from capt_core.artifacts.files import write_text
from capt_core.errors import CaptError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_text(Path(sys.argv[1]), "x" * 100_000)
except CaptError as error:
    print(error)
    sys.exit(2)
"""


def test_a_full_disk_is_one_line_and_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "notes.txt"
    target.write_text("old")
    done = python("-c", _FULL_DISK, target)
    assert done.returncode == 2, done.stderr
    assert str(target) in done.stdout
    assert "free space" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_what_killed_writers_left_goes_with_the_next_success(tmp_path: Path) -> None:
    target = tmp_path / "notes.txt"
    killed = python("-c", _KILLED, target)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    foreign = tmp_path / ".notes.txt.abc.tmp"
    foreign.mkdir()
    with atomic_path(tmp_path / "other.txt") as alive:
        alive.write_text("still being written")
        write_text(target, "new")
        assert alive.exists()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".notes.txt.abc.tmp", "notes.txt", "other.txt"]


_KILLED = """
import os, signal, sys
from pathlib import Path
from capt_core.artifacts.files import atomic_path

with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half of the ne")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("name", "cause"), [("x" * 300, "File name too long"), ("a\0b", "NUL character")]
)
def test_impossible_names_are_one_line(tmp_path: Path, name: str, cause: str) -> None:
    assert cause in refusal(write_text, tmp_path / name, "x")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_for_every_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    column = Table("t", "s", "t", "One row.", [Column("i", pl.Int64(), "")], key=["i"])
    origin = Provenance("d")
    calls: tuple[tuple[Callable[..., object], *tuple[Any, ...]], ...] = (
        (write_text, target, "x"),
        (write_json, target, {}),
        (write_table, column, pl.DataFrame({"i": [1]}), target, origin),
        (write_tensors, target, {"a": torch.zeros(2)}, {}, origin),
        (write_work_file, target, {"a": torch.zeros(2)}),
    )
    for call, *arguments in calls:
        message = refusal(call, *arguments)
        assert "cannot write (No space left on device)" in message
        assert list(tmp_path.iterdir()) == []
