"""A stage killed at any moment leaves every artifact old or new, and can be run again."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.pipeline.commands import SMALL, capt, contents
from tests.processes import PROCESSES

KILLS = 4
STARTING = 0.5  # seconds, about; only spreads the kills


@pytest.mark.parametrize(
    ("stage", "method"),
    [("prepare", None), ("extract-features", None), ("mine-pairs", None), ("train", "capt")],
)
def test_killed_stage(copy: Path, stage: str, method: str | None) -> None:
    # Other settings than the small run's, so that old and new differ.
    overrides = (*SMALL, "fewshot.shots=8", *CHANGES[stage])
    old = contents(copy)
    began = time.monotonic()
    capt(stage, "proctex", copy, overrides, method=method)
    duration = time.monotonic() - began
    new = contents(copy)
    assert new != old

    for kill in range(KILLS):
        _restore(copy, old)
        process = PROCESSES.Process(
            target=capt, args=(stage, "proctex", copy, overrides), kwargs={"method": method}
        )
        process.start()
        # Starting takes a while too; the later kills fall into the writing.
        process.join((duration + STARTING) * (kill + 1) / KILLS)
        process.kill()
        process.join()
        found = {name: data for name, data in contents(copy).items() if not _temporary(name)}
        for name in old.keys() & found.keys():
            assert found[name] in (old[name], new[name]), f"{name} after kill {kill}"
        images = [name for name in old if "/images/" in name]
        for name in old.keys() - found.keys():
            assert name in images, f"{name} is gone after kill {kill}"

    capt(stage, "proctex", copy, overrides, method=method)
    final = {name: data for name, data in contents(copy).items() if not _temporary(name)}
    assert final == new


CHANGES = {
    "prepare": ("prepare.proctex_seed=3",),
    "extract-features": ("extract_features.batch_size=7",),
    "mine-pairs": ("mine_pairs.pairs=3",),
    "train": ("methods.capt.train.epochs=3",),
}


def _temporary(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _restore(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
