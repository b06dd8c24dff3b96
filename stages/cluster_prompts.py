"""Stage cluster-prompts: K-means centres of prompt embeddings (eq. 12)."""

from __future__ import annotations

from stages import options


def main(
    dataset: options.Dataset,
    seed: options.Seed = None,
    params: options.Params = options.PARAMS,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
    variant: options.Variant = None,
) -> None:
    """Cluster the classes by what their prompts say."""
    import polars as pl
    import torch

    from capt_core.artifacts.schemas import PROMPT_CLUSTERS, PROMPTS
    from capt_core.artifacts.tables import read_table, write_table
    from capt_core.backbone.encoding import encode_texts
    from capt_core.backbone.loading import load_backbone
    from capt_core.data.dataset import load_dataset
    from capt_core.methods.saved import write_tensors
    from capt_core.params import settings_hash
    from capt_core.prompts.clustering import class_means, cluster_centres, cluster_table
    from capt_core.prompts.generation import COMMONALITY, DIFFERENCE
    from stages.run import say, stage_run

    with stage_run(
        "cluster-prompts", dataset, seed, params, artifacts, set_, variant=variant
    ) as run:
        settings, layout = run.settings, run.layout
        prepared = load_dataset(layout)
        backbone = load_backbone(settings.backbone, settings.runtime)
        origin = prepared.provenance(
            backbone.identity, settings_hash(settings.cluster_prompts, run.seed)
        )
        paths = run.seed_layout
        prompts = read_table(PROMPTS, paths.prompts, origin)
        tables, centres = [], {}
        for kind in (COMMONALITY, DIFFERENCE):
            texts = prompts.filter(kind=kind)
            embeddings = encode_texts(texts["prompt"].to_list(), backbone).numpy()
            described, means = class_means(embeddings, texts["class_id"].to_numpy())
            found, labels = cluster_centres(
                means,
                settings.cluster_prompts.clusters,
                settings.cluster_prompts.restarts,
                run.seed,
            )
            tables.append(cluster_table(kind, texts, described, means, found, labels))
            centres[kind] = torch.from_numpy(found)
        write_table(PROMPT_CLUSTERS, pl.concat(tables), paths.prompt_clusters, origin)
        write_tensors(paths.prompt_centres, centres, {}, origin)
        counts = ", ".join(f"{len(value)} of {kind}" for kind, value in centres.items())
        say(f"centres: {counts} -> {paths.prompt_centres}")
