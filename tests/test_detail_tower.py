"""The tower that leaves room for local detail: its loss, its projection, its probes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.detail_probes import beside, confusions, probes, rank_correlation
from benchmarks.detail_tower import (
    FAMILY_OF,
    DetailStage,
    class_token_and_patches,
    limiting_projection,
    train_detail_tower,
    within_family_scatter,
)
from capt_core.backbone import tiny_clip
from capt_core.backbone.tiny_clip.facts import VISIBLE
from capt_core.backbone.tiny_clip.measure import Features
from capt_core.data.proctex import CLASS_NAMES, GROUPS


def _class_features(images: int, width: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Random features whose classes differ, with correlated noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(len(CLASS_NAMES)).repeat(images)
    means = torch.randn(len(CLASS_NAMES), width, generator=generator)
    mixing = torch.randn(width, width, generator=generator) / width**0.5
    noise = torch.randn(len(labels), width, generator=generator) @ mixing
    return means[labels] + noise, labels


def test_families_follow_the_labels() -> None:
    assert len(FAMILY_OF) == len(CLASS_NAMES)
    first = {family: CLASS_NAMES[FAMILY_OF.index(family)] for family in range(len(GROUPS))}
    assert list(first.values()) == [names[0] for names in GROUPS.values()]


def test_scatter_is_the_share_of_variance_between_the_classes_of_a_family() -> None:
    labels = torch.tensor([0, 0, 1, 1])  # two classes of one family
    apart = torch.tensor([[1.0, 0], [1, 0], [-1, 0], [-1, 0]])
    assert within_family_scatter(apart, labels).item() == pytest.approx(1.0)
    # The classes' means agree: within a class the two images point away from each other.
    alike = torch.tensor([[1.0, 0], [-1, 0], [1, 0], [-1, 0]])
    assert within_family_scatter(alike, labels).item() == pytest.approx(-1.0)
    # Of squared norms of 1 + 1, half lies between the classes and half is cancelled.
    mixed = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert within_family_scatter(mixed, labels).item() == pytest.approx(0.0)


def test_scatter_of_a_batch_with_no_two_images_of_a_class_is_nil() -> None:
    assert within_family_scatter(torch.randn(3, 4), torch.tensor([0, 1, 2])).item() == 0


def test_only_the_kept_directions_of_class_differences_are_left() -> None:
    features, labels = _class_features(8)
    for kept, share in ((0, 1.0), (3, 1.0), (3, 0.5)):
        limited = features @ limiting_projection(features, labels, kept, share)
        means = torch.stack([limited[labels == label].mean(0) for label in range(30)])
        family = torch.tensor(FAMILY_OF)
        offsets = torch.cat(
            [means[family == f] - means[family == f].mean(0) for f in range(len(GROUPS))]
        )
        strengths = torch.linalg.svdvals(offsets)
        assert int((strengths > 1e-4 * features.std()).sum()) == kept
    whole = limiting_projection(features, labels, 30, 1.0)
    torch.testing.assert_close(whole, torch.eye(40), atol=1e-5, rtol=0)


def test_families_stay_as_far_apart_where_their_difference_is_uncorrelated() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(len(CLASS_NAMES)).repeat(200)
    family = torch.tensor(FAMILY_OF)[labels]
    values = torch.zeros(len(labels), 35)
    values[:, :5] = torch.randn(8, 5, generator=generator)[family]
    values[torch.arange(len(labels)), 5 + labels] = 1.0
    values += 0.1 * torch.randn(len(labels), 35, generator=generator)
    limited = values @ limiting_projection(values, labels, 0, 1.0)
    torch.testing.assert_close(limited[:, :5], values[:, :5], atol=0.05, rtol=0)


def test_a_tower_is_trained_from_a_late_block_on_and_nothing_before_it() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (8, 3, 64, 64), generator=generator, dtype=torch.uint8)
    labels = torch.tensor([0, 0, 1, 1, 4, 4, 5, 5])
    shown = {"texture": torch.eye(30)[labels]}
    shown |= {name: torch.zeros(8, dtype=torch.long) for name in VISIBLE if name != "texture"}
    model = tiny_clip.load_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stage = DetailStage(steps=2, whole_steps=1, batch=4, warm_up=1, blocks=1)
    train_detail_tower(model.visual, images, shown, stage, 0)
    after = model.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert {"visual.proj", "visual.ln_post.weight"} <= changed
    late = ("visual.proj", "visual.ln_post", "visual.transformer.resblocks.3.")
    assert all(name.startswith(late) for name in changed)


def test_what_the_tower_holds_gives_its_feature_and_ends_with_the_last_block() -> None:
    tower = tiny_clip.load_model().visual
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        token, entering, leaving = class_token_and_patches(tower, images)
        torch.testing.assert_close(token @ tower.proj, tower(images))
    assert entering.shape == leaving.shape == (2, 128)


def test_kinds_of_features_stand_side_by_side_with_equal_weight() -> None:
    pool = (np.array([[0.0, 0], [2, 0]], np.float32), np.array([[10.0], [30]], np.float32))
    other = (np.array([[1.0, 3]], np.float32), np.array([[40.0]], np.float32))
    first, second = beside(pool, other)
    np.testing.assert_allclose(first, [[-1, 0, -1], [1, 0, 1]])
    np.testing.assert_allclose(second, [[0, 3, 2]])


def test_confusions_count_within_the_half_and_off_the_diagonal() -> None:
    values = np.eye(30, dtype=np.float32)[[0, 1, 1, 15]]
    found = confusions(Features(values, np.array([0, 0, 0, 16])), np.eye(30, dtype=np.float32))
    assert found.shape == (2 * 15 * 14,)
    assert found[0] == 2  # class 0 taken for class 1
    assert found[15 * 14 + 14] == 1  # class 16 taken for class 15, the first of its row
    assert found.sum() == 3


def test_probes_leave_out_shots_that_the_pool_cannot_give() -> None:
    labels = np.repeat(np.arange(30), 16)
    exact = np.eye(30, dtype=np.float32)[labels]
    found = probes([exact], [exact], {"pool": labels, "val": labels})
    assert found == {"base_16": 100.0, "novel_16": 100.0}


def test_rank_correlation_is_of_ranks() -> None:
    counts = np.array([0, 1, 4, 9])
    assert rank_correlation(counts, counts**2) == 1.0
    assert rank_correlation(counts, -counts) == -1.0
