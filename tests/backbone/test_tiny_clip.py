"""The embedded tiny CLIP: tokenizer, architecture, packaged weights, training machinery."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from capt_core.backbone import tiny_clip
from capt_core.backbone.identity import (
    EMBEDDED,
    EMBEDDED_WEIGHTS,
    TINY_CLIP,
    TINY_CLIP_TEACHER,
    embedded_identity,
)
from capt_core.backbone.tiny_clip import measure, optimisation
from capt_core.backbone.tiny_clip.corpus import TextureSet, render_set
from capt_core.backbone.tiny_clip.optimisation import Meter, rate_share
from capt_core.backbone.tiny_clip.recipes import RECIPES
from capt_core.backbone.tiny_clip.tokenizer import clip_ids
from capt_core.backbone.tiny_clip.towers import (
    ImageStage,
    TextStage,
    train_image_tower,
    train_text_tower,
)
from capt_core.backbone.tiny_clip.widening import copied, shared, widen
from capt_core.data.proctex import CLASS_NAMES, PRETRAIN_SPLIT, TEMPLATE, captions


@pytest.fixture(scope="module")
def tokenizer() -> tiny_clip.Tokenizer:
    return tiny_clip.Tokenizer()


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_clip.load_model()


@pytest.fixture(scope="module")
def teacher() -> Any:
    return tiny_clip.load_model(TINY_CLIP_TEACHER)


@pytest.fixture(scope="module")
def few_textures() -> TextureSet:
    return render_set(0, PRETRAIN_SPLIT, 4)


def test_tokens_start_end_and_pad(tokenizer: tiny_clip.Tokenizer) -> None:
    tokens = tokenizer(["a striped texture", "grid"])
    assert tokens.shape == (2, tokenizer.context_length) == (2, 32)
    assert tokens.dtype == torch.long
    assert (tokens[:, 0] == tokenizer.start_token).all()
    assert tokens.argmax(dim=1).tolist() == [4, 2]
    assert (tokens[0, 5:] == 0).all()
    # One text is a batch of one, and may fill the context.
    assert torch.equal(tokenizer("A Striped  TEXTURE"), tokenizer(["a striped texture"]))
    assert tokenizer("a " * 30)[0, -1] == tokenizer.end_token
    assert tokens.max() == tokenizer.end_token == tokenizer.vocabulary_size - 1


def test_token_count_includes_start_and_end(tokenizer: tiny_clip.Tokenizer) -> None:
    assert tokenizer.token_count("a grid") == 4
    long = "a " * 40
    assert tokenizer.token_count(long) == 42
    with pytest.raises(ValueError, match="42 tokens exceeds the context of 32"):
        tokenizer(["a grid", long])


def test_an_unknown_full_stop_is_left_out(tokenizer: tiny_clip.Tokenizer) -> None:
    assert torch.equal(tokenizer("a photo of a grid."), tokenizer("a photo of a grid"))
    assert tokenizer.token_count("a photo of a grid.") == tokenizer.token_count("a photo of a grid")
    assert tokenizer.unknown_words("a grid.") == []
    with_stop = tiny_clip.Tokenizer(clip_ids(["a grid."]))
    assert with_stop.token_count("a grid.") == 5
    assert not torch.equal(with_stop("a grid."), with_stop("a grid"))


def test_tokens_are_read_back(tokenizer: tiny_clip.Tokenizer) -> None:
    ids = tokenizer("a striped submarine texture")[0, 1:5].tolist()
    assert tokenizer.decode(ids) == "a striped ? texture"
    assert tokenizer.decode([]) == ""


def test_unknown_words_are_listed_once(tokenizer: tiny_clip.Tokenizer) -> None:
    text = "a submarine and a striped submarine versus a xylophone"
    assert tokenizer.unknown_words(text) == ["submarine", "versus", "xylophone"]
    assert (tokenizer("submarine")[0] == 1).any()


def test_vocabulary_covers_class_names_prompts_and_captions(
    tokenizer: tiny_clip.Tokenizer,
) -> None:
    texts = [TEMPLATE.format(name) for name in CLASS_NAMES]
    for text in [*texts, *captions.store_phrases(), *captions.vocabulary_texts()]:
        assert tokenizer.unknown_words(text) == [], text
    for name in CLASS_NAMES:
        for phrase in captions.attributes()[name]:
            tokenizer(f"{TEMPLATE.format(name)} with {phrase}")


def test_captions_need_no_unknown_word(
    tokenizer: tiny_clip.Tokenizer, few_textures: TextureSet
) -> None:
    rng = np.random.default_rng(0)
    for facts in few_textures.facts * 5:
        text, label = captions.caption(rng, facts, captions.CaptionStyle(fine_name=0.5))
        assert tokenizer.unknown_words(text) == [], text
        assert 0 <= label < len(CLASS_NAMES)
        tokenizer(text)


@pytest.mark.parametrize("name", EMBEDDED)
def test_configuration_agrees_with_vocabulary(name: str, tokenizer: tiny_clip.Tokenizer) -> None:
    config = tiny_clip.read_config(name)
    assert config["text_cfg"]["vocab_size"] == tokenizer.vocabulary_size
    assert config["text_cfg"]["context_length"] == tokenizer.context_length


def test_architecture_is_open_clips(model: Any) -> None:
    from open_clip.model import CLIP

    assert isinstance(model, CLIP)
    assert len(model.visual.transformer.resblocks) == 4
    assert model.visual.ln_post.normalized_shape == (128,)
    assert model.visual.proj.shape == (128, 128)
    assert isinstance(model.visual.patch_dropout, nn.Identity)
    assert model.visual.conv1(torch.zeros(2, 3, 64, 64)).shape == (2, 128, 8, 8)
    assert not any(module.training for module in model.modules())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_normalise_maps_the_mean_to_zero() -> None:
    pixels = 255 * torch.tensor(tiny_clip.IMAGE_MEAN).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert tiny_clip.normalise(pixels).abs().max() < 1e-6
    white = tiny_clip.normalise(torch.full((1, 3, 1, 1), 255.0)).flatten().tolist()
    assert white == pytest.approx([2.0, 2.2, 2.2])


@pytest.mark.parametrize("name", EMBEDDED)
def test_packaged_files_are_small_and_say_where_they_come_from(name: str) -> None:
    folder = EMBEDDED[name]
    assert (folder / EMBEDDED_WEIGHTS).stat().st_size < 10_000_000
    facts = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    assert {"image_stage", "text_stage", "measured", "libraries"} <= facts.keys()
    recipe = RECIPES[name]
    assert facts["seed"] == recipe.seed
    assert facts["image_stage"]["images"] == recipe.per_class * len(CLASS_NAMES)
    for stage in ("image_stage", "text_stage"):
        settings = asdict(getattr(recipe, stage))
        noted = facts[stage]["settings"]
        assert {key: settings[key] for key in noted if key in settings} == {
            key: value for key, value in noted.items() if key in settings
        }
        assert facts[stage]["log"][-1]["step"] == settings["steps"]
    assert facts.get("widened") == (recipe.widened and embedded_identity(recipe.widened))


def test_the_teacher_is_wider_and_has_features_of_its_own(teacher: Any, model: Any) -> None:
    assert teacher.visual.conv1(torch.zeros(2, 3, 64, 64)).shape == (2, 256, 8, 8)
    assert teacher.visual.proj.shape == (256, 192)
    assert model.visual.proj.shape == (128, 128)
    assert teacher.text_projection.shape[1] == 192


def test_zero_shot_is_far_above_chance_in_both_halves(
    model: Any, teacher: Any, tokenizer: tiny_clip.Tokenizer
) -> None:
    fresh = render_set(4242, "val", 12)
    features = measure.Features(measure.embed_images(model, fresh.images), fresh.labels)
    assert np.linalg.norm(features.values, axis=1) == pytest.approx(1, abs=1e-4)
    names = measure.embed_class_names(model, tokenizer)
    accuracy = measure.zero_shot(features, names)
    assert accuracy["base"] > 35  # chance is 6.7
    assert accuracy["novel"] > 35
    # The teacher knows the fine names.
    better = measure.Features(measure.embed_images(teacher, fresh.images), fresh.labels)
    taught = measure.zero_shot(better, measure.embed_class_names(teacher, tokenizer))
    assert taught["all"] > accuracy["all"] + 3


def test_linear_probe_learns_separable_features_and_wants_enough_images() -> None:
    labels = np.repeat(np.arange(15), 4)
    values = np.eye(15, dtype=np.float32)[labels]
    features = measure.Features(values, labels)
    assert measure.linear_probe(features, features, range(15), shots=2, seed=0) == 100
    with pytest.raises(ValueError, match="larger sample"):
        measure.linear_probe(features, features, range(15), shots=5, seed=0)


def test_sets_can_be_cut_and_do_not_depend_on_workers(few_textures: TextureSet) -> None:
    assert few_textures.labels.tolist() == [label for label in range(30) for _ in range(4)]
    fewer = few_textures.first(3)
    assert fewer.labels.tolist() == [label for label in range(30) for _ in range(3)]
    assert np.array_equal(fewer.images[3], few_textures.images[4])
    assert few_textures.first(9).images.tobytes() == few_textures.images.tobytes()
    parallel = render_set(0, PRETRAIN_SPLIT, 4, workers=2)
    assert parallel.images.tobytes() == few_textures.images.tobytes()


def test_learning_rate_follows_the_schedule() -> None:
    assert rate_share(0, 100, 10) == pytest.approx(0.1)
    assert rate_share(50, 100, 10) == pytest.approx(0.5)
    assert rate_share(99, 100, 10) < 0.001


def test_meter_refuses_a_loss_that_stands_still_or_is_no_number() -> None:
    meter = Meter("stage", 8)
    for step in (1, 2):
        meter.add(1.0, 0.5)
        meter.report(step)
    with pytest.raises(RuntimeError, match="did not fall"):
        meter.check()
    with pytest.raises(RuntimeError, match="nan"):
        meter.add(float("nan"), 0.0)


def test_both_stages_train_and_repeat_themselves_when_interrupted(
    few_textures: TextureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ImageStage(steps=12, whole_steps=2, batch=40, warm_up=4, report_every=6)
    first, log = train_image_tower(TINY_CLIP, few_textures, settings, 0)
    path = tmp_path / "state.pt"
    save = optimisation.Checkpoint.save

    def save_and_stop(*arguments: Any) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(optimisation.Checkpoint, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train_image_tower(TINY_CLIP, few_textures, settings, 0, checkpoint=path)
    second, again = train_image_tower(TINY_CLIP, few_textures, settings, 0, checkpoint=path)
    assert log == again
    assert log[-1]["loss"] < log[0]["loss"]
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())

    tokenizer = tiny_clip.Tokenizer()
    torch.manual_seed(0)
    model = tiny_clip.build_model()
    visual = {name: tensor.clone() for name, tensor in model.visual.state_dict().items()}
    before = model.encode_text(tokenizer("grid")).detach()
    features = measure.embed_images(model.eval(), few_textures.images)
    train_text_tower(
        model, few_textures, features, tokenizer, TextStage(steps=2, batch=16, warm_up=1), 0
    )
    assert not torch.equal(before, model.encode_text(tokenizer("grid")))
    assert all(torch.equal(visual[name], t) for name, t in model.visual.state_dict().items())


def test_units_are_copied_within_their_parts_and_weights_shared_between_copies() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert copied(values, 0).tolist() == [1, 2, 3, 4, 1, 2, 3, 4]
    assert copied(values, 0, parts=2).tolist() == [1, 2, 1, 2, 3, 4, 3, 4]
    weights = torch.tensor([[1.0, 3.0]])
    shares = shared(weights, 1, torch.Generator().manual_seed(0))
    assert shares.shape == (1, 4)
    assert shares[:, :2] + shares[:, 2:] == pytest.approx(weights)
    assert not torch.equal(shares[:, :2], shares[:, 2:])


def test_a_widened_tower_computes_what_the_trained_one_does(model: Any) -> None:
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    wide = tiny_clip.build_model(TINY_CLIP_TEACHER).visual.eval()
    widen(wide, model.visual.state_dict(), 0)
    with torch.no_grad():
        found, expected = wide(images), model.visual(images)
    assert found.shape == (3, 192)
    assert (found[:, :128] - expected).abs().max() < 1e-4 * expected.abs().max()
    # The two copies of a unit are read differently, so that they learn different things.
    first, second = wide.transformer.resblocks[0].mlp.c_fc.weight.chunk(2, dim=1)
    assert not torch.equal(first, second)
    with pytest.raises(ValueError, match="not"):
        widen(
            tiny_clip.build_model().visual,
            model.visual.state_dict() | {"ln_post.weight": torch.ones(96)},
            0,
        )


def test_full_stops_change_nothing_else_in_captions(few_textures: TextureSet) -> None:
    plain, stopped = (captions.CaptionStyle(full_stop=share) for share in (0.0, 1.0))
    facts = few_textures.facts[0]
    text, label = captions.caption(np.random.default_rng(3), facts, plain)
    assert captions.caption(np.random.default_rng(3), facts, stopped) == (f"{text}.", label)
