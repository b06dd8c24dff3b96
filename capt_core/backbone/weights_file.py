"""What kind of file is given as weights, told from how it begins."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from enum import StrEnum
from pathlib import Path

from capt_core.errors import CaptError, cut, reason
from capt_core.user_paths import brief

LEGACY_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
"""How archives that torch wrote before 1.6 begin."""

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_HEAD = 512
_PICKLED = re.compile(rb"\x80[\0-\5]|\([dl]p|[]})]q|\(?[ci][\w.]+\n\w+\n")
"""How pickles begin: of protocol 2 and later, and dicts, lists and objects of the earlier ones."""


class Form(StrEnum):
    """Forms of weights that are read."""

    ARCHIVE = "archive"  # of torch.save or torch.jit.save
    SAFETENSORS = "safetensors"


SETTING = "backbone.checkpoint"
"""The setting that names a backbone's weights."""


def place(path: Path, setting: str = SETTING) -> str:
    """How a message names a weights file that a setting names."""
    return f"{setting}: {brief(path)}"


def weights_form(path: Path, setting: str = SETTING) -> Form:
    """The form of a weights file that a setting names, from its first bytes.

    Raises:
        CaptError: there is no such file, it cannot be read, or it holds no weights; the message
            says what it is.
    """
    where = place(path, setting)
    try:
        if path.is_dir():
            raise CaptError(f"{where}: a folder; name the weights file{_example(path)}")
        if not path.exists():
            raise CaptError(f"{where}: no such file")
        if not path.is_file():
            raise CaptError(f"{where}: no regular file")
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(4096)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or reason(error)
        raise CaptError(f"{where}: cannot be read ({said})") from error
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and length < 100 * 1024**2:
        if 8 + length > size or _safetensors_end(path, length) > size:
            raise CaptError(f"{where}: {_TRUNCATED}")
        return Form.SAFETENSORS
    wrong = _not_weights(path, start)
    if wrong:
        raise CaptError(f"{where}: {wrong}")
    return Form.ARCHIVE


_AGAIN = "get the file itself"
_TRUNCATED = "truncated, the end of the file is missing; copy or download it again"
WRITE_ALONE = (
    "write the state dict alone where the model is at hand: "
    "torch.save(model.state_dict(), 'weights.pt')"
)
_SHARDS = (
    'the index of weights in several files; join them first: python -c "import glob; from '
    "safetensors.torch import load_file, save_file; save_file({k: v for f in "
    "sorted(glob.glob('*-of-*.safetensors')) for k, v in load_file(f).items()}, "
    "'joined.safetensors')\" in its folder"
)


def _not_weights(path: Path, start: bytes) -> str:
    """What a file is that is no weights file, with what to do; empty for torch's own forms."""
    head = start[:_HEAD]
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return f"an empty file; {_AGAIN}"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the weights; run git lfs pull in its repository"
    if b"/annex/objects/" in head[:200]:
        return "a git-annex pointer, not the weights; run git annex get on it"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return f"a web page, not weights; {_AGAIN}, by the page's download link"
    if text.startswith(b"{"):
        if b"weight_map" in start:
            return _SHARDS
        return f"JSON text, not weights; {_AGAIN} that belongs to it"
    if head.startswith(b"PK\x03\x04"):
        return "" if zipfile.is_zipfile(path) else _TRUNCATED
    if head.startswith(LEGACY_MAGIC):
        return ""
    if _PICKLED.match(head):
        return f"a pickled object, which is not read because that can run code; {WRITE_ALONE}"
    for start, kind in _KINDS.items():
        if head.startswith(start):
            return f"{kind}, not weights of torch; {WRITE_ALONE}"
    if head[257:262] == b"ustar":
        return f"a tar archive; unpack it and name the weights in it, or {WRITE_ALONE}"
    if not head.strip(b"\0"):
        return "zero bytes at its beginning; copy or download it again"
    if _is_text(head):
        return f"text, not weights; {_AGAIN}"
    return f"of no form that is read (safetensors, or a torch.save archive); {WRITE_ALONE}"


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # not a character that is merely cut off
            return False
        text = head[: error.start].decode("utf-8")
    return all(letter.isprintable() or letter.isspace() for letter in text)


_KINDS = {
    b"\x1f\x8b": "gzip-compressed",
    b"BZh": "bzip2-compressed",
    b"\xfd7zXZ": "xz-compressed",
    b"\x28\xb5\x2f\xfd": "zstd-compressed",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x89HDF": "HDF5 (Keras)",
    b"\x93NUMPY": "a numpy array",
    b"GGUF": "GGUF",
}


def _safetensors_end(path: Path, length: int) -> int:
    """Where the last tensor of a safetensors file ends, by its header; 0 if that is unreadable."""
    try:
        with path.open("rb") as file:
            file.seek(8)
            entries = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name[:2] != "__"]
        return 8 + length + max(ends, default=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OSError):
        return 0


def _example(folder: Path) -> str:
    found = sorted(file.name for file in folder.iterdir() if file.suffix in SUFFIXES)
    return f" in it, such as {cut(found[0])}" if found else "; this one holds none"
