"""Checkpoints of the Dassl toolbox become the very models that they were made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from capt_core.backbone.loading import Backbone
from capt_core.methods.classes import Classes
from capt_core.methods.coop import CoOp, CoOpSettings
from capt_core.methods.importing.model import (
    NOVEL_NAMES,
    UNKNOWN_IMAGES,
    Imported,
    checkpoint_method,
    class_names,
    findings,
    import_checkpoint,
    read_checkpoint,
)
from capt_core.methods.maple import Maple, MapleSettings
from capt_core.methods.method import Fitted, Method
from capt_core.methods.model_file import load_model
from capt_core.methods.promptsrc import PromptSRC, PromptSRCSettings
from tests.backbone import small_model
from tests.methods.importing import dassl
from tests.methods.toy_task import NAMES, named_dataset
from tests.refusals import refusal

BASE = NAMES[:2]
DATASET = named_dataset()


def started(method: Method, backbone: Backbone, names: Sequence[str] = BASE) -> Fitted:
    """A method whose prompts are all different, as after training."""
    assert isinstance(method, CoOp | Maple | PromptSRC)
    fitted: Fitted = (
        method.start(backbone, 1, names) if isinstance(method, CoOp) else method.start(backbone, 1)
    )
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in fitted.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=noise))
    return fitted.eval().requires_grad_(False)


def read(path: Path, method: Method, backbone: Backbone) -> Imported:
    return read_checkpoint(path, method, backbone, class_names(DATASET))


METHODS = {
    "coop": CoOp(CoOpSettings()),
    "coop, 7 vectors": CoOp(CoOpSettings(context_init=None, context_length=7)),
    "coop, class-specific": CoOp(CoOpSettings(class_specific=True)),
    "coop, name first": CoOp(CoOpSettings(class_token_position="front")),
    "maple": Maple(MapleSettings()),
    "maple, depth 1": Maple(MapleSettings(depth=1)),
    "maple, 5 vectors": Maple(MapleSettings(context_init=None, context_length=5)),
    "promptsrc": PromptSRC(PromptSRCSettings()),
    "promptsrc, uneven": PromptSRC(
        PromptSRCSettings(context_length=2, image_prompts=3, text_depth=1, image_depth=2)
    ),
}
IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", METHODS)
def test_features_and_logits_are_the_same_to_the_bit(
    kind: str, backbone: Backbone, tmp_path: Path
) -> None:
    method = METHODS[kind]
    fitted = started(method, backbone)
    path = dassl.save(dassl.state_of(fitted, BASE), tmp_path / "model.pth.tar-50")
    assert checkpoint_method(path) == method.name
    # Numbers of vectors and layers are those of the file; CoOp's position no file tells.
    position = {"class_token_position": "front"} if kind.endswith("first") else {}
    model = import_checkpoint(path, DATASET, backbone, settings=position)
    model.save(tmp_path / "model.safetensors")
    classes = Classes.of(DATASET)
    for found in (model, load_model(tmp_path / "model.safetensors", backbone)):
        assert found.class_names == NAMES
        assert torch.equal(found.fitted.class_texts(classes), fitted.class_texts(classes))
        features = fitted.image_features(IMAGES)
        assert torch.equal(found.fitted.image_features(IMAGES), features)
        assert torch.equal(found(IMAGES), fitted.logits(features, classes))
        assert found.sees == UNKNOWN_IMAGES
        assert found.fitted.seen_before == (UNKNOWN_IMAGES,)
    before = fitted.readable_prompts(classes)
    assert [len(text.split()) for text in model.fitted.readable_prompts(classes)] == [
        len(text.split()) for text in before
    ]


@pytest.mark.parametrize("method", [CoOp(), Maple(), PromptSRC()], ids=lambda each: each.name)
def test_half_precision_is_read_in_full(method: Method, backbone: Backbone, tmp_path: Path) -> None:
    fitted = started(method, backbone)
    state = dassl.halved(dassl.state_of(fitted, BASE))
    found = read(dassl.save(state, tmp_path / "model.pth.tar"), method, backbone)
    assert list(found.classes) == [0, 1]
    for name, value in fitted.state_dict().items():
        assert torch.equal(found.fitted.state_dict()[name], value.half().float())


def test_wrappings_and_a_bare_state_dict_are_read(backbone: Backbone, tmp_path: Path) -> None:
    fitted = started(Maple(), backbone)
    state = dassl.state_of(fitted, BASE)
    path = tmp_path / "model.pt"
    wrapped = {f"module.{name}": value for name, value in state.items()}
    torch.save({"state_dict": wrapped}, path)
    parallel = read(path, Maple(), backbone).fitted.state_dict()
    torch.save(state, path, _use_new_zipfile_serialization=False)
    bare = read(path, Maple(), backbone).fitted.state_dict()
    for name, value in fitted.state_dict().items():
        assert torch.equal(parallel[name], value)
        assert torch.equal(bare[name], value)


def test_rows_of_a_class_specific_context_follow_their_names(
    backbone: Backbone, tmp_path: Path
) -> None:
    method = CoOp(CoOpSettings(class_specific=True))
    fitted = started(method, backbone, ("cracked", "woven"))
    path = dassl.save(dassl.state_of(fitted, ("cracked", "woven")), tmp_path / "model.pth.tar")
    found = read(path, CoOp(), backbone)
    assert list(found.classes) == [1, 0]
    classes = Classes.of(DATASET)
    assert torch.equal(found.fitted.class_texts(classes), fitted.class_texts(classes))


def test_it_is_said_what_was_trained_on_and_what_is_left_unused(
    backbone: Backbone, tmp_path: Path
) -> None:
    fitted = started(PromptSRC(), backbone)
    state = dassl.state_of(fitted, ("woven", "dotted", "bumpy"))
    state["prompt_learner.steps"] = torch.tensor(7)
    path = dassl.save(state, tmp_path / "model.pth.tar")
    found = read(path, PromptSRC(), backbone)
    lines = "\n".join(findings(found, DATASET))
    assert "trained on 1 base and 2 novel classes of proctex" in lines
    copies = len(dassl.copies(backbone))
    assert f"{copies} copies of frozen weights" in lines
    unused = len(backbone.clip.visual.state_dict())
    assert found.unused == {"prompt_learner.ZS_image_encoder": unused, "prompt_learner.steps": 1}
    assert f"left unused: prompt_learner.ZS_image_encoder... ({unused})" in lines
    assert import_checkpoint(path, DATASET, backbone).sees == f"{UNKNOWN_IMAGES}; {NOVEL_NAMES}"
    assert not found.warnings


def test_a_shared_context_of_other_classes_is_read_with_a_warning(
    backbone: Backbone, tmp_path: Path
) -> None:
    fitted = started(CoOp(), backbone)
    path = dassl.save(dassl.state_of(fitted, ("woven", "striped")), tmp_path / "model.pth.tar")
    found = read(path, CoOp(), backbone)
    assert list(found.classes) == [0, None]
    (warning,) = found.warnings
    assert "1 of the 2 classes it was trained on are not in this data set" in warning
    assert "'striped" in warning
    state = {"ctx": dassl.state_of(fitted, BASE)["ctx"]}
    (warning,) = read(dassl.save(state, path), CoOp(), backbone).warnings
    assert "keeps no class texts" in warning
    assert backbone.identity in warning


def test_the_words_that_a_context_leaves_over_are_those_of_the_file(
    backbone: Backbone, tmp_path: Path
) -> None:
    path = tmp_path / "model.pth.tar"
    method = Maple(MapleSettings(context_init="a photo of a small"))
    fitted = started(method, backbone)
    dassl.save(dassl.state_of(fitted, BASE), path)
    message = refusal(read, path, Maple(), backbone)
    assert "read 'of a small woven" in message
    assert "set methods.maple.context_init" in message
    found = read(path, method, backbone).fitted
    classes = Classes.of(DATASET)
    assert torch.equal(found.class_texts(classes), fitted.class_texts(classes))
    # Drawn prompts stand for all words.
    drawn = started(Maple(MapleSettings(context_init=None)), backbone)
    dassl.save(dassl.state_of(drawn, BASE), path)
    found = read(path, Maple(), backbone).fitted
    assert found.method.settings.context_init is None
    assert torch.equal(found.class_texts(classes), drawn.class_texts(classes))


@pytest.mark.parametrize("method", [CoOp(), Maple(), PromptSRC()], ids=lambda each: each.name)
def test_other_towers_give_the_same_to_the_bit(method: Method, tmp_path: Path) -> None:
    vit = small_model.load(small_model.as_pt(small_model.small_weights(tmp_path), tmp_path))
    fitted = started(method, vit)
    path = dassl.save(dassl.state_of(fitted, BASE), tmp_path / "model.pth.tar")
    model = import_checkpoint(path, DATASET, vit)
    images, classes = IMAGES[:, :, :32, :32], Classes.of(DATASET)
    assert torch.equal(model(images), fitted.logits(fitted.image_features(images), classes))


def test_a_context_learned_on_another_backbone_is_refused(
    backbone: Backbone, tmp_path: Path
) -> None:
    vit = small_model.load(small_model.as_pt(small_model.small_weights(tmp_path), tmp_path))
    state = dassl.state_of(started(CoOp(), backbone), BASE)
    path = dassl.save(state, tmp_path / "model.pth.tar")
    message = refusal(import_checkpoint, path, DATASET, vit)
    assert "ctx has the shape [4, 128], not [any, 8] as this backbone needs" in message
    # Of the same width, but with other embeddings.
    mixed = {name: 1.1 * value for name, value in state.items()}
    message = refusal(import_checkpoint, dassl.save(mixed, path), DATASET, backbone)
    assert f"its token embeddings are not those of {backbone.identity}" in message
