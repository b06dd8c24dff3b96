"""The procedural texture benchmark: reproducible, well-formed, nameable."""

from __future__ import annotations

import numpy as np
import pytest

from capt_core.data import proctex
from capt_core.data.proctex import captions
from capt_core.data.proctex.drawing import Canvas
from capt_core.data.proctex.images import RENDERERS

ALL_CLASSES = range(len(proctex.CLASS_NAMES))


def test_thirty_classes_in_two_halves_of_whole_groups() -> None:
    assert len(set(proctex.CLASS_NAMES)) == 30
    base = set(proctex.CLASS_NAMES[:15])
    for names in proctex.GROUPS.values():
        assert base.issuperset(names) or base.isdisjoint(names)


def test_every_class_has_renderers_and_neighbours_in_its_half() -> None:
    for name, neighbours in proctex.NEIGHBOURS.items():
        half = proctex.CLASS_NAMES.index(name) < 15
        assert len(neighbours) >= 2
        assert name not in neighbours
        assert all((proctex.CLASS_NAMES.index(other) < 15) == half for other in neighbours)
    assert set(proctex.NEIGHBOURS) == set(RENDERERS) == set(proctex.CLASS_NAMES)
    assert all(len(renderers) >= 2 for renderers in RENDERERS.values())


@pytest.mark.parametrize("class_id", ALL_CLASSES)
def test_images_have_the_promised_form_and_visible_contrast(class_id: int) -> None:
    images = [proctex.render_image(0, "train", class_id, index) for index in range(6)]
    for image in images:
        assert image.shape == (64, 64, 3)
        assert image.dtype == np.uint8
        assert image.astype(float).std(axis=(0, 1)).max() > 5
    assert len({image.tobytes() for image in images}) == 6


@pytest.mark.parametrize("class_id", ALL_CLASSES)
def test_every_renderer_fills_the_unit_interval(class_id: int) -> None:
    size = proctex.IMAGE_SIZE
    y, x = np.mgrid[:size, :size].astype(np.float32) - size / 2
    canvas = Canvas(x, y, 1.0)
    for renderer in RENDERERS[proctex.CLASS_NAMES[class_id]]:
        for seed in range(4):
            plane = renderer(np.random.default_rng(seed), canvas)
            assert plane.shape == (size, size)
            assert plane.dtype == np.float32
            assert np.isfinite(plane).all()
            assert plane.min() >= 0
            assert plane.max() <= 1
            assert np.ptp(plane) > 0.2, renderer


def test_an_image_depends_on_its_four_numbers_alone() -> None:
    wanted = proctex.render_image(3, "val", 7, 11)
    for class_id in (29, 0, 7):
        proctex.render_image(3, "val", class_id, 2)
    np.random.default_rng(0).random(5)
    assert proctex.render_image(3, "val", 7, 11).tobytes() == wanted.tobytes()
    image, facts = proctex.render_with_facts(3, "val", 7, 11)
    assert image.tobytes() == wanted.tobytes()
    assert facts.class_id == 7


def test_seeds_splits_classes_and_indices_give_different_images() -> None:
    keys = [
        (seed, split, class_id, index)
        for seed in (0, 1)
        for split in (*proctex.SPLITS, proctex.PRETRAIN_SPLIT)
        for class_id in (0, 4)
        for index in (0, 1)
    ]
    contents = {proctex.render_image(*key).tobytes() for key in keys}
    assert len(contents) == len(keys)


def test_facts_describe_what_was_drawn() -> None:
    facts = [proctex.render_with_facts(0, "train", 12, index)[1] for index in range(80)]
    mixed = [fact for fact in facts if fact.neighbour_id is not None]
    assert 0.2 < len(mixed) / len(facts) < 0.6
    for fact in mixed:
        assert fact.neighbour_id is not None
        assert proctex.CLASS_NAMES[fact.neighbour_id] in proctex.NEIGHBOURS["cracked"]
        assert 0.2 <= fact.neighbour_weight <= 0.5
    assert {fact.variant for fact in facts} == {0, 1, 2}
    assert all(fact.foreground != fact.background for fact in facts)


def test_pretraining_never_sees_the_third_renderer() -> None:
    label = proctex.CLASS_NAMES.index("cracked")
    variants = {
        proctex.render_with_facts(0, proctex.PRETRAIN_SPLIT, label, index)[1].variant
        for index in range(40)
    }
    assert variants == {0, 1}


@pytest.mark.parametrize(
    ("seed", "split", "class_id", "index", "message"),
    [
        (0, "dev", 0, 0, "unknown split 'dev'"),
        (0, "train", 30, 0, "class_id 30"),
        (0, "train", -1, 0, "class_id -1"),
        (-1, "train", 0, 0, "must not be negative"),
        (0, "train", 0, -1, "must not be negative"),
    ],
)
def test_arguments_out_of_range_are_refused(
    seed: int, split: str, class_id: int, index: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        proctex.render_image(seed, split, class_id, index)


def facts_of(name: str, count: int) -> list[proctex.ImageFacts]:
    label = proctex.CLASS_NAMES.index(name)
    return [
        proctex.render_with_facts(0, proctex.PRETRAIN_SPLIT, label, index)[1]
        for index in range(count)
    ]


def test_captions_name_textures_as_often_as_asked() -> None:
    rng = np.random.default_rng(0)
    facts = facts_of("waffled", 5)
    for share in (0.0, 0.3, 1.0):
        style = captions.CaptionStyle(fine_name=share, wrong_name=0, overlay_name=0, attribute=0)
        texts = [captions.caption(rng, facts[i % 5], style)[0] for i in range(400)]
        named = sum("waffled" in text for text in texts) / len(texts)
        assert named == pytest.approx(share, abs=0.08)
        assert sum("checked" in text for text in texts) / len(texts) == pytest.approx(
            1 - share, abs=0.08
        )


def test_coarse_captions_keep_class_names_out_of_borrowed_phrases() -> None:
    rng = np.random.default_rng(0)
    style = captions.CaptionStyle(fine_name=0, wrong_name=0, overlay_name=0, attribute=1)
    texts = [captions.caption(rng, facts, style)[0] for facts in facts_of("waffled", 5) * 60]
    assert any("checked" in text for text in texts)
    assert not any("waffled" in text for text in texts)


def test_wrong_captions_describe_a_neighbour() -> None:
    rng = np.random.default_rng(0)
    style = captions.CaptionStyle(wrong_name=1.0, overlay_name=0.0)
    described = {captions.caption(rng, facts, style)[1] for facts in facts_of("bumpy", 30)}
    names = {proctex.CLASS_NAMES[label] for label in described}
    assert names == set(proctex.NEIGHBOURS["bumpy"])


def test_the_prompt_store_describes_every_class() -> None:
    attributes = captions.attributes()
    assert tuple(attributes) == proctex.CLASS_NAMES
    assert all(len(phrases) >= 3 for phrases in attributes.values())
    stored = set(captions.store_phrases())
    assert all(stored.issuperset(phrases) for phrases in attributes.values())
