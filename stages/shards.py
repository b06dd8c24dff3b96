"""Parts of a long list of images, for processes that share it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

import typer

from capt_core.errors import CaptError, shown


@dataclass(frozen=True)
class Shard:
    """One of several parts; the first has number 1."""

    number: int
    count: int

    def of(self, total: int) -> range:
        """The numbers below `total` that belong to it: every `count`-th."""
        return range(self.number - 1, total, self.count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def shard_of(text: str) -> Shard:
    """A shard from text such as ``2/8``.

    Raises:
        CaptError: other text, or a number that is not from 1 to the count.
    """
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise CaptError(f"--shard {shown(text)}: expected I/N with I from 1 to N, such as 1/4")
    return Shard(int(found[1]), int(found[2]))


Option = Annotated[
    Shard | None,
    typer.Option(
        "--shard",
        parser=shard_of,
        metavar="I/N",
        help="Only this part, kept until the command is run without --shard, which writes all.",
    ),
]
