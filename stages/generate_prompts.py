"""Stage generate-prompts: commonality and difference prompts of the class-level pairs."""

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
    """Say what confused classes share and what not."""
    from pathlib import Path

    from capt_core.artifacts.schemas import CLASS_PAIRS, PROMPTS
    from capt_core.artifacts.tables import read_table, write_table
    from capt_core.backbone.identity import backbone_identity
    from capt_core.data.dataset import load_dataset
    from capt_core.params import settings_hash
    from capt_core.prompts.generation import TEMPLATE_SOURCE, pair_prompts
    from capt_core.prompts.store import load_store, shipped_store
    from stages.run import say, stage_run

    with stage_run(
        "generate-prompts", dataset, seed, params, artifacts, set_, variant=variant
    ) as run:
        settings, layout = run.settings, run.layout
        prepared = load_dataset(layout)
        origin = prepared.provenance(
            backbone_identity(settings.backbone), settings_hash(settings.generate_prompts, run.seed)
        )
        paths = run.seed_layout
        class_pairs = read_table(CLASS_PAIRS, paths.class_pairs, origin)
        own = settings.generate_prompts.store
        file = Path(own).expanduser() if own else shipped_store(dataset)
        prompts = pair_prompts(
            class_pairs,
            dict(prepared.classes.select("class_name", "template").iter_rows()),
            load_store(file, dataset) if file else None,
            settings.generate_prompts.provider,
            settings.generate_prompts.prompts,
        )
        write_table(PROMPTS, prompts, paths.prompts, origin)
        filled = prompts.filter(source=TEMPLATE_SOURCE)
        say(f"{len(prompts)} prompts for {len(class_pairs)} pairs -> {paths.prompts}")
        if len(filled):
            say(
                f"{len(filled)} of them only name the classes (source=template): "
                "no store describes these pairs"
            )
