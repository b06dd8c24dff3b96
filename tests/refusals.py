"""What a refused call says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from capt_core.errors import CaptError


def refusal(call: Callable[..., object], *arguments: Any, **named: Any) -> str:
    """The one line that a call is refused with."""
    with pytest.raises(CaptError) as caught:
        call(*arguments, **named)
    message = str(caught.value)
    assert "\n" not in message
    return message
