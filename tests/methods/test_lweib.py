"""LwEIB by hand: its convolutions, their gradients, and the classes and sentences of a step."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest
import torch

from capt_core.data.splits import prompt_name
from capt_core.methods.classes import Classes
from capt_core.methods.fitting import fit_method
from capt_core.methods.lweib.convolutions import Convolution, patch_convolution, text_convolution
from capt_core.methods.lweib.method import LwEIB, fitting, sentence_tokens
from capt_core.methods.lweib.model import EnrichedClip, sentence_mean
from capt_core.methods.lweib.sampling import SampledClassesLoss, negative_draw, used_classes
from capt_core.methods.task import Task
from tests.methods.toy_task import quick, written_descriptions


def test_a_text_is_mixed_with_its_neighbours() -> None:
    tokens = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]])
    weight = torch.tensor([[[1.0, 0.0, 2.0]], [[0.0, 1.0, 0.0]]])
    # First width: the token before plus twice the one behind, zeros beyond both ends.
    expected = [[[4.0, 10.0], [7.0, 20.0], [2.0, 30.0]]]
    assert text_convolution(tokens, weight).tolist() == expected


def test_patches_are_mixed_over_their_grid_and_the_class_token_is_not() -> None:
    tokens = torch.tensor([[[100.0], [1.0], [2.0], [3.0], [4.0], [5.0], [6.0]]])
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 0, 1] = 1.0  # the patch above
    found = patch_convolution(tokens, weight, (2, 3))
    assert found.flatten().tolist() == [0, 0, 0, 0, 1, 2, 3]
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1, 0] = 1.0  # the one to the left
    assert patch_convolution(tokens, weight, (2, 3)).flatten().tolist() == [0, 0, 1, 2, 0, 4, 5]
    assert patch_convolution(tokens[:, :1], weight, (2, 3)).tolist() == [[[0.0]]]


@pytest.mark.parametrize(("fast", "scale"), [(False, 0.5), (True, 1.5)])
def test_weights_learn_as_if_the_scale_were_one(fast: bool, scale: float) -> None:
    weight = torch.tensor([[[0.0, 3.0, 0.0]]])
    convolution = Convolution(weight, None, 0.5, 3.0)
    convolution.fast = fast
    tokens = torch.tensor([[[2.0], [5.0]]], requires_grad=True)
    found = convolution(tokens)
    assert found.flatten().tolist() == [6 * scale, 15 * scale]
    found.sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.flatten().tolist() == [3 * scale, 3 * scale]  # the true gradient
    assert convolution.weight.grad is not None
    assert convolution.weight.grad.flatten().tolist() == [2, 7, 5]  # divided by the scale


def test_classes_of_a_batch_come_first_then_those_drawn() -> None:
    labels = torch.tensor([4, 1, 4])
    # Not in the batch: 0, 2, 3, 5.
    classes, positions = used_classes(labels, 6, [3, 0])
    assert (classes.tolist(), positions.tolist()) == ([1, 4, 5, 0], [1, 0, 1])
    classes, positions = used_classes(labels, 6, [])
    assert (classes.tolist(), positions.tolist()) == ([1, 4], [1, 0, 1])
    classes, positions = used_classes(labels, 6, None)
    assert (classes.tolist(), positions.tolist()) == ([0, 1, 2, 3, 4, 5], [4, 1, 4])


@pytest.mark.parametrize(
    ("count", "ratio", "drawn"), [(6, 1, 2), (6, 7, 4), (6, 0, 0), (6, -1, None), (3, 7, None)]
)
def test_how_many_negatives_are_drawn(count: int, ratio: int, drawn: int | None) -> None:
    labels = torch.tensor([2, 1, 2])
    found = negative_draw(labels, count, ratio, torch.Generator().manual_seed(1))
    assert (None if found is None else len(set(found.tolist()))) == drawn


def test_a_classifier_is_the_mean_of_unit_features() -> None:
    features = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    torch.testing.assert_close(sentence_mean(features), torch.tensor([0.5, 0.5]).sqrt())


def test_a_step_draws_what_its_numbers_say(task: Task) -> None:
    method = quick("lweib", fast_share=0.5)
    assert isinstance(method, LwEIB)
    fitted = method.start(task.backbone, 1)
    tokens = [torch.zeros(size, 4) for size in (1, 2, 5, 3, 2, 2)]
    loss, labels = SampledClassesLoss(fitted, tokens), torch.tensor([2, 3])
    draws = [loss.draws(labels, 1, step, 0) for step in range(1, 40)]
    again = loss.draws(labels, 1, 3, 0)
    assert draws[2].fast == again.fast
    assert torch.equal(torch.as_tensor(draws[2].sentences), torch.as_tensor(again.sentences))
    for drawn in draws:
        classes, _ = used_classes(labels, 6, drawn.negatives)
        sizes = [len(tokens[each]) for each in classes.tolist()]
        chosen = torch.as_tensor(drawn.sentences).tolist()
        assert all(0 <= number < size for number, size in zip(chosen, sizes, strict=True))
    third = [torch.as_tensor(drawn.sentences)[0].item() for drawn in draws]
    assert set(third) == {0, 1, 2, 3, 4}  # of the class with five
    share = torch.tensor([[*drawn.fast["text"], *drawn.fast["vision"]] for drawn in draws]).float()
    assert 0.3 < share.mean() < 0.7


def test_fast_blocks_are_slow_again_afterwards(task: Task) -> None:
    fitted = quick("lweib").start(task.backbone, 1)  # type: ignore[attr-defined]
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        slow = fitted.encode(images)
        with fitted.fast({"vision": [True], "text": [True]}):
            assert not torch.allclose(fitted.encode(images), slow)
        assert torch.equal(fitted.encode(images), slow)


def test_sentences_stand_behind_the_name_and_lose_what_is_too_long(task: Task) -> None:
    backbone = task.backbone
    found = sentence_tokens(task, 20)
    texts = {
        "woven": ["a photo of a woven, threads over and under.", "a photo of a woven, a photo of"],
        "cracked": ["a photo of a cracked."],
    }
    assert torch.equal(found["woven"][:1], backbone.tokenizer(texts["woven"][:1]))
    assert found["woven"].shape[0] == 2
    assert torch.equal(found["cracked"], backbone.tokenizer(texts["cracked"]))
    assert len(sentence_tokens(task, 1)["woven"]) == 1
    long = "a photo of a woven, " + "very " * 100 + "fine cloth"
    cut = fitting(long, backbone)
    assert long.startswith(cut)
    assert backbone.tokenizer.token_count(cut) == backbone.tokenizer.context_length


def test_images_are_compared_with_the_classes_own_sentences(task: Task) -> None:
    fitted = fit_method(quick("lweib", epochs=1), task).fitted
    assert isinstance(fitted, EnrichedClip)
    every = sentence_tokens(task, 20)
    with torch.no_grad():
        expected = fitted.classifier(list(every.values()))
    found = fitted.class_texts(Classes.of(task.dataset))
    torch.testing.assert_close(found, expected)
    assert prompt_name("woven") in every
    other = fitted.class_texts(Classes.named(["velvet"]))
    torch.testing.assert_close(other, fitted.class_texts(Classes.named(["velvet"], "{}, a cloth")))


def test_other_sentences_train_other_convolutions(task: Task) -> None:
    method = quick("lweib", epochs=1)
    first = fit_method(method, task).fitted.state_dict()
    changed = written_descriptions().with_columns(description=pl.lit("with dots."))
    other = replace(task, class_descriptions=lambda: changed)
    second = fit_method(method, other).fitted.state_dict()
    names = [name for name in first if name.startswith("convolutions.text")]
    assert any(not torch.equal(first[name], second[name]) for name in names)
