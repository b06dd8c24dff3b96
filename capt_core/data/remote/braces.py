"""Names of shards in brace notation: ``train-{000..146}.tar``, ``{train,val}-0.tar``."""

from __future__ import annotations

import os
import re
from pathlib import Path

from capt_core.errors import CaptError, cut
from capt_core.user_paths import brief

MOST = 100_000
_INNERMOST = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")


def expanded(text: str) -> list[str]:
    """The names that a text in brace notation stands for, in order; itself if it has no braces.

    Raises:
        CaptError: more than `MOST` names, or braces that hold neither a range nor alternatives.
    """
    names = [text]
    while any("{" in name for name in names):
        more: list[str] = []
        for name in names:
            more += _once(name, text)
            if len(more) > MOST:
                raise CaptError(f"{cut(text, 200)}: stands for more than {MOST} names; shorten it")
        names = more
    return list(dict.fromkeys(names))


def is_pattern(root: str) -> bool:
    """Whether `data.root` names shards of this machine in brace notation."""
    return "{" in root and root.lower().endswith(".tar") and not os.path.exists(root)


def shards_of(root: str) -> list[Path]:
    """The files of this machine that a text in brace notation stands for.

    Raises:
        CaptError: one of them does not exist, or they lie in several folders.
    """
    paths = [Path(os.path.expanduser(name)) for name in expanded(root)]
    for path in paths:
        if not path.is_file():
            raise CaptError(f"data.root: {brief(path)} does not exist; correct the numbers in {{}}")
        if path.parent != paths[0].parent:
            raise CaptError(
                f"data.root: {brief(root)} names shards in several folders; give the folder above, "
                "with those of each split in a folder named for it"
            )
    return paths


def _once(name: str, text: str) -> list[str]:
    """Names with the first innermost braces written out."""
    if "{" not in name:
        return [name]
    found = _INNERMOST.search(name)
    if found is None or not ("," in found[1] or _RANGE.fullmatch(found[1])):
        raise CaptError(f"{cut(text, 200)}: expected braces as in {{000..146}} or {{train,val}}")
    before, after = name[: found.start()], name[found.end() :]
    return [f"{before}{word}{after}" for word in _words(found[1], text)]


def _words(inner: str, text: str) -> list[str]:
    ends = _RANGE.fullmatch(inner)
    if ends is None:
        return inner.split(",")
    first, last = int(ends[1]), int(ends[2])
    if last < first or last - first >= MOST:
        raise CaptError(f"{cut(text, 200)}: expected a range that rises, of at most {MOST} numbers")
    width = len(ends[1]) if ends[1].startswith("0") or len(ends[1]) == len(ends[2]) else 0
    return [f"{number:0{width}d}" for number in range(first, last + 1)]
