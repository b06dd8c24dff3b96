"""The hostile server as a fixture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.data.fetching.server import Hostile, serving


@pytest.fixture
def server() -> Iterator[Hostile]:
    with serving() as hostile:
        yield hostile
