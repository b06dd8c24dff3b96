"""Per-image prediction tables: what each image was taken for, and how surely."""

from __future__ import annotations

import polars as pl
import torch

from capt_core.artifacts.schemas import PREDICTIONS
from capt_core.data.dataset import Dataset


def ranked_classes(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices [N, count] of the highest scores, best first, lowest index on ties."""
    return scores.argsort(dim=1, descending=True, stable=True)[:, :count]


def prediction_table(
    dataset: Dataset,
    sample_ids: pl.Series,
    logits: torch.Tensor,
    top_classes: int,
) -> pl.DataFrame:
    """Classify images among the classes of their own group (base or novel).

    Args:
        dataset: samples and classes.
        sample_ids: the images, in the order of `logits`.
        logits: over all classes, in class order, [N, C]; those of the other group are not read.
        top_classes: how many classes the `top_*` columns list (at most those of the group).

    Returns:
        Rows as in the table `predictions`, sorted by `sample_id`.
    """
    images = pl.DataFrame({"sample_id": sample_ids, "row": range(len(sample_ids))}).join(
        dataset.samples.join(dataset.classes.select("class_id", "group"), on="class_id"),
        on="sample_id",
        maintain_order="left",
    )
    class_names = dataset.class_names
    parts = []
    for group in ("base", "novel"):
        members = images.filter(pl.col("group") == group)
        class_ids = torch.tensor(dataset.class_ids(group), dtype=torch.long)
        if members.is_empty():
            continue
        rows = torch.from_numpy(members["row"].to_numpy().copy())
        confidences = logits[rows][:, class_ids].softmax(dim=-1).double()
        top = ranked_classes(confidences, min(top_classes, len(class_ids)))
        position = {int(class_id): index for index, class_id in enumerate(class_ids)}
        true = torch.tensor([position[label] for label in members["class_id"].to_list()])
        top_ids = class_ids[top].tolist()
        names = [[class_names[i] for i in row] for row in top_ids]
        table = members.with_columns(
            pl.col("class_id").alias("true_class_id"),
            pl.col("class_name").alias("true_class"),
            pl.Series("pseudo_label_id", [row[0] for row in top_ids]),
            pl.Series("pseudo_label", [row[0] for row in names]),
            pl.Series("correct", (top[:, 0] == true).tolist()),
            pl.Series("confidence", confidences.gather(1, top[:, :1])[:, 0].tolist()),
            pl.Series("true_confidence", confidences.gather(1, true[:, None])[:, 0].tolist()),
            pl.Series("top_class_ids", top_ids),
            pl.Series("top_classes", names),
            pl.Series("top_confidences", confidences.gather(1, top).tolist()),
        )
        parts.append(PREDICTIONS.select(table))
    return pl.concat([PREDICTIONS.frame(), *parts]).sort("sample_id")
