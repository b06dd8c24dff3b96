"""A remote folder as its names: the files that say what images are, and empty ones for all others.

The readers of data sets recognise layouts by what lies where. They are given a temporary folder of
the same names, in which tables, split files and class names have their content and images none.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from capt_core.addresses import WEB, address_of, usable
from capt_core.data.column_files import TABLE_ENDINGS
from capt_core.data.remote import stores
from capt_core.data.remote.braces import expanded
from capt_core.data.remote.shards import ENDING
from capt_core.data.remote.stat import Entry
from capt_core.data.scan import is_image_name, is_system_folder, is_utf8
from capt_core.errors import CaptError
from capt_core.text_file import read_json

_DOCUMENTS = (".csv", ".tsv", ".jsonl", ".json", ".yaml", ".yml", *TABLE_ENDINGS)
_NAMED = ("README.md",)
_DEEPEST_DOCUMENT = 4
_DEEPEST = 32
LARGEST_DOCUMENT = 256 * 1024**2
_MOST_DOCUMENTS = 500
_TRIED = 20  # images of a split file that readers look for


@dataclass
class _Tree:
    """A temporary folder and the address it stands for."""

    folder: Path
    address: str
    documents: int = 0
    passed: int = 0


_current: ContextVar[_Tree | None] = ContextVar("tree", default=None)


def original(path: Path) -> Path:
    """What a path in the tree of a remote folder stands for; others as they are."""
    tree = _current.get()
    if tree is None or not path.is_relative_to(tree.folder):
        return path
    return Path(tree.address) / path.relative_to(tree.folder)


def addressed(text: str) -> str:
    """What is said of the tree of a remote folder, with the folder's address."""
    tree = _current.get()
    return text if tree is None else text.replace(str(tree.folder), tree.address)


def parts_of(root: str) -> tuple[str, list[str]]:
    """The folder of a remote data set, and the names of the files in it that make it up.

    Args:
        root: a folder (no names), a file in it, or shards in brace notation.

    Raises:
        CaptError: an address that cannot be used.
    """
    addresses = [usable(each) for each in expanded(root)]
    if len(addresses) == 1 and not _is_file_name(addresses[0]):
        return addresses[0], []
    heads = [address.split("/")[:-1] for address in addresses]
    common = heads[0]
    for head in heads[1:]:
        same = [one == other for one, other in zip(common, head, strict=False)]
        common = common[: same.index(False) if False in same else len(same)]
    folder = "/".join(common)
    if not folder.partition("://")[2].strip("/"):
        raise CaptError(f"{root}: shards of several hosts or buckets; give those of one")
    return folder, [address[len(folder) + 1 :] for address in addresses]


def _is_file_name(address: str) -> bool:
    ending = Path(address).suffix.lower()
    return ending in (*_DOCUMENTS, ENDING) and address.count("/") > 2


@contextmanager
def remote_tree(root: str, below: str = "", needed: tuple[str, ...] = ()) -> Iterator[Path]:
    """A folder of the names of a remote one; yields what stands for `root` in it.

    A `CaptError` of the body names the address in the place of the folder.

    Args:
        root: `data.root`: a folder, a table or split file, or shards in brace notation.
        below: folder in it that is looked at, all others being left out.
        needed: files in that folder that are wanted with their content; and folders, ending in /,
            that are taken to be there where none are listed.

    Raises:
        CaptError: it cannot be listed or read.
    """
    folder, names = parts_of(root)
    with tempfile.TemporaryDirectory(prefix="capt-") as made:
        tree = _Tree(Path(made) / (folder.rpartition("/")[2] or "root"), folder)
        tree.folder.mkdir()
        token = _current.set(tree)
        try:
            _fill(tree, names, below, needed)
            yield tree.folder / names[0] if len(names) == 1 else tree.folder
        except CaptError as error:
            raise CaptError(addressed(str(error))) from error
        finally:
            _current.reset(token)


def _fill(tree: _Tree, names: list[str], below: str, needed: tuple[str, ...]) -> None:
    web = tree.address.partition(":")[0] in WEB
    if all(name.lower().endswith(ENDING) for name in names) and names:
        for name in names:
            _empty_file(tree.folder / name)
        _document(tree, "classes.yaml", optional=True)
    elif web and names:
        _document(tree, names[0])
        _document(tree, "classes.yaml", optional=True)
        _expect_images(tree.folder / names[0])
    elif web and needed:
        for name in needed:
            place = f"{below}/{name}" if below else name
            if name.endswith("/"):
                (tree.folder / place).mkdir(parents=True)
            else:
                _document(tree, place)
    else:
        address = f"{tree.address}/{below}" if below else tree.address
        try:
            _walk(tree, tree.folder / below, address, 0, needed)
        except OSError as error:
            _unlisted(address, error)


def _unlisted(address: str, error: OSError) -> NoReturn:
    why = "there is no such folder" if isinstance(error, FileNotFoundError) else error
    raise CaptError(
        f"{address}: cannot be listed ({why}); check the address, and the credentials in the "
        "environment"
    ) from None


def _walk(tree: _Tree, folder: Path, address: str, depth: int, needed: tuple[str, ...]) -> None:
    if depth > _DEEPEST:
        raise CaptError(f"{address}: folders nested too deep; move them up")
    folder.mkdir(parents=True, exist_ok=True)
    for entry in stores.entries(address):
        if not _is_name(entry.name):
            tree.passed += 1
            continue
        path = folder / entry.name
        if entry.is_folder:
            path.mkdir(exist_ok=True)
            if not is_system_folder(entry.name):
                _walk(tree, path, f"{address}/{entry.name}", depth + 1, needed)
        elif path.exists():  # a key that is the name of a folder, too
            tree.passed += 1
        elif _is_document(entry, depth, needed):
            _document(tree, path.relative_to(tree.folder).as_posix(), entry=entry)
        else:
            path.touch()


def _is_name(name: str) -> bool:
    """Whether a file system can have a key's part as a name."""
    return (
        name not in ("", ".", "..")
        and "/" not in name
        and is_utf8(name)
        and len(name.encode()) <= 255
        and name.isprintable()
    )


def _is_document(entry: Entry, depth: int, needed: tuple[str, ...]) -> bool:
    if entry.name in needed or entry.name in _NAMED:
        return True
    ending = Path(entry.name).suffix.lower()
    return depth <= _DEEPEST_DOCUMENT and ending in _DOCUMENTS and not entry.name.startswith(".")


def _document(
    tree: _Tree, name: str, *, entry: Entry | None = None, optional: bool = False
) -> None:
    """Fetch a file that says something about images."""
    address, path = f"{tree.address}/{name}", tree.folder / name
    tree.documents += 1
    if tree.documents > _MOST_DOCUMENTS:
        raise CaptError(
            f"{tree.address}: more than {_MOST_DOCUMENTS} tables and other documents; name the one "
            "to read as data.root"
        )
    size = None if entry is None else entry.stat.size
    try:
        large = size is not None and size > LARGEST_DOCUMENT
        content = b"" if large else stores.read(address, 0, LARGEST_DOCUMENT + 1)
    except OSError as error:
        if optional and isinstance(error, FileNotFoundError | PermissionError):
            return
        why = "there is no such file" if isinstance(error, FileNotFoundError) else error
        raise CaptError(
            f"{address}: cannot be read ({why}); check the address, and the credentials in the "
            "environment"
        ) from None
    if large or len(content) > LARGEST_DOCUMENT:
        raise CaptError(
            f"{address}: more than {LARGEST_DOCUMENT // 10**6} MB, too large for a list of images; "
            "copy it to a local disk if it holds images itself, or move it away"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _empty_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def _expect_images(split: Path) -> None:
    """Names for the first images of a split file, where nothing says which there are."""
    if split.suffix.lower() != ".json":
        return
    document = read_json(split, "get it again", any_text=True)
    rows = document.get("train") if isinstance(document, dict) else None
    for row in (rows if isinstance(rows, list) else [])[:_TRIED]:
        name = row[0] if isinstance(row, list) and row and isinstance(row[0], str) else ""
        parts = name.split("/")
        if is_image_name(name) and all(map(_is_name, parts)):
            _empty_file(split.parent / name)


def is_remote_root(root: str | None) -> bool:
    """Whether `data.root` is an address."""
    return root is not None and address_of(root) is not None
