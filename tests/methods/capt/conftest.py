"""The small CLIP that CAPT is put around."""

from __future__ import annotations

from typing import Any

import pytest

from tests.toys import small_clip


@pytest.fixture(scope="session")
def clip() -> Any:
    """Frozen; tests leave it as it is."""
    return small_clip()
