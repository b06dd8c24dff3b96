"""Frozen features: unit length, batch by batch, and usable by a later loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch

from capt_core.backbone.encoding import encode_images, encode_texts
from capt_core.backbone.loading import Backbone
from capt_core.data.images import Preprocess
from tests.refusals import refusal
from tests.toys import small_clip


class WordTokenizer:
    """One token per word, numbered by the word's length; 49 ends every text."""

    context_length = 8

    def __call__(self, texts: list[str]) -> torch.Tensor:
        tokens = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        for row, text in enumerate(texts):
            ids = [*(len(word) for word in text.split()), 49]
            tokens[row, : len(ids)] = torch.tensor(ids)
        return tokens

    def token_count(self, text: str) -> int:
        return len(text.split()) + 1

    def decode(self, ids: Sequence[int]) -> str:
        raise AssertionError("nothing here asks for it")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(
        identity="small@0",
        clip=small_clip(),
        tokenizer=WordTokenizer(),
        preprocess=Preprocess(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        device=torch.device("cpu"),
        autocast=None,
        untrained=False,
    )


def test_image_features_have_unit_length_and_keep_their_order(backbone: Backbone) -> None:
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    counted: list[int] = []
    features = encode_images(torch.split(images, 2), backbone, advance=counted.append)
    assert counted == [2, 2, 1]
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=1), torch.ones(5))
    with torch.no_grad():
        expected = backbone.clip.encode_image(images)
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(features.clone(), expected)


def test_another_encoder_takes_the_place_of_the_tower(backbone: Backbone) -> None:
    def colours(batch: torch.Tensor) -> torch.Tensor:
        return batch.mean(dim=(2, 3))

    images = torch.tensor([3.0, 4.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    features = encode_images([images], backbone, colours)
    torch.testing.assert_close(features, torch.tensor([[0.6, 0.8, 0.0]]))


def test_text_features_do_not_depend_on_the_batch_size(backbone: Backbone) -> None:
    texts = ["a cat", "a brown dog", "an elephant", "x"]
    whole = encode_texts(texts, backbone)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(encode_texts(texts, backbone, batch_size=3), whole)


def test_a_text_that_is_too_long_is_named(backbone: Backbone) -> None:
    fits, too_long = " ".join("abcdefg"), " ".join("abcdefgh")
    assert encode_texts([fits], backbone).shape == (1, 24)
    message = refusal(encode_texts, [fits, too_long], backbone)
    assert "has 9 tokens, small@0 takes 8" in message
    assert repr(too_long) in message


def test_images_are_read_only_as_they_are_needed(backbone: Backbone) -> None:
    served: list[int] = []

    def batches() -> Iterator[torch.Tensor]:
        for index in range(3):
            served.append(index)
            yield torch.zeros(1, 3, 32, 32)

    seen: list[list[int]] = []
    encode_images(batches(), backbone, advance=lambda _: seen.append(list(served)))
    assert seen == [[0], [0, 1], [0, 1, 2]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_features_without_a_direction_are_refused(backbone: Backbone, value: float) -> None:
    def broken(batch: torch.Tensor) -> torch.Tensor:
        return torch.tensor([1.0, value]) * batch.mean((1, 2, 3)).sign()[:, None] * value

    named = replace(backbone, source="weights.pt")
    message = refusal(encode_images, [torch.ones(3, 3, 32, 32)], named, broken)
    assert "weights.pt: the features of 3 of 3 images are NaN, infinite or zero" in message
    assert "capt-stage doctor" in message
    low = replace(named, autocast=torch.bfloat16)
    assert "runtime.precision=fp32" in refusal(
        encode_images, [torch.ones(1, 3, 32, 32)], low, broken
    )


def test_texts_of_broken_weights_are_refused(backbone: Backbone) -> None:
    clip = small_clip()
    clip.get_parameter("ln_final.weight").data.fill_(float("nan"))
    assert "1 of 1 texts" in refusal(encode_texts, ["a cat"], replace(backbone, clip=clip))
