"""Stage cluster-prompts: K-means centres of prompt embeddings (eq. 12)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import polars as pl
import torch

from capt_core.artifacts.features import ImageFeatures
from capt_core.artifacts.schemas import PROMPT_CLUSTERS, PROMPT_SEPARATION, PROMPTS
from capt_core.artifacts.tables import read_table, write_table
from capt_core.artifacts.tensors import write_tensors
from capt_core.backbone.loading import load_backbone
from capt_core.data.dataset import load_dataset, load_fewshot
from capt_core.params import settings_hash
from capt_core.prompts.clustering import cluster_prompts
from capt_core.prompts.embedding import prompt_embeddings
from capt_core.prompts.separation import separation_table

from .invocation import Run, say, warn
from .stage import Stage

STAGE = Stage(
    per=("dataset", "seed"),
    params=("backbone", "cluster_prompts", "fewshot.shots", "runtime"),
    reads=lambda at: (*at.dataset, at.fewshot, at.data.image_features, at.seed.prompts),
    writes=lambda at: (
        at.seed.prompt_clusters,
        at.seed.prompt_separation,
        at.seed.prompt_centres,
    ),
)

_CLASSES_HELD = 32  # classes whose features are in memory at once


def main(run: Run) -> None:
    settings, layout = run.settings, run.layout
    prepared = load_dataset(layout)
    backbone = load_backbone(settings.backbone, settings.runtime)
    origin = prepared.provenance(
        backbone.identity, settings_hash(settings.cluster_prompts, run.seed)
    )
    paths = run.seed_layout
    prompts = read_table(PROMPTS, paths.prompts, origin)
    texts = prompts["prompt"].to_list()
    embeddings = prompt_embeddings(texts, backbone, layout.embeddings, warn)
    chosen = settings.cluster_prompts
    found = cluster_prompts(prompts, embeddings, chosen.clusters, chosen.restarts, run.seed)
    centres = {kind: torch.from_numpy(values) for kind, values in found.centres.items()}
    write_table(PROMPT_CLUSTERS, found.table, paths.prompt_clusters, origin)

    drawn = load_fewshot(layout, prepared, settings.fewshot.shots, run.seed)
    base = prepared.class_ids("base")
    listed = drawn.filter(pl.col("split") == "train", pl.col("class_id").is_in(base))
    members = {
        int(str(class_id)): part["sample_id"]
        for (class_id,), part in listed.group_by("class_id", maintain_order=True)
    }
    stored = ImageFeatures(layout.image_features, origin)

    @lru_cache(maxsize=_CLASSES_HELD)
    def images(class_id: int) -> np.ndarray | None:
        ids = members.get(class_id)
        return None if ids is None else stored.rows(ids).numpy()

    separation = separation_table(prompts, embeddings, images)
    write_table(PROMPT_SEPARATION, separation, paths.prompt_separation, origin)
    write_tensors(paths.prompt_centres, centres, {}, origin)
    counts = ", ".join(f"{len(value)} of {kind}" for kind, value in centres.items())
    say(f"centres: {counts} -> {paths.prompt_centres}")
    useless = separation.filter(pl.col("auc") <= 0.5)
    if len(useless):
        say(
            f"difference prompts of {len(useless)} of {len(separation)} pairs are no nearer "
            f"their own class's training images than the partner's -> {paths.prompt_separation}"
        )
