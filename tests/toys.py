"""Small made-up inputs that several test modules share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import torch
from PIL import Image
from torch import nn

from capt_core.data.dataset import Dataset
from capt_core.data.proctex import render_image
from capt_core.data.protocol import halves


def toy_dataset(class_of: Sequence[int], class_count: int, split: str = "train") -> Dataset:
    """A prepared data set with one sample per entry of `class_of`, classes named c0, c1, ..."""
    names = [f"c{class_id}" for class_id in range(class_count)]
    samples = pl.DataFrame(
        {
            "sample_id": range(len(class_of)),
            "path": [f"{names[c]}/{i}.png" for i, c in enumerate(class_of)],
            "class_id": list(class_of),
            "class_name": [names[c] for c in class_of],
            "split": [split] * len(class_of),
        },
        schema_overrides={"sample_id": pl.Int64, "class_id": pl.Int64},
    )
    classes = pl.DataFrame(
        {
            "class_id": range(class_count),
            "class_name": names,
            "group": halves(class_count),
            "template": ["a photo of a {}."] * class_count,
        },
        schema_overrides={"class_id": pl.Int64},
    )
    return Dataset("proctex", samples, classes, "0123456789abcdef")


def draw_photographs(root: Path, names: Sequence[str]) -> None:
    """A folder per class with ten images of the first classes of proctex each."""
    for class_id, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for index in range(10):
            pixels = render_image(1, "train", class_id, index)
            Image.fromarray(pixels).save(root / name / f"photo {index}.png")


def small_clip(
    image_size: int | tuple[int, int] = 32, *, custom_text: bool = False, **vision: object
) -> nn.Module:
    """A randomly initialised open_clip CLIP with a 4 x 4 patch grid, frozen, in eval mode.

    Args:
        image_size: of the image tower.
        custom_text: keep the text tower as a module of its own (`CustomTextCLIP`).
        vision: further settings of the image tower.
    """
    from open_clip.model import CLIP, CustomTextCLIP

    build = CustomTextCLIP if custom_text else CLIP
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = build(
            embed_dim=24,
            vision_cfg={
                "layers": 3,
                "width": 32,
                "head_width": 16,
                "patch_size": 8,
                "image_size": image_size,
                **vision,
            },
            text_cfg={"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1},
        )
        for parameter in model.parameters():
            # Scales and shifts of a fresh model are 1 and 0, which would hide their misuse.
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)
