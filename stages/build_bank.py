"""Stage build-bank: the Confusion Bank and its statistics."""

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
    """Collect misclassified training images; count pairs."""
    import polars as pl

    from capt_core.artifacts.schemas import CONFUSION_BANK, CONFUSION_STATISTICS, PREDICTIONS
    from capt_core.artifacts.tables import read_table, write_table
    from capt_core.backbone.identity import backbone_identity
    from capt_core.confusion.bank import confusion_bank, confusion_statistics, looked_at
    from capt_core.data.dataset import load_dataset, load_fewshot
    from capt_core.params import settings_hash
    from stages.run import say, stage_run

    with stage_run("build-bank", dataset, seed, params, artifacts, set_, variant=variant) as run:
        settings, layout, paths = run.settings, run.layout, run.seed_layout
        prepared = load_dataset(layout)
        origin = prepared.provenance(
            backbone_identity(settings.backbone), settings_hash(settings.build_bank, run.seed)
        )
        predictions = read_table(PREDICTIONS, paths.predictions, origin)
        if settings.build_bank.source == "fewshot":
            fewshot = load_fewshot(layout, prepared, settings.fewshot.shots, run.seed)
            ids = fewshot.filter(pl.col("split") == "train")["sample_id"]
        else:
            ids = prepared.samples["sample_id"]
        images = looked_at(prepared, predictions, ids)
        bank = confusion_bank(images)
        statistics = confusion_statistics(bank, images)
        write_table(CONFUSION_STATISTICS, statistics, paths.confusion_statistics, origin)
        write_table(CONFUSION_BANK, bank, paths.confusion_bank, origin)
        say(f"{len(bank)} of {len(images)} training images misclassified -> {paths.confusion_bank}")
        if bank.is_empty():
            say("The bank is empty: the base model makes no error on these images.")
        for true, predicted, count in (
            statistics.select("true_class", "predicted_class", "count").head(5).iter_rows()
        ):
            say(f"  {true} taken for {predicted}: {count}")
