"""Addresses that tables list: which are followed, and where their signatures are found again."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from capt_core.addresses import FROM_LISTS, WEB, address_of, is_address, private, public, remember
from capt_core.data.column_files import TABLE_ENDINGS, open_table
from capt_core.data.readers.text_tables import TEXT_ENDINGS, read_text_columns, text_columns
from capt_core.data.remote.tree import original, parts_of, remote_tree
from capt_core.data.remote.web import is_private
from capt_core.data.scan import files_in
from capt_core.errors import CaptError, cut

_LIKE_AN_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.I)
_unread: list[str] = []
"""Roots whose tables have not been looked through for signatures."""


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


def signatures_below(root: str | None) -> None:
    """Note `data.root` as the place of tables whose addresses may carry signatures.

    Artifacts keep addresses without them, so a later stage looks them up where they stand.
    """
    if root is not None and root not in _unread:
        _unread.append(root)


def known_signature(address: str) -> str:
    """The same address, after looking through noted tables if its signature may be in one."""
    if address.partition(":")[0] in WEB and private(address) == address:
        while _unread:
            _look_through(_unread.pop())
    return address


def _look_through(root: str) -> None:
    with contextlib.suppress(CaptError, OSError):
        if address_of(root) is not None:
            if parts_of(root)[1]:
                with remote_tree(root) as source:
                    _remember_cells(source)
            return
        place = Path(os.path.expanduser(root))
        tables = [place] if place.is_file() else [place / name for name in files_in(place)]
        for table in tables:
            _remember_cells(table)


def _remember_cells(table: Path) -> None:
    with contextlib.suppress(CaptError, OSError):
        for cell in _cells(table):
            if is_address(cell) and cell.partition(":")[0].lower() in WEB:
                with contextlib.suppress(CaptError):
                    remember(cell.strip())


def _cells(table: Path) -> Iterator[str]:
    ending = table.suffix.lower()
    if ending in TEXT_ENDINGS:
        for column in read_text_columns(table, text_columns(table))[0]:
            yield from (cell for cell in column if isinstance(cell, str))
    elif ending in TABLE_ENDINGS:
        opened = open_table(table)
        for name in opened.schema.names:
            if "string" in str(opened.schema.field(name).type):
                yield from (cell for cell in opened.values(name) if _is_text(cell))


def _is_text(cell: Any) -> bool:
    return isinstance(cell, str)
