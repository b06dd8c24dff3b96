"""Addresses that tables list, and which of them are followed."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from capt_core.addresses import FROM_LISTS, WEB, address_of, public, remember
from capt_core.data.remote.tree import original
from capt_core.data.remote.web import is_private
from capt_core.errors import CaptError, cut

_LIKE_AN_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.I)


def looks_like_address(cell: object) -> bool:
    """Whether a table's cell is an address of any kind, readable or not."""
    return isinstance(cell, str) and _LIKE_AN_ADDRESS.match(cell.strip()) is not None


def listed_address(cell: str, table: Path | str) -> str:
    """The public form of an address in a table, which `remember` keeps whole.

    Args:
        cell: of the table.
        table: its path or address. One from elsewhere may not lead into the net that this machine
            is in, but for its own host.

    Raises:
        CaptError: an address of another kind, into a private net, or one that no path can keep.
    """
    text = cell.strip()
    scheme = text.partition(":")[0].lower()
    if scheme not in FROM_LISTS:
        raise CaptError(
            f"{cut(public(text), 60)}: an address that is not read from a list; known are "
            f"{', '.join(f'{each}://' for each in FROM_LISTS)}"
        )
    shown = remember(f"{scheme}{text[len(scheme) :]}")
    where = address_of(original(Path(table)) if isinstance(table, Path) else table)
    if where is not None and scheme in WEB:
        host = urlsplit(text).hostname or ""
        if host != urlsplit(where).hostname and is_private(host):
            raise CaptError(
                f"{cut(shown, 60)}: leads from a list of another host into a private net; not read"
            )
    return shown
