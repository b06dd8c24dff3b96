"""K-means of prompt embeddings, the raw material of the semantic experts (eq. 12)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from capt_core.artifacts.schemas import PROMPT_CLUSTERS
from capt_core.prompts.generation import KINDS


def class_means(embeddings: np.ndarray, class_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean embedding of each class's prompts, scaled to unit length.

    Args:
        embeddings: [n, d], unit length.
        class_ids: class of each prompt, [n].

    Returns:
        Sorted class ids [m] and their means [m, d] in float64.
    """
    described = np.unique(class_ids)
    means = np.stack([embeddings[class_ids == c].mean(axis=0) for c in described])
    return described, unit(means.astype(np.float64))


def cluster_centres(
    points: np.ndarray, clusters: int, restarts: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The K-means of eq. 12 on the unit sphere.

    Args:
        points: [m, d], unit length, rows in a canonical order.
        clusters: K, capped at the number of distinct points.
        restarts: independent starts, the best is kept.
        seed: of the starts.

    Returns:
        Centres [K, d] of unit length in float32, largest cluster first (then the cluster with
        the earliest member), and the cluster of each point [m].
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    distinct = len(np.unique(points.round(6), axis=0))
    # One thread and float64: the centres then do not depend on the number of cores.
    with threadpool_limits(1):
        model = KMeans(min(clusters, distinct), n_init=restarts, random_state=seed)
        labels = model.fit_predict(points.astype(np.float64))
    found = np.unique(labels)
    order = sorted(
        found, key=lambda k: (-int((labels == k).sum()), int(np.flatnonzero(labels == k)[0]))
    )
    renamed = {int(old): new for new, old in enumerate(order)}
    centres = unit(np.stack([points[labels == k].mean(axis=0) for k in order]))
    return centres.round(6).astype(np.float32), np.array([renamed[int(k)] for k in labels])


def cluster_table(
    kind: str,
    prompts: pl.DataFrame,
    described: np.ndarray,
    means: np.ndarray,
    centres: np.ndarray,
    labels: np.ndarray,
) -> pl.DataFrame:
    """Rows of the table `prompt_clusters`: which classes' prompts fell together."""
    texts = prompts.group_by("class_id", "class_name", maintain_order=True).agg(
        pl.col("prompt").alias("prompts")
    )
    rows = pl.DataFrame(
        {
            "kind": [kind] * len(described),
            "cluster": labels.astype(np.int64),
            "class_id": described.astype(np.int64),
            "cosine": (means * centres[labels]).sum(axis=1).astype(np.float64),
        }
    )
    return (
        rows.join(texts, on="class_id", maintain_order="left")
        .select(list(PROMPT_CLUSTERS.columns))
        .sort("cluster", "class_id")
    )


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1."""
    scaled: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


@dataclass(frozen=True)
class PromptClusters:
    """Table `prompt_clusters`, and the centres of each kind of prompt, [K, d], unit length."""

    table: pl.DataFrame
    centres: Mapping[str, np.ndarray]


def cluster_prompts(
    prompts: pl.DataFrame, embeddings: np.ndarray, clusters: int, restarts: int, seed: int
) -> PromptClusters:
    """Clusters of the classes by what their prompts say, one clustering per kind of prompt.

    Args:
        prompts: the table `prompts`.
        embeddings: of its prompts, unit length, [n, d].
        clusters: see `cluster_centres`.
        restarts: likewise.
        seed: likewise.
    """
    tables, centres = [], {}
    for kind in KINDS:
        rows = (prompts["kind"] == kind).arg_true().to_numpy()
        own = prompts[rows]
        described, means = class_means(embeddings[rows], own["class_id"].to_numpy())
        centres[kind], labels = cluster_centres(means, clusters, restarts, seed)
        tables.append(cluster_table(kind, own, described, means, centres[kind], labels))
    return PromptClusters(pl.concat(tables), centres)
