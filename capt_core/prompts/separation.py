"""How well difference prompts separate the images of the pair that they were written for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from capt_core.artifacts.schemas import PROMPT_SEPARATION
from capt_core.prompts.generation import DIFFERENCE


def auc(own: np.ndarray, other: np.ndarray) -> float:
    """Probability that a random value of `own` exceeds one of `other`; ties count half.

    The area under the ROC curve, equal to the Mann-Whitney statistic over n * m (Hanley and
    McNeil, 1982).

    Args:
        own: [n], n >= 1.
        other: [m], m >= 1.
    """
    ordered = np.sort(other)
    below = np.searchsorted(ordered, own, side="left")
    upto = np.searchsorted(ordered, own, side="right")
    return float((below + upto).sum() / (2 * len(own) * len(ordered)))


def separation_table(
    prompts: pl.DataFrame, embeddings: np.ndarray, images: Callable[[int], np.ndarray | None]
) -> pl.DataFrame:
    """For every ordered pair: are a class's difference prompts nearer its own images?

    Args:
        prompts: the table `prompts`.
        embeddings: unit-length embedding of each row's prompt, [n, d].
        images: gives the unit-length features [m, d] of training images of a base class, by its
            id; None where there are none. A pair without images of both classes has no row.

    Returns:
        Rows as in the table `prompt_separation`, worst separated first.
    """
    rows = []
    numbered = prompts.with_row_index("row").filter(kind=DIFFERENCE)
    keys = ["class_id", "class_name", "paired_class_id", "paired_class"]
    for key, group in numbered.group_by(keys, maintain_order=True):
        class_id, name, paired_id, paired = key
        own, other = images(int(class_id)), images(int(paired_id))
        if own is None or other is None or not len(own) or not len(other):
            continue
        texts = embeddings[group["row"].to_numpy()]
        near, far = own @ texts.T, other @ texts.T  # cosines [images, prompts]
        each = [auc(near[:, i], far[:, i]) for i in range(len(texts))]
        weakest = int(np.argmin(each))
        rows.append(
            {
                "class_id": class_id,
                "class_name": name,
                "paired_class_id": paired_id,
                "paired_class": paired,
                "images": len(own),
                "paired_images": len(other),
                "cosine": float(near.mean()),
                "paired_cosine": float(far.mean()),
                "auc": auc(near.mean(axis=1), far.mean(axis=1)),
                "weakest_prompt": group["prompt"][weakest],
                "weakest_auc": each[weakest],
            }
        )
    frame = pl.DataFrame(rows, schema=dict(PROMPT_SEPARATION.columns))
    return frame.sort("auc", "class_id", "paired_class_id")
