"""Bags of sentences: which are kept, where they stand, and what stands in for missing ones."""

from __future__ import annotations

import torch

from capt_core.backbone.loading import Backbone
from capt_core.methods.tap.bags import (
    SentenceBags,
    attributes_of,
    class_bags,
    kept_sentences,
)
from tests.refusals import refusal


def ids(*rows: int) -> torch.Tensor:
    return torch.tensor(rows)[:, None]


def test_kept_sentences_by_hand() -> None:
    # Sorted 2, 3, 5, 9: the median is 4; at 0.9 it is 5 + 0.7 x 4 = 7.8.
    assert kept_sentences([5, 2, 9, 3], 0.5) == [4, 2, 4, 3]
    assert kept_sentences([5, 2, 9, 3], 0.9) == [5, 2, 7, 3]
    assert kept_sentences([5, 2, 9, 3], 1.0) == [5, 2, 9, 3]


def test_bags_by_hand() -> None:
    bags = SentenceBags.of([[ids(7, 8), ids(9)], [ids(4), ids(5, 6, 3)]])
    found = bags.features(lambda tokens: tokens.double())[..., 0]
    assert found.tolist() == [[[7, 8, 7], [9, 9, 9]], [[4, 4, 4], [5, 6, 3]]]
    assert bags.used.long().tolist() == [[[1, 1, 0], [1, 0, 0]], [[1, 0, 0], [1, 1, 1]]]
    second = bags.only(torch.tensor([1]))
    assert sorted(second.tokens.flatten().tolist()) == [3, 5, 6, 9]
    assert torch.equal(second.features(lambda tokens: tokens.double())[..., 0], found[:, 1:])
    assert torch.equal(second.used, bags.used[:, 1:])
    # Heads have quantiles of their own: medians 1.5 and 2.
    halved = SentenceBags.of([[ids(7, 8), ids(9)], [ids(4), ids(5, 6, 3)]], 0.5)
    assert halved.used.sum(dim=-1).tolist() == [[1, 1], [1, 2]]


def test_what_cannot_be_read_has_the_name_in_its_place(backbone: Backbone) -> None:
    tree = {
        "woven_mat": {"colour": ["woven mat of brown threads."], "shape": ["mat " * 40]},
        "lined": {"gloss": ["lined and shiny."], "colour": ["lined in red."]},
    }
    attributes = attributes_of(tree)
    assert attributes == ("colour", "shape", "gloss")
    names = ("woven_mat", "dotted")
    texts = class_bags(names, ("woven mat", "dotted"), tree, attributes, "a photo of a", backbone)
    plain, other = "a photo of a woven mat.", "a photo of a dotted."
    assert texts[1:] == [
        [["a photo of a woven mat of brown threads."], [other]],
        [[plain], [other]],
        [[plain], [other]],
    ]
    templates, others = texts[0]
    assert templates[:2] == [
        "a photo of a itap of a woven mat.",
        "a photo of a a bad photo of the woven mat.",
    ]
    assert len(templates) == len(others) == 7
    long = "mat " * 40
    message = refusal(class_bags, [long], [long], {}, ("shape",), "a photo of a", backbone)
    assert "shorten it" in message
