"""Weights that several test modules load."""

from __future__ import annotations

import pytest

from tests.backbone.small_model import State, small_weights


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> State:
    """Weights of the small model."""
    return small_weights(tmp_path_factory.mktemp("config"))
