"""Paths in messages, and what file systems refuse."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from capt_core.addresses import address_of, is_address, without_credentials
from capt_core.errors import CaptError, reason, shown
from capt_core.text import unfit_character


def brief(path: Path | str, limit: int = 200) -> str:
    """A path or address as a message shows it: of more than `limit` characters, its end."""
    text = address_of(path) or str(path)
    return text if len(text) <= limit else f"...{text[3 - limit :]}"


def usable_path(path: str | None) -> str | None:
    """A path of the settings, unchanged, if a file could have it at all.

    Raises:
        ValueError: control characters, a name too long for any file system, an unknown ``~user``;
            an address with credentials in it.
    """
    if path is None:
        return path
    if is_address(path):
        without_credentials(path)
    if unfit := unfit_character(path):
        raise ValueError(f"no path holds the character {unfit}")
    names = path.split(os.sep)
    if len(os.fsencode(path)) >= 4096 or any(len(os.fsencode(name)) > 255 for name in names):
        raise ValueError(f"longer than a path can be: {shown(path)}")
    try:
        Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"no such user's home folder: {shown(path)}") from error
    return path


def user_path(path: Path | str, where: str) -> Path:
    """A path that is given as an argument or option, named `where`, with ``~`` written out.

    Raises:
        CaptError: as `usable_path`.
    """
    try:
        usable_path(str(path))
    except ValueError as error:
        raise CaptError(f"{where}: {error}") from error
    return Path(path).expanduser()


@contextmanager
def naming_files(what: str) -> Iterator[None]:
    """Turn an error of the file system into a line that names the file; also a decorator.

    Args:
        what: named where the system does not say which file it is.

    Raises:
        CaptError: a file or folder cannot be looked up, listed or read.
    """
    try:
        yield
    except RecursionError as error:
        raise CaptError(f"{what}: folders nested too deep; move them up") from error
    except OSError as error:
        named = brief(str(error.filename)) if error.filename else what
        raise CaptError(
            f"{named}: {error.strerror or reason(error)}; correct its name, its permissions or "
            "those of its folder"
        ) from error
