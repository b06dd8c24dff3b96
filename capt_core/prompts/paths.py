"""Files and folders that settings name."""

from __future__ import annotations

from pathlib import Path

from capt_core.errors import CaptError, shown


def named_path(setting: str, value: str) -> Path:
    """The path that a setting names, with ``~`` for the home folder.

    Raises:
        CaptError: no path can be called so.
    """
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        raise CaptError(f"{setting}={shown(value)}: there is no such home folder") from None
    if "\0" in value:
        raise CaptError(f"{setting}={shown(value)}: a path holds no NUL character")
    return path
