"""CAPT's training: what a step is, what it leaves alone, and what it reports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from polars.testing import assert_frame_equal
from torch.nn import functional

from capt_core import params
from capt_core.artifacts.schemas import TRAINING_LOG
from capt_core.artifacts.tables import schema_problem
from capt_core.backbone.loading import load_backbone
from capt_core.learning.checkpoint import Checkpoint
from capt_core.learning.loop import Trained
from capt_core.learning.optimisation import epoch_batches
from capt_core.methods.capt.experts import Masks
from capt_core.methods.capt.objective import Objective
from capt_core.methods.capt.rows import Anchor, build_rows
from capt_core.methods.capt.settings import Train
from capt_core.methods.capt.training import Trainer, parameter_groups
from capt_core.methods.views import View
from tests import paper_preset
from tests.learning.toy import interrupt
from tests.methods.capt.reference import randomise
from tests.methods.capt.toy import ANCHORS, LABELS, LOSSES, toy_backbone, toy_model, toy_trainer

UNMASKED = paper_preset.experts(mask_rate=0.0)
PLAIN_SGD = paper_preset.train(
    epochs=1,
    batch_size=2,
    learning_rate=0.1,
    momentum=0.0,
    weight_decay=0.0,
    warmup_epochs=0,
    augmentation="none",
)


def fit(folder: Path, settings: Train, **arguments: Any) -> tuple[Trainer, Trained]:
    trainer = toy_trainer(folder, settings, **arguments)
    return trainer, trainer.fit()


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("blocks", ["all", 1])
@pytest.mark.parametrize("clip", ["small", "tiny"])
def test_a_cached_prefix_trains_as_computing_it_anew(
    tmp_path: Path, optimizer: str, blocks: Any, clip: str
) -> None:
    # The presets `paper` and `fast` with equal blocks, views and seeds.
    settings = paper_preset.train(
        epochs=4,
        batch_size=2,
        learning_rate=0.01,
        optimizer=optimizer,
        views=3,
        augmentation="crop_flip",
        representative_noise=0.1,
    )
    backbone = toy_backbone()
    if clip == "tiny":
        backbone = load_backbone(params.Backbone(), params.Runtime(device="cpu"))
    live, computed = fit(tmp_path, settings, backbone=backbone, blocks=blocks)
    cached, kept = fit(tmp_path, settings, backbone=backbone, blocks=blocks, cached=True)
    # Prefixes differ in rounding only: their images went through the tower in other batches. AdamW
    # makes steps out of that where it divides small gradients by their size.
    tolerance = 1e-3 if optimizer == "adamw" else 2e-6
    assert_frame_equal(kept.log, computed.log, rel_tol=tolerance, abs_tol=tolerance)
    state = weights(live)
    for name, value in weights(cached).items():
        torch.testing.assert_close(value, state[name], rtol=1e-5, atol=tolerance, msg=name)


def step_gradients(trainer: Trainer, batch: list[Anchor]) -> dict[str, torch.Tensor]:
    """Gradients of one batch, put together from the parts of the step."""
    model, data = trainer.model, trainer.data
    model.zero_grad()
    rows = build_rows(batch, LABELS, 5.0)
    prefix = data.views([View(sample_id) for sample_id in rows.sample_ids])
    features, _ = model.features(prefix.tokens, rows.alphas)
    images = functional.normalize(features, dim=1)
    loss, _ = data.objective(images, prefix.features, rows.labels, rows.anchors)
    loss.backward()  # type: ignore[no-untyped-call]
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def same(found: tuple[Trainer, Trained], expected: tuple[Trainer, Trained]) -> None:
    """Weights and log are equal to the bit."""
    assert_frame_equal(found[1].log, expected[1].log, check_exact=True)
    state = weights(expected[0])
    assert all(torch.equal(value, state[name]) for name, value in weights(found[0]).items())


RESUMED: list[dict[str, Any]] = [
    {"interpolation": 0.5},
    {"optimizer": "adamw", "representative_noise": 0.1},
]


def resumes(folder: Path, changes: dict[str, Any], **arguments: Any) -> None:
    """Interrupted three times, a training ends as one that was not."""
    settings = paper_preset.train(
        **{"epochs": 3, "batch_size": 2, "accumulate": 2, "learning_rate": 0.01, **changes}
    )
    whole = toy_trainer(folder, settings, **arguments)
    expected = whole.fit()
    checkpoint = Checkpoint(folder / "checkpoint.safetensors", 1)
    for after in (1, 2, 5):
        interrupt(toy_trainer(folder, settings, checkpoint=checkpoint, **arguments), after)
    resumed = toy_trainer(folder, settings, checkpoint=checkpoint, **arguments)
    trained = resumed.fit()
    assert trained.speed["step"].to_list() == [6]
    same((resumed, trained), (whole, expected))


@pytest.mark.parametrize("changes", RESUMED, ids=str)
def test_training_may_be_interrupted_again_and_again(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    resumes(tmp_path, changes, form="unsummed")


WITH_REPRESENTATIVES = tuple(anchor for anchor in ANCHORS if anchor.alphas)[:4]


def test_a_step_goes_down_the_mean_gradient_of_its_batches(tmp_path: Path) -> None:
    settings = PLAIN_SGD.model_copy(update={"accumulate": 2, "gate_rate": 3.0})
    arguments: dict[str, Any] = {
        "experts": UNMASKED,
        "anchors": WITH_REPRESENTATIVES,
        "prepare": randomise,
        "blocks": 2,
    }
    trainer = toy_trainer(tmp_path, settings, **arguments)
    start = weights(trainer)
    fitted = trainer.fit()
    assert fitted.log.height == 1
    assert fitted.log["rows"].item() == sum(1 + len(a.alphas) for a in WITH_REPRESENTATIVES)

    other = toy_trainer(tmp_path, settings, **arguments)
    one, two = (
        step_gradients(other, [WITH_REPRESENTATIVES[index] for index in batch])
        for batch in epoch_batches(4, 2, trainer.seed, epoch=1)
    )
    for name in one:
        rate = 0.1 * (3.0 if name == "experts.residual_gate" else 1.0)
        expected = start[name] - rate * (one[name] + two[name]) / 2
        torch.testing.assert_close(weights(trainer)[name], expected, rtol=1e-6, atol=1e-7)


def test_the_residual_gate_has_a_rate_of_its_own() -> None:
    model = toy_model(toy_backbone())
    others, gate = parameter_groups(model, paper_preset.train(gate_rate=30.0))
    assert (others.factor, gate.factor) == (1.0, 30.0)
    assert list(gate.parameters) == [model.experts.residual_gate]
    assert len(others.parameters) + 1 == len(list(model.parameters()))


def test_what_was_learnt_is_interpolated_once_at_the_end(tmp_path: Path) -> None:
    settings = paper_preset.train(epochs=2, batch_size=2, learning_rate=0.01)
    whole, log = fit(tmp_path, settings)
    part, same_log = fit(tmp_path, settings.model_copy(update={"interpolation": 0.25}))
    assert_frame_equal(same_log.log, log.log, check_exact=True)
    for name, value in weights(whole).items():
        share = 0.25 if name.endswith((".kernel", "residual_gate")) else 1.0
        assert torch.equal(weights(part)[name], share * value), name


def seen_masks(folder: Path, rate: float) -> list[Masks | None]:
    """Masks of every forward pass of a training whose passes all have three rows."""
    settings = PLAIN_SGD.model_copy(update={"epochs": 2, "batch_size": 1, "accumulate": 2})
    anchors = tuple(Anchor(i, (i + 4, i + 6), (1.0, 2.0)) for i in range(4))
    trainer = toy_trainer(
        folder, settings, experts=paper_preset.experts(mask_rate=rate), anchors=anchors
    )
    seen: list[Masks | None] = []
    features = trainer.model.features

    def watched(tokens: Any, alpha: Any, masks: Masks | None, class_token_only: bool) -> Any:
        seen.append(masks)
        return features(tokens, alpha, masks, class_token_only)

    trainer.model.features = watched  # type: ignore[assignment]
    trainer.fit()
    return seen


def test_masks_are_drawn_anew_for_every_forward_pass(tmp_path: Path) -> None:
    seen = seen_masks(tmp_path, 0.5)
    drawn = [masks for masks in seen if masks is not None]
    assert len(seen) == len(drawn) == 8
    for part in ("kept", "noise"):
        tensors = [getattr(masks, part) for masks in drawn]
        assert tensors[0].shape == (3, 3, 32)
        assert len({tuple(tensor.flatten().tolist()) for tensor in tensors}) == 8
    again = [masks for masks in seen_masks(tmp_path, 0.5) if masks is not None]
    assert all(torch.equal(one.kept, two.kept) for one, two in zip(drawn, again, strict=True))
    assert seen_masks(tmp_path, 0.0) == [None] * 8


def test_the_log_by_hand(tmp_path: Path) -> None:
    # One step over two anchors: alphas 4.5 and 2.5, the anchor 3.5; without any: 5, the start.
    settings = PLAIN_SGD.model_copy(update={"epochs": 2})
    anchors = (ANCHORS[0], ANCHORS[2])
    trainer, fitted = fit(tmp_path, settings, anchors=anchors, experts=UNMASKED, momentum=0.25)
    log = fitted.log
    assert schema_problem(TRAINING_LOG, log) is None
    assert set(log.columns) == set(TRAINING_LOG.columns)
    first, second = log.iter_rows(named=True)
    assert (first["step"], first["epoch"], first["rows"]) == (1, 1, 4)
    assert (first["alpha_min"], first["alpha_max"]) == (2.5, 5.0)
    assert first["alpha_mean"] == pytest.approx((3.5 + 4.5 + 2.5 + 5.0) / 4)
    # The running mean is that of the rows with a retrieval, and serves the other anchor next.
    assert first["alpha_running"] == pytest.approx(3.5)
    assert second["alpha_mean"] == pytest.approx((3.5 + 4.5 + 2.5 + 3.5) / 4)
    assert first["residual_gate"] == 0.0
    assert second["residual_gate"] != 0.0
    for row in (first, second):
        parts = sum(
            weight * row[f"{name}_loss"]
            for name, weight in (
                ("confusion", LOSSES.confusion_weight),
                ("original", LOSSES.original_weight),
                ("retention", LOSSES.retention_weight),
            )
        )
        assert row["loss"] == pytest.approx(parts)
        shares = [row[f"{n}_expert_share"] for n in ("sample", "commonality", "difference")]
        assert sum(shares) == pytest.approx(2)
    # The first step sees the base model itself.
    assert first["retention_loss"] == pytest.approx(0, abs=1e-6)
    assert float(trainer.model.running_alpha) == pytest.approx(3.5)


def test_what_no_loss_asks_for_is_not_in_the_log(tmp_path: Path) -> None:
    _, fitted = fit(
        tmp_path,
        PLAIN_SGD,
        losses=paper_preset.losses(),
        experts=paper_preset.experts(granularities=[]),
    )
    nothing = {name for name in fitted.log.columns if fitted.log[name].null_count()}
    assert nothing == {"retention_loss"} | {
        name for name in fitted.log.columns if name.endswith(("_norm", "_common", "_entropy"))
    } - {"gate_entropy"}
    assert all(fitted.log[name].null_count() == fitted.log.height for name in nothing)


def test_mixed_precision_trains_alike_with_losses_in_full(tmp_path: Path) -> None:
    settings = paper_preset.train(epochs=3, batch_size=2, learning_rate=0.01, augmentation="none")
    _, exact = fit(tmp_path, settings, blocks=1)
    backbone = replace(toy_backbone(), autocast=torch.bfloat16)
    trainer = toy_trainer(tmp_path, settings, backbone=backbone, blocks=1)
    seen: list[torch.dtype] = []
    objective = trainer.data.objective

    class Watched(Objective):
        def __call__(self, images: torch.Tensor, base: Any, *rest: Any) -> Any:
            seen.extend((images.dtype, base.dtype))
            return super().__call__(images, base, *rest)

    trainer.data = replace(trainer.data, objective=Watched(**vars(objective)))
    rough = trainer.fit()
    assert set(seen) == {torch.float32}
    assert rough.log["loss"].to_list() == pytest.approx(exact.log["loss"].to_list(), rel=0.05)
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())


def test_a_model_without_experts_or_without_adapters_trains(tmp_path: Path) -> None:
    for arguments in (
        {"experts": paper_preset.experts(granularities=[])},
        {"blocks": 0},
        {"experts": paper_preset.experts(routing="mean"), "blocks": [1]},
    ):
        trainer, fitted = fit(tmp_path, PLAIN_SGD, losses=paper_preset.losses(), **arguments)
        assert fitted.log.height == 3
        fresh = toy_model(trainer.backbone, **arguments)
        moved = [n for n, v in weights(trainer).items() if not v.equal(fresh.state_dict()[n])]
        assert moved, arguments


def test_mixtures_and_redrawn_representatives_are_trained_on(tmp_path: Path) -> None:
    settings = paper_preset.train(
        epochs=2, batch_size=2, learning_rate=0.01, augmentation="none", redraw=True
    )
    mixed = LOSSES.model_copy(update={"original_images": "mixtures"})
    asked: list[list[int]] = []

    def noting(views: Any) -> Any:
        def look(given: Any) -> Any:
            asked.append([view.sample_id for view in given])
            return views(given)

        return look

    trainer, trained = fit(tmp_path, settings, losses=mixed, cached=True, wrap=noting)
    # Of each step first the rows, then the partners of the mixtures, one for each of two anchors.
    assert {len(each) for each in asked[1::2]} == {2}
    for rows, partners in zip(asked[::2], asked[1::2], strict=True):
        assert [LABELS[i] for i in rows[-2:]] == [LABELS[i] for i in partners]
    # Representatives are drawn among the anchors.
    assert set().union(*asked) <= {anchor.sample_id for anchor in ANCHORS} | {3, 7, 8, 9}
    plain, log = fit(tmp_path, settings, cached=True)
    assert not trained.log["original_loss"].equals(log.log["original_loss"])
    assert any(not torch.equal(v, weights(plain)[n]) for n, v in weights(trainer).items())
