"""Stage train: fit the Diff-Manner Adapter and the Multi-Granularity Discrepancy Expert."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stages import options

if TYPE_CHECKING:
    import polars as pl

    from capt_core.artifacts.provenance import Provenance
    from capt_core.backbone.loading import Backbone
    from capt_core.data.dataset import Dataset
    from capt_core.params import Settings
    from stages.run import Run


def main(
    dataset: options.Dataset,
    method: options.Method = "capt",
    seed: options.Seed = None,
    params: options.Params = options.PARAMS,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
) -> None:
    """Train a method on the frozen base model."""
    import polars as pl

    from capt_core.artifacts.files import write_text
    from capt_core.artifacts.schemas import TRAINING_LOG
    from capt_core.artifacts.tables import write_table
    from capt_core.backbone.loading import load_backbone
    from capt_core.data.dataset import load_dataset
    from capt_core.evaluation.visibility import sees
    from capt_core.methods.encoders import check_method
    from capt_core.methods.saved import write_tensors
    from capt_core.params import settings_hash
    from stages.run import say, stage_run

    check_method(method)
    with stage_run("train", dataset, seed, params, artifacts, set_, method) as run:
        settings = run.settings
        prepared = load_dataset(run.layout)
        backbone = load_backbone(settings.backbone, settings.runtime)
        used = settings_hash(settings.train, run.seed) if method == "capt" else settings_hash()
        origin = prepared.provenance(backbone.identity, used)
        paths = run.method_layout(method)
        tensors: dict[str, Any] = {}
        seen = sees(method, settings.fewshot.shots, settings.build_bank.source)
        facts: dict[str, Any] = {"method": method, "seed": run.seed, "sees": seen}
        log = pl.DataFrame(schema=dict(TRAINING_LOG.columns))
        if method == "capt":
            tensors, facts["shape"], log = _train_capt(run, settings, prepared, backbone, origin)
        write_table(TRAINING_LOG, log, paths.training_log, origin)
        write_text(paths.loss_plot, log.select("step", "loss").write_csv())
        write_tensors(paths.model, tensors, facts, origin)
        say(f"{method}: {len(log)} steps -> {paths.model}")


def _train_capt(
    run: Run, settings: Settings, prepared: Dataset, backbone: Backbone, origin: Provenance
) -> tuple[dict[str, Any], dict[str, Any], pl.DataFrame]:
    from dataclasses import asdict

    import polars as pl

    from capt_core.artifacts.features import read_teacher_text_features
    from capt_core.artifacts.schemas import REPRESENTATIVES
    from capt_core.artifacts.tables import read_table
    from capt_core.data.dataset import image_root, load_fewshot
    from capt_core.methods.capt.model import CaptModel, CaptSettings, save_state
    from capt_core.methods.saved import read_tensors
    from capt_core.prompts.generation import COMMONALITY, DIFFERENCE
    from capt_core.training.engine import TrainingTask, fit
    from capt_core.training.rows import build_anchors
    from capt_core.training.views import augmented_views, cached_views
    from stages.run import progress, say

    layout = run.layout
    centres = read_tensors(run.seed_layout.prompt_centres, "cluster-prompts", origin).tensors
    representatives = read_table(REPRESENTATIVES, run.seed_layout.representatives, origin)
    base = prepared.class_ids("base")
    texts = read_teacher_text_features(run.seed_layout.teacher_text_features, origin)[base].to(
        backbone.device
    )
    fewshot = load_fewshot(layout, prepared, settings.fewshot.shots, run.seed)
    anchors = build_anchors(
        fewshot.filter(pl.col("split") == "train", pl.col("class_id").is_in(base))[
            "sample_id"
        ].to_list(),
        representatives,
        settings.train.adapter_scale,
        settings.train.adapter_exponent,
    )
    blocks = settings.train.adapter_blocks
    shape = CaptSettings(
        adapter_blocks=None if blocks == "all" else blocks,
        kernel_size=settings.train.kernel_size,
        active_experts=settings.train.active_experts,
        mask_rate=settings.train.mask_rate,
        initial_alpha=settings.train.adapter_scale,
    )
    model = CaptModel(
        backbone.clip.visual, centres[COMMONALITY], centres[DIFFERENCE], shape, run.seed
    ).to(backbone.device)
    ids = sorted({i for anchor in anchors for i in (anchor.sample_id, *anchor.representatives)})
    paths = prepared.paths(pl.Series(ids, dtype=pl.Int64), image_root(layout, settings.data.root))
    files = dict(zip(ids, paths, strict=True))
    make = augmented_views if settings.train.augmentation == "crop_flip" else cached_views
    task = TrainingTask(
        anchors,
        prepared.samples["class_id"].to_list(),
        texts,
        make(model, backbone, files, settings.runtime.workers),
    )
    trainable = sum(parameter.numel() for parameter in model.parameters())
    say(f"{len(anchors)} anchors, {trainable} trainable values, on {backbone.device}")
    with progress("epochs", settings.train.epochs) as advance:
        log = fit(model, backbone, task, settings.train, run.seed, advance)
    return save_state(model), asdict(shape), log
