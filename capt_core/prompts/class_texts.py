"""What images are compared with: class prompts, alone or with a class's difference prompts."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch
from torch.nn import functional

from capt_core.prompts.clustering import class_means
from capt_core.prompts.generation import DIFFERENCE, TEMPLATE_SOURCE

_WRITTEN = (pl.col("kind") == DIFFERENCE) & (pl.col("source") != TEMPLATE_SOURCE)


def described_texts(
    texts: torch.Tensor, prompts: pl.DataFrame, embeddings: np.ndarray, weight: float
) -> torch.Tensor:
    """t_c + weight x the mean of what tells class c apart, scaled to unit length.

    Classes without a written difference prompt keep t_c. Prompts filled from templates describe
    nothing and do not count.

    Args:
        texts: text features t of the class prompts (eq. 1), unit length, [C, d].
        prompts: rows as in the table `prompts`.
        embeddings: of its prompts, unit length, [n, d].
        weight: of the unit-length mean; 0 leaves the texts as they are.

    Returns:
        [C, d], unit length, on the device of `texts`.
    """
    written = prompts.select(_WRITTEN).to_series()
    if weight == 0 or not written.any():
        return texts
    rows = written.arg_true().to_numpy()
    classes, means = class_means(embeddings[rows], prompts["class_id"].to_numpy()[rows])
    moved = texts.clone()
    moved[classes] += weight * torch.from_numpy(means).to(texts)
    moved[classes] = functional.normalize(moved[classes], dim=-1)
    return moved


def described_class_ids(prompts: pl.DataFrame) -> list[int]:
    """Ids of the classes that have a written difference prompt, ascending."""
    return prompts.filter(_WRITTEN)["class_id"].unique().sort().to_list()


def most_partners(prompts: pl.DataFrame) -> int:
    """The highest number of partners that a class has in the table `prompts`; 0 if it is empty."""
    counted = prompts.group_by("class_id").agg(pl.col("paired_class_id").n_unique())
    most: int | None = counted.select(pl.col("paired_class_id").max()).item()
    return most or 0


def prompts_of_pairs(class_pairs: pl.DataFrame, descriptions: pl.DataFrame) -> pl.DataFrame:
    """What is written to tell classes from given partners, nothing where nothing is.

    Args:
        class_pairs: rows as in the table `class_pairs`.
        descriptions: the table `class_descriptions`.

    Returns:
        Difference prompts, rows as in the table `prompts`, in the order of `class_pairs`.
    """
    key = ["class_id", "paired_class_id"]
    written = descriptions.filter(pl.col("paired_class_id").is_not_null())
    joined = class_pairs.select(key).join(written, on=key, maintain_order="left_right")
    return joined.select(
        "class_id",
        "class_name",
        "paired_class_id",
        "paired_class",
        kind=pl.lit(DIFFERENCE),
        position=pl.int_range(pl.len(), dtype=pl.Int64).over(key),
        prompt="description",
        source="source",
    )
