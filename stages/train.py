"""Stage train: fit the Diff-Manner Adapter and the Multi-Granularity Discrepancy Expert."""

from __future__ import annotations

from typing import Any

import polars as pl
import torch

from capt_core.artifacts.features import (
    read_image_features,
    read_teacher_text_features,
    read_text_features,
)
from capt_core.artifacts.files import file_digest, write_text
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import PROMPTS, REPRESENTATIVES, TRAINING_LOG, TRAINING_SPEED
from capt_core.artifacts.tables import read_table, write_table
from capt_core.backbone.loading import Backbone, load_backbone
from capt_core.data.dataset import Dataset, image_root, load_dataset, load_fewshot
from capt_core.errors import CaptError
from capt_core.evaluation.visibility import Retention, sees
from capt_core.methods.baselines import BaselineData, BaselineSettings, fit_baseline
from capt_core.methods.capt.model import CaptModel, save_state, saved_shape
from capt_core.methods.encoders import check_method
from capt_core.methods.retention import generic_texts, retention_texts
from capt_core.methods.saved import read_tensors, write_tensors
from capt_core.methods.scoring import CLASS_TEXTS, DESCRIBED_METHODS
from capt_core.params import Settings, settings_hash
from capt_core.prompts.class_texts import described_classes, described_texts
from capt_core.prompts.embedding import prompt_embeddings
from capt_core.training.checkpoint import Checkpoint
from capt_core.training.engine import Fitted, Trainer, TrainingTask
from capt_core.training.objective import Objective
from capt_core.training.processes import Processes
from capt_core.training.rows import build_anchors
from capt_core.training.views import CachedViews, ViewSource, asked_views, live_views

from . import options
from .run import Run, first_process, progress, say, stage_run
from .stage import Stage

STAGE = Stage(
    summary="a fitted method (CAPT: adapter and experts) and a log",
    per=("dataset", "method", "seed"),
    params=(
        "backbone",
        "build_bank.source",
        "data.root",
        "fewshot.shots",
        "methods.${item.method}",
        "runtime",
        "train",
    ),
    reads=lambda at: (
        *at.dataset,
        at.fewshot,
        at.data.images,
        at.data.image_features,
        at.data.text_features,
        at.seed.base_model,
        at.seed.base_text_features,
        at.seed.prompts,
        at.seed.prompt_centres,
        at.seed.representatives,
    ),
    writes=lambda at: (at.run.model, at.run.training_log),
    plots=lambda at: {at.run.loss_plot: {"x": "step", "y": "loss", "title": "Training loss"}},
)


def main(
    dataset: options.Dataset,
    method: options.Method = "capt",
    seed: options.Seed = None,
    params: options.Params = options.PARAMS,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
    variant: options.Variant = None,
) -> None:
    """Train a method on the frozen base model."""
    check_method(method)
    with stage_run("train", dataset, seed, params, artifacts, set_, method, variant) as run:
        settings = run.settings
        prepared = load_dataset(run.layout)
        backbone = load_backbone(settings.backbone, settings.runtime)
        sections = {
            "clip_prompts": (settings.class_texts,),
            "linear_probe": (settings.linear_probe,),
            "coop": (settings.coop,),
            "residual": (settings.residual, settings.class_texts),
            "capt": (
                settings.adapter,
                settings.experts,
                settings.losses,
                settings.class_texts,
                settings.train,
            ),
        }
        used = settings_hash(*sections.get(method, ()), run.seed)
        origin = prepared.provenance(backbone.identity, used)
        paths = run.method_layout(method)
        tensors: dict[str, Any] = {}
        described = _described_texts(run, settings, prepared, backbone, origin, method)
        retention: dict[str, Retention] = {"capt": settings.losses, "residual": settings.residual}
        shots, source = settings.fewshot.shots, settings.build_bank.source
        seen = sees(method, shots, source, retention.get(method), described is not None)
        facts: dict[str, Any] = {"method": method, "seed": run.seed, "sees": seen}
        log = pl.DataFrame(schema=dict(TRAINING_LOG.columns))
        checkpoint: Checkpoint | None = None
        if method == "capt":
            tensors, facts["shape"], fitted, checkpoint = _train_capt(
                run, settings, prepared, backbone, origin, described
            )
            log = fitted.log
        elif first_process():
            tensors, steps = _fit_baseline(
                run, settings, prepared, backbone, origin, method, described
            )
            log = pl.concat([log, steps], how="diagonal")
        if not first_process():
            return
        if method == "capt":
            write_table(TRAINING_SPEED, fitted.speed, run.record_path("speed"), origin)
        if described is not None:
            tensors[CLASS_TEXTS] = described.cpu()
        write_table(TRAINING_LOG, log, paths.training_log, origin)
        write_text(paths.loss_plot, log.select("step", "loss").write_csv())
        write_tensors(paths.model, tensors, facts, origin)
        if checkpoint:
            checkpoint.remove()
        say(f"{method}: {len(log)} steps -> {paths.model}")


def _described_texts(
    run: Run,
    settings: Settings,
    prepared: Dataset,
    backbone: Backbone,
    origin: Provenance,
    method: str,
) -> torch.Tensor | None:
    """Class texts with the difference prompts; None where a method or the settings use none."""
    weight = settings.class_texts.difference_weight
    if method not in DESCRIBED_METHODS or weight == 0:
        return None
    prompts = read_table(PROMPTS, run.seed_layout.prompts, origin)
    count = described_classes(prompts)
    if first_process():
        say(f"class texts: {count} of {len(prepared.class_ids('base'))} base classes described")
    if count == 0:
        return None
    # The other methods know nothing of a base model that was fitted.
    texts = (
        read_teacher_text_features(run.seed_layout.teacher_text_features, origin)
        if method == "capt"
        else read_text_features(run.layout.text_features, origin)
    )
    embeddings = prompt_embeddings(prompts["prompt"].to_list(), backbone, run.layout.embeddings)
    return described_texts(texts, prompts, embeddings, weight)


def _train_capt(
    run: Run,
    settings: Settings,
    prepared: Dataset,
    backbone: Backbone,
    origin: Provenance,
    described: torch.Tensor | None,
) -> tuple[dict[str, Any], dict[str, Any], Fitted, Checkpoint]:
    layout = run.layout
    if settings.runtime.precision == "fp16":
        raise CaptError(
            "runtime.precision: CAPT is not trained in fp16, whose gradients vanish; "
            "use bf16 or fp32"
        )
    processes = Processes(backbone.device)
    centres = read_tensors(run.seed_layout.prompt_centres, "cluster-prompts", origin).tensors
    representatives = read_table(REPRESENTATIVES, run.seed_layout.representatives, origin)
    base = prepared.class_ids("base")
    texts = read_teacher_text_features(run.seed_layout.teacher_text_features, origin).to(
        backbone.device
    )
    fewshot = load_fewshot(layout, prepared, settings.fewshot.shots, run.seed)
    images = fewshot.filter(pl.col("split") == "train", pl.col("class_id").is_in(base))
    anchors = build_anchors(
        images["sample_id"].to_list(),
        representatives,
        settings.adapter.scale,
        settings.adapter.exponent,
    )
    model = CaptModel(
        backbone.clip.visual, centres, settings.adapter, settings.experts, run.seed
    ).to(backbone.device)
    ids = sorted({i for anchor in anchors for i in (anchor.sample_id, *anchor.representatives)})
    paths = prepared.paths(pl.Series(ids, dtype=pl.Int64), image_root(layout, settings.data.root))
    source = ViewSource(
        dict(zip(ids, paths, strict=True)),
        settings.train.augmentation,
        settings.train.representative_noise,
        run.seed,
        settings.runtime.workers,
    )
    kept = None
    if settings.losses.retention_weight:
        written = read_table(PROMPTS, run.seed_layout.prompts, origin)["prompt"].to_list()
        kept = retention_texts(
            settings.losses.retention_names,
            texts,
            base,
            prepared.classes["template"][0],
            backbone,
            written,
        )
    compared = texts if described is None else described.to(backbone.device)
    objective = Objective(settings.losses, compared[base], kept, backbone.logit_scale)
    views = live_views(model, backbone, source, objective.needs_base)
    if settings.train.cache_prefix or settings.train.augmentation == "none":
        asked = asked_views(anchors, settings.train)
        folder, origin_digest = layout.work / "prefix", prepared.fingerprint
        with progress("cached views", len(asked)) as advance:
            views = CachedViews(model, backbone, source, asked, folder, origin_digest, advance)
    inputs = (
        run.seed_layout.prompts,
        run.seed_layout.prompt_centres,
        run.seed_layout.representatives,
        run.seed_layout.teacher_text_features,
        layout.fewshot(settings.fewshot.shots, run.seed),
    )
    key = settings_hash(
        settings.adapter,
        settings.experts,
        settings.losses,
        settings.class_texts,
        settings.train,
        settings.runtime.precision,
        origin.as_dict(),
        run.seed,
        *(file_digest(path) for path in inputs),
    )
    checkpoint = Checkpoint(
        layout.work / "train" / f"{prepared.name}-seed{run.seed}-{key}.safetensors",
        settings.train.checkpoint_steps,
    )
    trainable = sum(parameter.numel() for parameter in model.parameters())
    if processes.first:
        say(f"{len(anchors)} anchors, {trainable} trainable values, on {backbone.device}")
    task = TrainingTask(anchors, prepared.samples["class_id"].to_list(), objective, views)
    trainer = Trainer(
        model, backbone, task, settings.train, run.seed, checkpoint, warn=say, processes=processes
    )
    with progress("steps", trainer.step_count) as advance:
        trainer.advance = advance
        fitted = trainer.fit()
    return save_state(model), saved_shape(model), fitted, checkpoint


def _fit_baseline(
    run: Run,
    settings: Settings,
    prepared: Dataset,
    backbone: Backbone,
    origin: Provenance,
    method: str,
    described: torch.Tensor | None,
) -> tuple[dict[str, Any], pl.DataFrame]:
    layout = run.layout
    sections = BaselineSettings(settings.coop, settings.linear_probe, settings.residual)
    texts = read_text_features(layout.text_features, origin)
    data = BaselineData(
        prepared,
        load_fewshot(layout, prepared, settings.fewshot.shots, run.seed),
        read_image_features(layout.image_features, origin),
        texts,
        texts if described is None else described,
        lambda: generic_texts(prepared.classes["template"][0], backbone),
    )
    with progress("epochs", sections.stretches(method)) as advance:
        return fit_baseline(method, data, backbone, sections, run.seed, advance)
