"""DPC: its mixing and its hard negatives by hand, and what it leaves of its base model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from torch.nn import functional

from capt_core.artifacts.tensors import tensors_digest
from capt_core.backbone.loading import Backbone
from capt_core.data.dataset import Dataset
from capt_core.learning.loop import Batch
from capt_core.methods.classes import Classes
from capt_core.methods.dpc.dual import DualPrompts
from capt_core.methods.dpc.method import Dpc, Pool, symmetric_losses
from capt_core.methods.dpc.mining import (
    Rows,
    enlarged,
    hard_negatives,
    mined_probabilities,
    random_classes,
)
from capt_core.methods.dpc.mixing import parallel_prompt, weighted_prompt
from capt_core.methods.dpc.on_coop import DualContext
from capt_core.methods.dpc.on_coop import random_range as range_on_coop
from capt_core.methods.dpc.on_promptkd import DualDistilled
from capt_core.methods.dpc.on_promptkd import random_range as range_on_promptkd
from capt_core.methods.fitting import fit_method
from capt_core.methods.method import Fitted
from capt_core.methods.promptkd import PromptKD
from capt_core.methods.promptsrc import IndependentPrompts, PromptSRC
from capt_core.methods.task import Task
from capt_core.methods.trained import TrainedModel
from capt_core.methods.views import ViewSource
from tests.methods.interrupted import resumed
from tests.methods.toy_task import quick
from tests.refusals import refusal

BASE, NOVEL = Classes.named(["woven", "cracked"]), Classes.named(["dotted", "bumpy"])


def on_coop(task: Task) -> Task:
    return replace(task, base_model=quick("coop").start(task.backbone, 1, ()).eval())  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def distilled(task: Task) -> Task:
    """A task whose base model is a student of a teacher with prompts, neither of them trained."""
    source, target = quick("promptsrc"), quick("promptkd")
    assert isinstance(source, PromptSRC)
    assert isinstance(target, PromptKD)
    teacher = source.start(task.backbone, 1).eval()
    given = replace(task, teacher=teacher)
    student = target.start(given, teacher.class_texts(Classes.of(task.dataset)))
    return replace(given, base_model=student.eval())


@pytest.fixture(scope="module")
def tuned(distilled: Task) -> TrainedModel:
    return fit_method(quick("dpc"), distilled)


def images() -> torch.Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def test_the_mixture_of_both_prompts_is_what_is_trained() -> None:
    mixed = torch.tensor([3.0], requires_grad=True)
    backbone = torch.tensor([1.0])
    # (3 - 0.75 * 1) / 0.25 = 9, and 0.25 * 9 + 0.75 * 1 = 3.
    found = parallel_prompt(mixed, backbone, 0.25, "decoupled")
    assert found.item() == 9
    assert weighted_prompt(found, backbone, 0.25).item() == 3
    assert weighted_prompt(found, backbone, 0.0).item() == 1
    found.backward()  # type: ignore[no-untyped-call]
    assert mixed.grad == 4


def test_in_the_released_code_only_the_gradient_shows_the_weight() -> None:
    mixed = torch.tensor([3.0], requires_grad=True)
    found = parallel_prompt(mixed, torch.tensor([1.0]), 0.25, "released")
    assert found.item() == 3
    found.backward()  # type: ignore[no-untyped-call]
    assert mixed.grad == 4


def drawing(*classes: int) -> Iterator[int]:
    yield from classes


def test_negatives_are_not_in_the_batch_twice() -> None:
    ranked = torch.tensor([[0.4, 0.3, 0.2, 0.1, 0.0], [0.0, 0.4, 0.3, 0.2, 0.1]])
    # Anchor 0 keeps class 2: its own is 0, and 1 is the other's. Class 3 is drawn, 0 is taken.
    # Anchor 1 keeps nothing of 1, 2, 3; 4 is drawn, then three draws find nothing more.
    drawn = drawing(0, 3, 2, 4, 0, 1)
    found = hard_negatives(ranked, [0, 1], 3, drawn, 4)
    assert found == [[2, 3], [4]]
    assert not list(drawn)


def test_all_likeliest_classes_are_kept_where_the_label_is_none_of_them() -> None:
    ranked = torch.tensor([[0.5, 0.3, 0.2, 0.0]])
    assert hard_negatives(ranked, [3], 3, drawing(), 0) == [[0, 1, 2]]
    assert hard_negatives(ranked, [3], 9, drawing(), 0) == [[0, 1, 2]]  # more than there are


def test_published_numbers_of_likeliest_classes() -> None:
    assert (Dpc().top("eurosat"), Dpc().top("dtd")) == (2, 8)
    assert Dpc(Dpc.Settings.model_validate({"top": 3})).top("eurosat") == 3


def test_where_random_negatives_come_from() -> None:
    assert [list(range_on_coop(4, variant)) for variant in ("decoupled", "released")] == [
        [0, 1, 2, 3],
        [1, 2],
    ]
    assert list(range_on_promptkd(4, "released")) == [1, 2, 3]
    draws = torch.Generator().manual_seed(0)
    found = random_classes(range(1, 3), draws)
    assert {next(found) for _ in range(20)} == {1, 2}
    # Two classes leave the released code none to draw.
    assert hard_negatives(torch.eye(2), [0, 1], 2, random_classes(range(1, 1), draws), 0) == [
        [],
        [],
    ]


def test_the_scale_of_mining_is_100() -> None:
    texts = torch.tensor([[1.0, 0.0], [0.99, 0.0]])
    expected = 1 / (1 + torch.tensor(-1.0).exp())
    torch.testing.assert_close(mined_probabilities(texts[:1], texts)[0, 0], expected)
    expected = 1 / (1 + torch.tensor(-0.5).exp())
    torch.testing.assert_close(mined_probabilities(texts[:1], texts, 50.0)[0, 0], expected)


def test_negatives_stand_behind_their_anchor() -> None:
    def images_of(classes: list[int]) -> torch.Tensor:
        return torch.tensor(classes) * 10.0

    anchors = Rows(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 1, 2]))
    found = enlarged(anchors, [[5], [], [6, 7]], images_of)
    assert found.images.tolist() == [1, 50, 2, 3, 60, 70]
    assert found.labels.tolist() == [0, 5, 1, 2, 6, 7]
    assert enlarged(anchors, [[], [], []], images_of) is anchors


def test_rows_of_one_class_are_negatives_too() -> None:
    source = torch.Generator().manual_seed(0)
    first, second = (
        functional.normalize(torch.randn(3, 4, generator=source), dim=1) for _ in range(2)
    )
    second[2] = second[0]
    logits = 7 * first @ second.T
    found = symmetric_losses(first, second, 7.0)
    own = torch.arange(3)
    torch.testing.assert_close(found["image_to_text"], functional.cross_entropy(logits, own))
    torch.testing.assert_close(found["text_to_image"], functional.cross_entropy(logits.T, own))


@pytest.mark.parametrize("variant", ["decoupled", "released"])
def test_on_coop_classes_that_were_not_trained_stay_with_the_base_model(
    variant: str, task: Task
) -> None:
    given = on_coop(task)
    found, base = fit_method(quick("dpc", variant=variant), given).fitted, given.base_model
    assert base is not None
    assert torch.equal(found.class_texts(NOVEL), base.class_texts(NOVEL))
    moved = (found.class_texts(BASE) - base.class_texts(BASE)).abs().amax(dim=1)
    assert moved.min() > 1e-4
    mixed = Classes.named(["dotted", "woven", "bumpy", "cracked"])
    parts = torch.cat([found.class_texts(NOVEL), found.class_texts(BASE)])[[0, 2, 1, 3]]
    torch.testing.assert_close(found.class_texts(mixed), parts)
    shared = fit_method(quick("dpc", variant=variant, weight_new=1.0), given).fitted
    other = Classes.named(["woven", "dotted"])
    alone = shared.class_texts(other)[1]  # at weight 1 it has the tuned prompt, too
    assert not torch.allclose(alone, base.class_texts(other)[1], atol=1e-4)


def test_images_of_negatives(task: Task) -> None:
    class Named(ViewSource):
        def pixels(self, views: Any, backbone: Backbone) -> torch.Tensor:
            return torch.tensor([[view.sample_id, view.number] for view in views])

    pool = Pool([[3, 5], [4, 6]], Named({}, "none", 0.0, 1, 1), task.backbone)
    draws = torch.Generator().manual_seed(0)
    found = torch.stack(
        [pool.images([1, 0], draws, Batch(step, 0, [], 1)) for step in range(1, 20)]
    )
    assert set(found[:, 0, 0].tolist()) == {4, 6}
    assert set(found[:, 1, 0].tolist()) == {3, 5}
    assert len(set(found[:, 0, 1].tolist())) == 19  # a view of their own in each step


def test_negatives_come_from_the_images_that_the_settings_name(task: Task) -> None:
    few = replace(on_coop(task), fewshot=task.fewshot.filter(pl.col("sample_id") < 8))

    def pool(**changes: Any) -> Pool:
        method = quick("dpc", **changes)
        base = few.base_model
        assert base is not None
        return Pool.of(DualContext.cloned(method, base, ["woven", "cracked"], None), few)

    assert pool(negatives="few_shot").ids == [[0, 4], [1, 5]]
    assert pool().ids == [[0, 4, 8, 12, 16, 20], [1, 5, 9, 13, 17, 21]]


def test_on_promptkd_each_class_has_the_logit_of_its_own_kind(
    tuned: TrainedModel, distilled: Task
) -> None:
    found, base = tuned.fitted, distilled.base_model
    assert base is not None
    batch = images()
    torch.testing.assert_close(found(batch, NOVEL), base(batch, NOVEL))
    assert (found(batch, BASE) - base(batch, BASE)).abs().min() > 1e-4
    mixed = Classes.named(["dotted", "woven", "bumpy", "cracked"])
    parts = torch.cat([found(batch, NOVEL), found(batch, BASE)], dim=1)[:, [0, 2, 1, 3]]
    torch.testing.assert_close(found(batch, mixed), parts)
    both, own = found.encode_with_start(batch, base)
    assert torch.equal(both, found.encode(batch))
    torch.testing.assert_close(own, base.encode(batch))


def test_on_promptkd_new_classes_may_share_the_tuned_image_prompts(
    tuned: TrainedModel, distilled: Task
) -> None:
    mixing = quick("dpc", weight_new=0.5)
    found = DualDistilled.restored(
        mixing, tuned.fitted.start, tuned.fitted.facts()["names"], tuned.fitted.state_dict()
    ).eval()
    batch, base = images(), distilled.base_model
    assert base is not None
    assert not torch.allclose(found(batch, NOVEL), base(batch, NOVEL), atol=1e-5)
    torch.testing.assert_close(found(batch, BASE), tuned.fitted(batch, BASE))
    torch.testing.assert_close(found.encode_with_start(batch, base)[1], base.encode(batch))


def test_all_that_is_tuned_on_promptkd_moves_and_nothing_else(
    tuned: TrainedModel, distilled: Task
) -> None:
    base, teacher = distilled.base_model, distilled.teacher
    assert base is not None
    assert isinstance(teacher, IndependentPrompts)
    found = tuned.fitted
    assert isinstance(found, DualDistilled)
    assert tensors_digest(dict(found.base.state_dict())) == tensors_digest(dict(base.state_dict()))
    text = teacher.text.detach()
    assert (found.mixed - text[0]).abs().max() > 0
    assert (found.deep - text[1:]).flatten(1).abs().amax(dim=1).min() > 0
    assert (found.image - found.base.image).flatten(1).abs().amax(dim=1).min() > 0
    for name, value in found.projector.state_dict().items():
        assert not torch.equal(value, found.base.projector.state_dict()[name]), name


def test_an_interrupted_training_ends_as_if_it_was_not(
    tuned: TrainedModel, distilled: Task, tmp_path: Path
) -> None:
    again = resumed(lambda task: fit_method(quick("dpc"), task), distilled, tmp_path, 1)
    for path, model in (("one", tuned), ("two", again)):
        model.save(tmp_path / path)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    # Another base model is another training.
    method, without = quick("dpc"), replace(distilled, base_model=None)
    assert distilled.key(method) != without.key(method)


def test_what_it_saw_is_also_what_its_base_model_saw(distilled: Task) -> None:
    base = distilled.base_model
    assert base is not None
    unlabelled = base.method.sees(distilled, base)
    assert len(unlabelled) > 1
    for negatives, found in (
        ("full_train", ["all base training images (negatives)"]),
        ("few_shot", []),
    ):
        method = quick("dpc", negatives=negatives)
        assert method.sees(distilled, base) == [*found, *unlabelled]


def single(task: Task) -> Dataset:
    groups = pl.Series(["base", "novel", "novel", "novel"])
    classes = task.dataset.classes.with_columns(group=groups)
    return replace(task.dataset, classes=classes)


def test_base_models_that_it_cannot_be_tuned_from(task: Task, distilled: Task) -> None:
    def refused(given: Task) -> str:
        return refusal(fit_method, quick("dpc"), given)

    plain = Fitted(quick("clip"), task.backbone)
    assert "this one is of clip; set fit_teacher.method=coop" in refused(
        replace(task, base_model=plain)
    )
    specific = quick("coop", class_specific=True).start(task.backbone, 1, ["woven", "cracked"])  # type: ignore[attr-defined]
    assert "class_specific=false" in refused(replace(task, base_model=specific))
    assert "none is given" in refused(replace(distilled, teacher=None))
    assert "clip has none; take a teacher" in refused(replace(distilled, teacher=plain))
    assert "a single class is trained" in refused(replace(on_coop(task), dataset=single(task)))
    other = quick("maple").start(task.backbone, 1).eval()  # type: ignore[attr-defined]
    assert "the teacher was 'promptsrc on tiny-clip" in refused(replace(distilled, teacher=other))
    half = replace(task.backbone, autocast=torch.float16)
    assert "not trained in fp16" in refused(replace(on_coop(task), backbone=half))


def test_what_holds_for_both(tuned: TrainedModel) -> None:
    found = tuned.fitted
    assert isinstance(found, DualPrompts)
    assert found.train().base.training is False
    found.eval()
    assert "dpc" not in found.readable_prompts(BASE)[0]
