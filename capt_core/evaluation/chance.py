"""Whether a model is any better than guessing."""

from __future__ import annotations

import math

import polars as pl

from capt_core.evaluation.outcomes import counted_images

SIGNIFICANCE = 0.05


def chance_level(right: int, images: int, classes: int) -> float:
    """Probability that guessing one of the classes for each image gets as many right or more.

    Args:
        right: images that are answered right.
        images: all of them.
        classes: that were to choose from, at least 1.

    Returns:
        p value of the exact one-sided binomial test against 1 / classes.
    """
    from scipy.special import bdtrc

    return float(bdtrc(right - 1, images, 1 / classes)) if right else 1.0


def chance_warning(right: int, images: int, classes: int, which: str = "") -> str | None:
    """A sentence about a model that cannot be told from guessing; None where it can be.

    None, too, where so few images could not tell any model from guessing.

    Args:
        right: images that are answered right.
        images: all of them.
        classes: that were to choose from.
        which: the images and classes, where there are others: `base`.
    """
    excess = max(right / images - 1 / classes, 0) if images else 0
    if math.exp(-2 * images * excess**2) <= SIGNIFICANCE:
        # Hoeffding (1963): the exact test would say so, too, but its library takes time to load.
        return None
    undecidable = chance_level(images, images, classes) > SIGNIFICANCE
    if undecidable or chance_level(right, images, classes) <= SIGNIFICANCE:
        return None
    kind = f"{which} " if which else ""
    return (
        f"The base model is not shown to be better than chance: {right} of {images} {kind}images "
        f"are right ({100 * right / images:.1f} %), guessing among {classes} {kind}classes gives "
        f"{100 / classes:.1f} %. Its confusions may mean nothing, and it may not suit these images."
    )


def chance_warnings(predictions: pl.DataFrame, classes: pl.DataFrame) -> list[str]:
    """`chance_warning` of every half of the classes, on its test images if it has any.

    Args:
        predictions: table `predictions`.
        classes: table `classes`.
    """
    groups = dict(classes.group_by("group", maintain_order=True).len().iter_rows())
    found = []
    for group, number in groups.items():
        images = counted_images(predictions.filter(pl.col("group") == group))
        right = int(images["correct"].sum())
        which = group if len(groups) > 1 else ""
        found.append(chance_warning(right, len(images), number, which))
    return [sentence for sentence in found if sentence]
