"""Views of images: the same whenever they are asked for, computed as needed or cached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from capt_core.artifacts.tensors import load_sealed
from capt_core.artifacts.work_files import write_work_file
from capt_core.backbone.loading import Backbone
from capt_core.data import images
from capt_core.data.images import open_image
from capt_core.methods import views as pixels_module
from capt_core.methods.capt import views as views_module
from capt_core.methods.capt.rows import Anchor
from capt_core.methods.capt.views import (
    CachedViews,
    Prefix,
    Views,
    asked_views,
    cache_name,
    compute_prefix,
    live_views,
)
from capt_core.methods.views import View, ViewSource, add_noise
from tests import paper_preset
from tests.methods.capt.toy import (
    ANCHORS,
    LABELS,
    toy_backbone,
    toy_model,
    toy_source,
    toy_trainer,
)

AUGMENTED = paper_preset.train(
    epochs=2, batch_size=2, accumulate=2, views=3, representative_noise=0.1
)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return toy_backbone()


def all_views(numbers: int = 2) -> list[View]:
    return [View(i, n, noisy) for i in range(4) for n in range(numbers) for noisy in (False, True)]


@pytest.mark.parametrize("augmentation", ["crop_flip", "none"])
def test_a_view_does_not_depend_on_what_is_asked_with_it(
    tmp_path: Path, backbone: Backbone, augmentation: str
) -> None:
    settings = AUGMENTED.model_copy(update={"augmentation": augmentation})
    source = toy_source(tmp_path, settings)
    asked = all_views()
    together = source.pixels(asked, backbone)
    assert together.shape == (16, 3, 32, 32)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    for row in reversed(range(len(asked))):
        assert torch.equal(source.pixels([asked[row]], backbone)[0], together[row]), asked[row]
    # Nor does it take from the generator that others use.
    assert torch.equal(torch.get_rng_state(), state)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = toy_source(tmp_path, settings).pixels([asked[row] for row in order], backbone)
    assert torch.equal(shuffled, together[order])
    threads = replace(source, workers=4).pixels(asked, backbone)
    assert torch.equal(threads, together)


def test_views_differ_by_seed_sample_and_number(tmp_path: Path, backbone: Backbone) -> None:
    source = toy_source(tmp_path, AUGMENTED)
    base, number = source.pixels([View(0), View(0, 1)], backbone)
    (seed,) = toy_source(tmp_path, AUGMENTED, seed=2).pixels([View(0)], backbone)
    same_file = replace(source, files={0: source.files[0], 1: source.files[0]})
    (sample,) = same_file.pixels([View(1)], backbone)
    for other in (number, seed, sample):
        assert not torch.allclose(base, other)


def test_without_augmentation_a_view_is_the_test_transform(
    tmp_path: Path, backbone: Backbone
) -> None:
    source = toy_source(tmp_path, paper_preset.train(augmentation="none"))
    found = source.pixels([View(i) for i in range(len(LABELS))], backbone)
    transform = images.test_transform(backbone.preprocess)
    expected = [transform(open_image(path)) for path in source.files.values()]
    assert torch.equal(found, torch.stack(expected))


def test_noise_by_hand() -> None:
    # Without noise nothing changes inside the range of pixels; outside it is cut off.
    mean, std = (0.5, 0.25, 0.0), (0.5, 0.25, 2.0)
    pixels = torch.tensor([[[-1.0, 0.0, 1.0, 3.0]], [[-1, 0, 3, 4]], [[-1, 0, 0.5, 1]]])
    found = add_noise(pixels, 0.0, mean, std, torch.Generator())
    expected = torch.tensor([[[-1.0, 0, 1, 1]], [[-1, 0, 3, 3]], [[0, 0, 0.5, 0.5]]])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("deviation", [0.05, 0.1])
def test_noise_has_the_deviation_asked_for_on_pixels(deviation: float) -> None:
    mean, std = (0.5, 0.4, 0.6), (0.25, 0.5, 0.125)
    grey = torch.zeros(3, 100, 100)  # of the mean's colour, far from black and white
    noise = add_noise(grey, deviation, mean, std, torch.Generator().manual_seed(1))
    for channel, scale in zip(noise, std, strict=True):
        assert float(channel.std()) * scale == pytest.approx(deviation, rel=0.03)
        assert float(channel.mean()) * scale == pytest.approx(0, abs=deviation / 20)
    again = add_noise(grey, deviation, mean, std, torch.Generator().manual_seed(1))
    assert torch.equal(again, noise)


def test_only_noisy_views_have_noise(tmp_path: Path, backbone: Backbone) -> None:
    source = toy_source(tmp_path, AUGMENTED)
    clean, noisy = source.pixels([View(0), View(0, noisy=True)], backbone)
    style = backbone.preprocess
    difference = (noisy - clean) * torch.tensor(style.std)[:, None, None]
    # The same crop; some of the noise is cut off at black and white.
    assert 0.05 < float(difference.std()) <= 0.11
    assert abs(float(difference.mean())) < 0.02
    quiet = replace(source, noise=0.0).pixels([View(0), View(0, noisy=True)], backbone)
    assert torch.equal(quiet[0], clean)
    assert torch.equal(quiet[1], clean)


def test_the_prefix_holds_tokens_and_the_base_models_features(
    tmp_path: Path, backbone: Backbone
) -> None:
    model = toy_model(backbone, blocks=1)
    source = toy_source(tmp_path, AUGMENTED)
    asked = [View(3), View(0, 1, True)]
    prefix = live_views(model, backbone, source)(asked)
    pixels = source.pixels(asked, backbone)
    with torch.no_grad():
        expected = functional.normalize(backbone.clip.encode_image(pixels), dim=-1)
        assert torch.equal(prefix.tokens, model.frozen_prefix(pixels))
    assert prefix.features is not None
    assert torch.equal(prefix.features, expected)
    assert prefix.features.dtype == torch.float32
    assert not prefix.features.requires_grad
    without = live_views(model, backbone, source, with_features=False)(asked)
    assert torch.equal(without.tokens, prefix.tokens)
    assert without.features is None


def watched(batches: list[list[View]]) -> Callable[[Views], Views]:
    """Keep what is asked for, batch by batch."""

    def wrap(views: Views) -> Views:
        def asked(wanted: Sequence[View]) -> Prefix:
            batches.append(list(wanted))
            return views(wanted)

        return asked

    return wrap


ONE_AND_BOTH = (*ANCHORS, Anchor(9, (1, 9), (1.0, 2.0)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"representative_noise": 0.0},
        {"augmentation": "none"},
        {"augmentation": "none", "views": 0, "representative_noise": 0.0},
        {"views": 1},
        {"accumulate": 1, "batch_size": 3},
    ],
    ids=str,
)
def test_all_that_training_asks_for_was_foreseen(tmp_path: Path, changes: dict[str, Any]) -> None:
    settings = AUGMENTED.model_copy(update={**changes, "epochs": 8})
    batches: list[list[View]] = []
    wrap = watched(batches)
    toy_trainer(tmp_path, settings, anchors=ONE_AND_BOTH, wrap=wrap, blocks=0).fit()
    seen = {view for batch in batches for view in batch}
    foreseen = asked_views(ONE_AND_BOTH, settings)
    assert len(foreseen) == len(set(foreseen))
    assert seen <= set(foreseen)
    # Nor is much foreseen in vain: every image and every kind of view turns up.
    assert {(v.sample_id, v.noisy) for v in seen} == {(v.sample_id, v.noisy) for v in foreseen}
    assert {v.number for v in seen} == {v.number for v in foreseen}


def test_the_views_that_are_foreseen_by_hand() -> None:
    anchors = (Anchor(5, (2,), (1.0,)), Anchor(2, (), ()))
    still = paper_preset.train(augmentation="none")
    assert asked_views(anchors, still) == [View(2), View(5)]
    noisy = still.model_copy(update={"representative_noise": 0.1})
    assert asked_views(anchors, noisy) == [View(2), View(2, 0, True), View(5)]
    moving = paper_preset.train(views=2)
    assert asked_views(anchors, moving) == [View(2), View(2, 1), View(5), View(5, 1)]


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_noise_falls_on_representatives_only(tmp_path: Path, noise: float) -> None:
    settings = AUGMENTED.model_copy(update={"representative_noise": noise, "accumulate": 1})
    batches: list[list[View]] = []
    toy_trainer(tmp_path, settings, wrap=watched(batches), blocks=0).fit()
    assert len(batches) == 6
    by_id = {anchor.sample_id: anchor for anchor in ANCHORS}
    for batch in batches:
        rows = list(batch)
        while rows:
            # An anchor stands before its representatives.
            anchor = by_id[rows[0].sample_id]
            assert not rows[0].noisy
            following = rows[1 : 1 + len(anchor.representatives)]
            assert [view.sample_id for view in following] == list(anchor.representatives)
            assert all(view.noisy == (noise > 0) for view in following)
            rows = rows[1 + len(following) :]


def test_without_a_fixed_number_no_view_is_seen_twice(tmp_path: Path) -> None:
    settings = AUGMENTED.model_copy(update={"views": 0, "epochs": 4})
    batches: list[list[View]] = []
    toy_trainer(tmp_path, settings, wrap=watched(batches), blocks=0).fit()
    seen = [view for batch in batches for view in batch]
    assert len(seen) > 50
    assert len({view.number for view in seen}) == len(seen)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Images that were opened."""
    paths: list[Path] = []

    def count(path: Path) -> Any:
        paths.append(path)
        return open_image(path)

    monkeypatch.setattr(pixels_module, "open_image", count)
    return paths


def cached(
    folder: Path,
    advance: Callable[[int], None] = lambda _: None,
    warn: Callable[[str], None] = lambda _: None,
    **changes: Any,
) -> CachedViews:
    backbone = toy_backbone()
    settings = AUGMENTED.model_copy(update=changes)
    model = toy_model(backbone, blocks=1)
    source = toy_source(folder, settings)
    views = asked_views(ANCHORS, settings)
    return CachedViews(model, backbone, source, views, folder, "origin", advance, warn)


@pytest.mark.parametrize(("shard", "forward"), [(512, 64), (7, 64), (512, 5), (7, 3)])
def test_a_cache_gives_what_it_was_made_from(
    tmp_path: Path,
    opened: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    shard: int,
    forward: int,
) -> None:
    monkeypatch.setattr(views_module, "SHARD", shard)
    monkeypatch.setattr(views_module, "FORWARD", forward)
    cache = cached(tmp_path)
    asked = asked_views(ANCHORS, AUGMENTED)
    assert len(list(cache.folder.iterdir())) == -(-len(asked) // shard)
    backbone = toy_backbone()
    model, source = toy_model(backbone, blocks=1), toy_source(tmp_path, AUGMENTED)
    mixed = [asked[row] for row in (20, 3, 3, 11, 0, len(asked) - 1)]
    expected = compute_prefix(model, backbone, source, mixed)
    count = len(opened)
    found = cache(mixed)
    assert len(opened) == count
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.features, expected.features, rtol=1e-5, atol=1e-6)
    with pytest.raises(KeyError):
        cache([View(0, 99)])


def test_a_cache_is_found_again(tmp_path: Path, opened: list[Path]) -> None:
    first = cached(tmp_path)
    assert len(opened) == len(asked_views(ANCHORS, AUGMENTED))
    opened.clear()
    second = cached(tmp_path)
    assert opened == []
    assert second.folder == first.folder
    assert torch.equal(second([View(0)]).tokens, first([View(0)]).tokens)
    other = cached(tmp_path, views=2)
    assert other.folder != first.folder
    assert opened != []


def test_only_missing_shards_are_made_again(
    tmp_path: Path, opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views_module, "SHARD", 5)
    told: list[int] = []
    shards = sorted(cached(tmp_path).folder.iterdir())
    content = {path: path.read_bytes() for path in shards}
    shards[1].unlink()
    opened.clear()
    cached(tmp_path, told.append)
    assert len(opened) == 5
    assert sum(told) == len(asked_views(ANCHORS, AUGMENTED))
    assert {path: path.read_bytes() for path in shards} == content


def shortened(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 4]) + content[-2:]


@pytest.mark.parametrize("damage", [shortened, flipped, lambda _: b"", lambda _: b"noise" * 99])
def test_a_damaged_shard_is_set_aside_named_and_made_again(
    tmp_path: Path,
    opened: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[bytes], bytes],
) -> None:
    monkeypatch.setattr(views_module, "SHARD", 5)
    shards = sorted(cached(tmp_path).folder.iterdir())
    content = {path: path.read_bytes() for path in shards}
    shards[1].write_bytes(damage(content[shards[1]]))
    opened.clear()
    warned: list[str] = []
    cached(tmp_path, warn=warned.append)
    assert len(opened) == 5
    (line,) = warned
    assert line.startswith(f"{shards[1]}: ")
    assert line.endswith("set aside as 00001.safetensors.damaged, what it held is made anew")
    assert {path: path.read_bytes() for path in shards} == content


def test_a_shard_of_other_rows_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views_module, "SHARD", 5)
    shards = sorted(cached(tmp_path).folder.iterdir())
    whole = load_sealed(shards[0]).tensors
    for wrong in ({**whole, "tokens": whole["tokens"][:4]}, {"tokens": whole["tokens"]}):
        write_work_file(shards[0], wrong)
        warned: list[str] = []
        cached(tmp_path, warn=warned.append)
        assert len(warned) == 1
        assert torch.equal(load_sealed(shards[0]).tensors["tokens"], whole["tokens"])


def base_name(**changes: Any) -> str:
    """Name of a cache, with some of what goes into it changed."""
    backbone = replace(toy_backbone(), **changes.pop("backbone", {}))
    model = toy_model(backbone, blocks=changes.pop("blocks", 1))
    settings = AUGMENTED.model_copy(update=changes.pop("train", {}))
    files = {i: Path(f"{i}.png") for i in range(len(LABELS))}
    source = ViewSource(
        changes.pop("files", files),
        settings.augmentation,
        settings.representative_noise,
        changes.pop("seed", 1),
        changes.pop("workers", 1),
    )
    views = asked_views(changes.pop("anchors", ANCHORS), settings)
    name = cache_name(model, backbone, source, views, changes.pop("origin", "origin"))
    assert not changes
    return name


CHANGES: list[dict[str, Any]] = [
    {"origin": "other images"},
    {"seed": 2},
    {"blocks": 2},
    {"blocks": 0},
    {"train": {"views": 2}},
    {"train": {"representative_noise": 0.05}},
    {"train": {"augmentation": "none"}},
    {"anchors": ANCHORS[:-1]},
    {"backbone": {"identity": "other weights"}},
    {"backbone": {"autocast": torch.bfloat16}},
    {"backbone": {"device": torch.device("cuda")}},
]


def test_the_name_of_a_cache_changes_with_all_it_depends_on() -> None:
    names = [base_name(), *(base_name(**change) for change in CHANGES)]
    assert len(set(names)) == len(names)
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in names)


@pytest.mark.parametrize(
    "change",
    [
        {"workers": 4},
        {"files": {i: Path(f"elsewhere/{i}.png") for i in range(len(LABELS))}},
        {"blocks": [2]},
        {"train": {"learning_rate": 0.5, "epochs": 9, "batch_size": 3, "interpolation": 0.5}},
    ],
    ids=str,
)
def test_the_name_of_a_cache_does_not_change_with_anything_else(change: dict[str, Any]) -> None:
    assert base_name(**change) == base_name()
