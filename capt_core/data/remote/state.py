"""Whether what `data.root` stands for is as it was, without reading images."""

from __future__ import annotations

import hashlib

from capt_core.addresses import WEB
from capt_core.data.remote import stores
from capt_core.data.remote.tree import parts_of
from capt_core.data.scan import is_system_folder


def state_of(root: str, below: str = "") -> str:
    """A digest of the names, sizes and versions of the files of a remote data set.

    Of a folder of a benchmark behind https, which lists none, nothing can be told.

    Args:
        root: `data.root`.
        below: the data set's folder in it.

    Raises:
        CaptError, OSError: it cannot be looked up.
    """
    folder, names = parts_of(root)
    lines = [f"{name} {stores.stat(f'{folder}/{name}').stamp}" for name in names]
    waiting = [] if names or folder.partition(":")[0] in WEB else [below]
    while waiting:
        place = waiting.pop()
        for entry in stores.entries(f"{folder}/{place}".rstrip("/")):
            name = f"{place}/{entry.name}" if place else entry.name
            if not entry.is_folder:
                lines.append(f"{name} {entry.stat.stamp}")
            elif not is_system_folder(entry.name):
                waiting.append(name)
    digest = hashlib.sha256()
    for line in sorted(lines):
        digest.update(f"{line}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]
