"""What CAPT computes from its few-shot images: confused pairs, whitening, discriminant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from capt_core.methods.capt.few_shot import (
    FewShotSpace,
    asked_of_images,
    confused_pairs,
    unconfused_pairs,
)
from capt_core.methods.capt.joint_space import JointSpace
from capt_core.methods.capt.method import FittedCapt
from capt_core.methods.capt.parts import parts_of, switched_on
from capt_core.methods.capt.settings import CaptSettings
from capt_core.methods.capt.within_class import WithinClass, whitening
from capt_core.methods.classes import Classes
from capt_core.methods.fitting import dataset_features, fit_method
from capt_core.methods.method import Fitted
from capt_core.methods.model_file import load_model
from capt_core.methods.task import Task
from capt_core.methods.trained import TrainedModel
from capt_core.reporter import Reporter
from tests.methods.capt.reference import normal, unit
from tests.methods.toy_task import quick

EVERYTHING = {
    "experts": {"granularities": ["sample", "confused_pair"], "pair_strength": 5.0},
    "discriminant": {"weight": 0.5},
    "whitening": {"shrinkage": 0.5},
}


def test_the_covariance_within_classes_by_hand() -> None:
    # Deviations (1, 0), (-1, 0) in one class and (0, 2), (0, -2) in the other, two of them free.
    features = torch.tensor([[1.0, 5.0], [-1.0, 5.0], [3.0, 2.0], [3.0, -2.0]])
    labels = torch.tensor([0, 0, 1, 1])
    found = WithinClass.of(features, labels)
    assert found is not None
    assert found.means.tolist() == [[0.0, 5.0], [3.0, 0.0]]
    assert found.covariance.tolist() == [[1.0, 0.0], [0.0, 4.0]]
    # Half way to the multiple of the identity with the same trace, 2.5.
    assert found.shrunk(0.5).tolist() == [[1.75, 0.0], [0.0, 3.25]]


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 0, 0]])
def test_images_that_do_not_differ_within_a_class_have_none(labels: list[int]) -> None:
    features = torch.eye(3) if len(set(labels)) == 3 else torch.ones(3, 3)
    assert WithinClass.of(features, torch.tensor(labels)) is None


def test_whitening_by_hand() -> None:
    # Variances 1 and 4, mean 2.5: the second direction counts half as much as the first.
    found = whitening(torch.diag(torch.tensor([1.0, 4.0])))
    torch.testing.assert_close(found, torch.diag(torch.tensor([2.5**0.5, 2.5**0.5 / 2])))
    torch.testing.assert_close(whitening(3 * torch.eye(4)), torch.eye(4))


@given(st.integers(0, 999))
def test_whitened_images_of_a_class_differ_alike_in_every_direction(seed: int) -> None:
    features = normal(40, 4, seed=seed).double() * torch.tensor([1.0, 2.0, 0.5, 3.0])
    labels = torch.arange(40) % 3
    found = WithinClass.of(features, labels)
    assert found is not None
    changed = WithinClass.of(features @ whitening(found.covariance), labels)
    assert changed is not None
    same = found.covariance.diagonal().mean() * torch.eye(4).double()
    torch.testing.assert_close(changed.covariance, same)


def test_images_and_texts_are_whitened_alike() -> None:
    space = JointSpace(whitening=torch.diag(torch.tensor([1.0, 0.5])))
    given_in = torch.tensor([[0.6, 0.8]])
    expected = torch.tensor([[0.6, 0.4]]) / 0.52**0.5
    torch.testing.assert_close(space(given_in), expected)
    torch.testing.assert_close(space.texts(given_in), expected)
    images = unit(3, 2, seed=1)
    assert torch.equal(JointSpace()(images), images)
    assert torch.equal(JointSpace().texts(images), images)


def test_pairs_are_taken_once_and_by_their_place() -> None:
    statistics = pl.DataFrame({"true_class_id": [7, 3, 5, 5], "predicted_class_id": [3, 7, 7, 9]})
    assert confused_pairs(statistics, [3, 5, 7]) == [(0, 2), (1, 2)]
    assert confused_pairs(statistics, [3, 7]) == [(0, 1)]
    assert confused_pairs(statistics[:0], [3, 5, 7]) == []


@given(st.integers(0, 999))
def test_the_control_has_as_many_pairs_and_none_that_is_confused(seed: int) -> None:
    pairs = [(0, 1), (0, 2), (1, 4)]
    found = unconfused_pairs(pairs, 6, seed)
    assert len(set(found)) == 3
    assert not set(found) & set(pairs)
    assert all(0 <= one < other < 6 for one, other in found)
    assert unconfused_pairs(pairs, 6, seed) == found
    assert unconfused_pairs([(0, 1), (0, 2)], 3, seed) == [(1, 2)]


@pytest.fixture(scope="module")
def model(task: Task) -> TrainedModel:
    return fit_method(quick("capt", **EVERYTHING), task)


@pytest.fixture
def fitted(model: TrainedModel) -> FittedCapt:
    assert isinstance(model.fitted, FittedCapt)
    return model.fitted


def images(fitted: Fitted, task: Task) -> torch.Tensor:
    ids = task.dataset.samples["sample_id"]
    return dataset_features(fitted, task.dataset, ids, None, task.image_root, 64, 1)


@torch.no_grad()
def test_a_fitted_model_moves_images_and_whitens_both(fitted: FittedCapt, task: Task) -> None:
    expert, matrix = fitted.space.pair_expert, fitted.space.whitening
    assert expert is not None
    assert matrix is not None
    assert expert.pairs.tolist() == [[0, 1]]
    classes = Classes.of(task.dataset)
    with_parts, texts = images(fitted, task), fitted.class_texts(classes)
    fitted.space = JointSpace()
    try:
        seen, plain = images(fitted, task), fitted.class_texts(classes)
    finally:
        fitted.space = JointSpace(expert, matrix)
    moved = functional.normalize(seen + expert(seen), dim=-1)
    assert (moved - seen).norm(dim=-1).max() > 1e-3
    torch.testing.assert_close(with_parts, functional.normalize(moved @ matrix, dim=-1))
    torch.testing.assert_close(texts, functional.normalize(plain @ matrix, dim=-1))
    # The matrix is of the few-shot images before they are moved.
    drawn = task.few_shot_rows()
    few, labels = seen[drawn["sample_id"].to_list()], torch.tensor(drawn["class_id"].to_list())
    within = WithinClass.of(few, labels)
    assert within is not None
    torch.testing.assert_close(matrix, whitening(within.shrunk(0.5)).float())


@torch.no_grad()
def test_it_comes_back_from_its_file(
    model: TrainedModel, fitted: FittedCapt, task: Task, tmp_path: Path
) -> None:
    classes = Classes.of(task.dataset)
    model.save(tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors", task.backbone).fitted
    assert isinstance(loaded, FittedCapt)
    seen = images(fitted, task)
    assert torch.equal(seen, images(loaded, task))
    assert torch.equal(fitted.logits(seen, classes), loaded.logits(seen, classes))


@torch.no_grad()
def test_each_is_a_part_that_can_be_switched_off(fitted: FittedCapt, task: Task) -> None:
    classes = Classes.of(task.dataset)
    assert parts_of(fitted)[-3:] == ("pair_expert", "whitening", "discriminant")

    def answers(part: str | None) -> torch.Tensor:
        with switched_on(fitted, part):
            return fitted.logits(images(fitted, task), classes)

    whole, plain = fitted.logits(images(fitted, task), classes), answers(None)
    base = fitted.base.logits(images(fitted.base, task), classes)
    torch.testing.assert_close(plain[:, 2:], base[:, 2:], rtol=1e-4, atol=1e-4)
    for part in ("pair_expert", "whitening", "discriminant"):
        alone = answers(part)
        assert not torch.allclose(alone, plain, atol=1e-3), part
        assert not torch.allclose(alone, whole, atol=1e-3), part
    assert torch.equal(fitted.logits(images(fitted, task), classes), whole)


def test_what_needs_several_images_of_a_class_is_left_out_with_a_word(
    task: Task, tmp_path: Path
) -> None:
    told: list[str] = []
    single = task.fewshot.unique(["class_id", "split"], keep="first", maintain_order=True)
    one = replace(task, fewshot=single, shots=1, reporter=Reporter(warn=told.append))
    method = quick("capt", **EVERYTHING)
    model = fit_method(method, one)
    found = model.fitted
    assert isinstance(found, FittedCapt)
    assert found.space.pair_expert is None
    assert found.space.whitening is None
    assert found.told_weight is None
    (message,) = (text for text in told if text.startswith("without"))
    assert "without confused_pair, whitening, discriminant" in message
    assert "fewshot.shots=2" in message
    assert asked_of_images(method.settings) == ["confused_pair", "whitening", "discriminant"]
    # The model says it wherever it says what it saw, and so does its file.
    left_out = (message.partition("; ")[0],)
    seen = "difference prompts (class texts)"
    model.save(tmp_path / "model.safetensors")
    for each in (model, load_model(tmp_path / "model.safetensors", task.backbone)):
        assert each.fitted.left_out == left_out
        assert each.sees == f"{seen}; {left_out[0]}"
        assert each.fitted.saw == (seen,)
        assert each.fitted.record()["left_out"] == list(left_out)


@pytest.mark.parametrize(
    ("confused", "pairs", "message", "count"),
    [
        ([], "confused", "without confused_pair: the bank has no error of one class", None),
        ([(0, 1), (0, 2), (1, 2)], "unconfused", "the bank has an error of every pair", None),
        ([(0, 1), (0, 2)], "unconfused", "only 1 pairs are not confused, 2 are", 1),
    ],
)
def test_pairs_that_cannot_be_had_are_told(
    confused: list[tuple[int, int]], pairs: str, message: str, count: int | None, task: Task
) -> None:
    told: list[str] = []
    assert task.confusions is not None
    found = task.confusions()
    rows = {"true_class_id": [one for one, _ in confused]}
    rows |= {"predicted_class_id": [other for _, other in confused]}
    statistics = pl.DataFrame(rows, schema=dict.fromkeys(rows, pl.Int64))
    heard = replace(
        task,
        confusions=lambda: replace(found, statistics=statistics),
        reporter=Reporter(warn=told.append),
    )
    base, width = task.base_model, found.centres["difference"].shape[1]
    assert base is not None
    features, labels = unit(6, width, seed=1).float(), torch.arange(6) % 3
    within = WithinClass.of(features, labels)
    assert within is not None
    seen = FewShotSpace(heard, [0, 1, 2], features, labels, within)
    settings = CaptSettings.model_validate(
        {"experts": {"granularities": ["confused_pair"], "pairs": pairs}}
    )
    space, left_out = seen.joint_space(base, unit(4, width, seed=2).float(), settings)
    expert = space.pair_expert
    assert (None if expert is None else len(expert.pairs)) == count
    assert any(message in text for text in (told if expert else left_out))
