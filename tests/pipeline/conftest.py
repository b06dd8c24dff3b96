"""A small run of the whole pipeline, made once and looked at by many tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tests.pipeline.commands import SMALL, capt, run


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of the embedded data set with few images, both methods, seed 1. Read only."""
    # Test processes that run side by side share one run.
    shared = os.environ.get("PYTEST_XDIST_WORKER") is not None
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if shared else base) / "small"
    with FileLock(f"{folder}.lock"):
        if not (folder / "report.html").is_file():
            run(folder, "proctex", SMALL)
    return folder


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    """A copy of the small run that a test may change."""
    return Path(shutil.copytree(small, tmp_path / "artifacts"))


@pytest.fixture
def again(copy: Path) -> Callable[..., None]:
    """Run a stage of the small run once more, with its settings and further ones."""

    def run(stage: str, *overrides: str, method: str | None = None) -> None:
        capt(stage, "proctex", copy, (*SMALL, *overrides), method=method)

    return run
