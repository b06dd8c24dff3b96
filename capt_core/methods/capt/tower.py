"""What CAPT needs of an image tower."""

from __future__ import annotations

from typing import Any, Literal

from capt_core.errors import CaptError
from capt_core.methods.attention import check_attention
from capt_core.methods.prompting.image import check_image_tower


def check_tower(tower: Any) -> None:
    """Refuse image towers that the adapter cannot be inserted into.

    Raises:
        CaptError: not an open_clip vision transformer with a class token, batch-first
            multi-head attention and a square grid.
    """
    check_image_tower(tower)
    check_attention(tower.transformer.resblocks, tower, "the Diff-Manner Adapter")
    rows, columns = tower.grid_size
    if rows != columns:
        raise CaptError(
            f"the Diff-Manner Adapter needs a square patch grid, this one is {rows} x {columns}; "
            "choose a backbone with square images"
        )


def patch_count(tower: Any) -> int:
    """N: patches of the tower's grid."""
    return int(tower.positional_embedding.shape[0]) - 1


def adapted_blocks(blocks: Literal["all"] | int | list[int], count: int) -> list[int]:
    """Indices of the blocks that carry an adapter, ascending.

    Args:
        blocks: `all`, how many of the last blocks, or the indices themselves (from 0).
        count: blocks of the tower.

    Raises:
        CaptError: more blocks than the tower has, or an index outside it.
    """
    if blocks == "all":
        return list(range(count))
    if isinstance(blocks, int):
        if not 0 <= blocks <= count:
            raise CaptError(f"adapter.blocks: {blocks} asked for, the tower has {count} blocks")
        return list(range(count - blocks, count))
    outside = [index for index in blocks if not 0 <= index < count]
    if outside:
        raise CaptError(
            f"adapter.blocks: no block {outside[0]}, the tower's run from 0 to {count - 1}"
        )
    return sorted(set(blocks))
