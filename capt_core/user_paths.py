"""Paths as users write them."""

from __future__ import annotations

from pathlib import Path

from capt_core.errors import CaptError, shown


def expanded(path: Path | str) -> Path:
    """A path with ``~`` and ``~user`` replaced by that home folder.

    Raises:
        CaptError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise CaptError(
            f"{shown(str(path))}: no such user's home folder; write the folder in full"
        ) from error
