"""Paths in messages, and what file systems refuse."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from capt_core.errors import CaptError, reason


def brief(path: Path | str, limit: int = 200) -> str:
    """A path as a message shows it: of more than `limit` characters, its end."""
    text = str(path)
    return text if len(text) <= limit else f"...{text[3 - limit :]}"


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
