"""What is known of a remote file without reading it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stat:
    """A remote file.

    Attributes:
        size: bytes; None where it is not told.
        version: what changes with the content, as its store says (etag, generation, or else the
            time of the last change); empty where nothing is told.
        modified: time of the last change by the store's clock, in seconds since 1970; None where it
            is not told.
    """

    size: int | None
    version: str
    modified: float | None = None

    @property
    def stamp(self) -> str:
        """What tells this content from another one of the same name."""
        return f"{self.size} {self.version}"


@dataclass(frozen=True)
class Entry:
    """What lies in a remote folder."""

    name: str
    is_folder: bool
    stat: Stat
