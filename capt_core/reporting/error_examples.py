"""For each test error, the training image that represents its confusion best."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl


def with_representatives(
    errors: pl.DataFrame, bank: pl.DataFrame | None, features: npt.NDArray[np.float32] | None
) -> pl.DataFrame:
    """Add `representative_path`: the bank's image of the same two classes that is most similar.

    Images of the true class that were taken for the same class come first, then those of the
    other class that were taken for the true one. Without features the surest mistake stands for
    all. Ties go to the lower sample id.

    Args:
        errors: rows from `image_outcomes` of images that a model takes for another class; the
            other class is the base model's answer where that is wrong, else the repaired model's.
        bank: table `confusion_bank` of the same seed; None or empty where there is none.
        features: unit length, [N, d], row i of sample i; None without them.

    Returns:
        The errors in their order; null where the bank has no such image but the error itself.
    """
    cells = _cells(bank)
    taken = (
        pl.when(pl.col("base_prediction_id") != pl.col("true_class_id"))
        .then(pl.col("base_prediction_id"))
        .otherwise(pl.col("prediction_id"))
        .alias("taken")
    )
    found: list[str | None] = [None] * len(errors)
    numbered = errors.with_row_index("row").select("row", "sample_id", "true_class_id", taken)
    for (true, other), group in numbered.group_by("true_class_id", "taken"):
        cell = cells.get((true, other)) or cells.get((other, true))
        if cell is None:
            continue
        samples = group["sample_id"].to_numpy()
        for row, place in zip(group["row"].to_list(), _best(samples, cell, features), strict=True):
            found[row] = None if place is None else cell[1][place]
    return errors.with_columns(pl.Series("representative_path", found, dtype=pl.String))


_Cell = tuple[npt.NDArray[np.int64], list[str]]


def _cells(bank: pl.DataFrame | None) -> dict[tuple[object, object], _Cell]:
    """Sample ids and paths of the bank by true and predicted class, the surest first."""
    if bank is None:
        return {}
    ordered = bank.sort("confidence", "sample_id", descending=[True, False], nulls_last=True)
    groups = ordered.group_by("true_class_id", "predicted_class_id", maintain_order=True)
    return {
        (true, taken): (cell["sample_id"].to_numpy(), cell["path"].to_list())
        for (true, taken), cell in groups
    }


def _best(
    samples: npt.NDArray[np.int64], cell: _Cell, features: npt.NDArray[np.float32] | None
) -> list[int | None]:
    """Place in the cell of what represents each image, never the image itself."""
    members = cell[0]
    if features is None:
        scores = np.broadcast_to(
            -np.arange(len(members), dtype=float), (len(samples), len(members))
        )
    else:
        scores = (features[samples] @ features[members].T).astype(float)
    scores = np.where(members[None, :] == samples[:, None], -np.inf, scores)
    best = scores.argmax(axis=1)
    return [
        int(place) if np.isfinite(scores[row, place]) else None for row, place in enumerate(best)
    ]
