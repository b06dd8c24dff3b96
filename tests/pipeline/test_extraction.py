"""The stage extract-features on several processes, one of which is killed."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from capt_core.artifacts.feature_parts import Encoded, FeatureParts
from stages.shards import shard_of
from tests.data.own_images import class_folders
from tests.pipeline.commands import capt
from tests.processes import PROCESSES
from tests.refusals import refusal

SETTINGS = ("extract_features.batch_size=4", "extract_features.part_images=8", "runtime.workers=1")
TABLES = ("image_features.parquet", "text_features.parquet")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Artifacts of 44 images, and the settings that they are used with."""
    root = class_folders(tmp_path_factory.mktemp("photos"), round=22, square=22)
    folder = tmp_path_factory.mktemp("prepared")
    settings = [f"data.root={root}", *SETTINGS]
    capt("prepare", "mine", folder, settings)
    return folder, settings


def extract_share(
    folder: Path, settings: Sequence[str], rank: int, parts_before_death: int | None
) -> None:
    """What torchrun starts; perhaps killed after so many parts."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    written = 0

    class Mortal(FeatureParts):
        def write(self, part: Encoded) -> None:
            nonlocal written
            super().write(part)
            written += 1
            if written == parts_before_death:
                os.kill(os.getpid(), signal.SIGKILL)

    from stages import extract_features

    setattr(extract_features, "FeatureParts", Mortal)  # noqa: B010  (a name it imports)
    capt("extract-features", "mine", folder, settings)


def run_both(
    folder: Path, settings: Sequence[str], *parts_before_death: int | None
) -> list[int | None]:
    processes = [
        PROCESSES.Process(target=extract_share, args=(folder, settings, rank, parts))
        for rank, parts in enumerate(parts_before_death)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def tables(folder: Path) -> list[bytes]:
    return [(folder / "mine" / name).read_bytes() for name in TABLES]


def test_killed_processes_go_on_and_write_what_one_writes(
    prepared: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, settings = prepared
    one, two = (
        Path(shutil.copytree(folder, tmp_path / name)) for name in ("one process", "two processes")
    )
    capt("extract-features", "mine", one, settings)
    assert run_both(two, settings, None, 1) == [0, -signal.SIGKILL]
    assert not (two / "mine" / TABLES[0]).exists()
    kept = {path: path.stat().st_ino for path in two.rglob("work/features/mine/*/*.parquet")}
    assert len(kept) == 4  # of six: all of the first process's three, one of the other's
    assert run_both(two, settings, None, None) == [0, 0]
    assert tables(two) == tables(one)
    assert {path: path.stat().st_ino for path in kept} == kept


def test_shards_need_no_launcher(
    prepared: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from stages.cli import app
    from tests.pipeline.commands import arguments

    folder, settings = prepared
    copy = Path(shutil.copytree(folder, tmp_path / "shards"))
    words = arguments("extract-features", "mine", copy, settings)
    app([*words, "--shard", "2/2"], standalone_mode=False)
    assert "are left to other shares" in capsys.readouterr().out
    assert not (copy / "mine" / TABLES[0]).exists()
    app([*words, "--shard", "1/2"], standalone_mode=False)
    said = capsys.readouterr().out
    assert "of the time waiting for images" in said
    assert "44 images, 2 prompts" in said
    first = tables(copy)
    app(words, standalone_mode=False)
    assert "44 images had been encoded" in capsys.readouterr().out
    assert tables(copy) == first


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "1/0", "-1/2", "a/b", "1/2/3"])
def test_what_is_no_shard_is_refused(shard: str) -> None:
    assert "expected I/N" in refusal(shard_of, shard)


def test_shards_and_processes_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.extract_features import share_of

    shares = set()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for shard in ("1/3", "2/3", "3/3"):
        for rank in ("0", "1"):
            monkeypatch.setenv("RANK", rank)
            share = share_of(shard_of(shard))
            assert share.count == 6
            shares.add(share.index)
    assert shares == set(range(6))
