"""Fixtures shared by all tests, and a quiet, repeatable environment for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Set before anything imports torch or Polars: tests run beside each other, one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "2")

pytest_plugins = ("tests.browser",)

settings.register_profile(
    "capt",
    deadline=None,
    max_examples=25,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("capt")

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def project() -> Path:
    """The project's root folder."""
    return PROJECT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference folder beside the project; tests that need it are skipped without it."""
    folder = PROJECT.parent / "shared"
    if not (folder / "data" / "splits").is_dir():
        pytest.skip(f"no reference data: {folder} is not there")
    return folder
