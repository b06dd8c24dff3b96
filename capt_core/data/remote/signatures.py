"""Signatures of addresses, which artifacts do not keep, found again where they stand: in tables."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from capt_core.addresses import WEB, address_of, is_address, private, remember
from capt_core.data.column_files import TABLE_ENDINGS, open_table
from capt_core.data.remote.tree import parts_of, remote_tree
from capt_core.data.scan import files_in
from capt_core.errors import CaptError

_unread: list[str] = []
"""Roots whose tables have not been looked through."""


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
    # The readers of data sets open images, which may need what is found here.
    from capt_core.data.readers.text_tables import TEXT_ENDINGS, read_text_columns, text_columns

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
