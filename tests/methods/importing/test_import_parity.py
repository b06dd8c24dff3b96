"""Imported checkpoints give what the published code computed from the same tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.parity.__main__ import VALUES, relative_difference
from benchmarks.parity.fixture import Fixture, Tensors, read_fixture
from benchmarks.parity.prompted import scores
from capt_core.backbone.loading import Backbone
from capt_core.methods.coop import ContextTexts, LearnedContext
from capt_core.methods.importing.checkpoint import open_checkpoint
from capt_core.methods.importing.layouts import LAYOUTS, method_of
from capt_core.methods.method import Fitted
from capt_core.methods.prompting.fitted import PromptedClip, unit
from capt_core.methods.registry import method_class
from capt_core.methods.zero_shot import class_logits
from tests.methods.importing import dassl


@pytest.fixture(scope="session")
def parity(shared: Path) -> Path:
    folder = shared / "parity"
    if not folder.is_dir():
        pytest.skip(f"no parity fixtures: {folder} is not there")
    return folder


def imported(state: Tensors, path: Path, backbone: Backbone) -> Fitted:
    """What a checkpoint of some tensors becomes, in fp64; the fixtures have no tokenizer."""
    dassl.save(state, path)
    with open_checkpoint(path) as checkpoint:
        name = method_of(checkpoint)
        learned = LAYOUTS[name](checkpoint, backbone)
        found = method_class(name)
        settings = found.Settings().model_copy(update=dict(learned.settings))
        names = tuple(f"c{row}" for row in range(learned.rows))
        return learned.fitted(found(settings), backbone, names)


def assert_agrees(found: Tensors, fixture: Fixture, prefix: str = "") -> None:
    assert len(found) > 1
    for name, value in found.items():
        expected = fixture.expected[f"{prefix}{name}"]
        assert relative_difference(value, expected) <= VALUES, name


@pytest.mark.parametrize("case", ["main", "m16", "csc"])
def test_coop(case: str, parity: Path, tmp_path: Path) -> None:
    fixture = read_fixture(parity / "coop", parity)
    backbone = fixture.backbone()
    fitted = imported({"ctx": fixture.weights[f"coop.{case}.ctx"]}, tmp_path / "c", backbone)
    assert isinstance(fitted, LearnedContext)
    texts = ContextTexts(fixture.inputs[f"tokens_base.{case}"])
    with torch.no_grad():
        encoded = texts.encode(backbone.clip, fitted.context)
        images = fitted.encode(fixture.inputs["images"])
    logits = class_logits(unit(images), unit(encoded), backbone.logit_scale)
    assert_agrees({"text_features_base": encoded, "logits_base": logits}, fixture, f"{case}.")


def test_maple(parity: Path, tmp_path: Path) -> None:
    fixture = read_fixture(parity / "maple", parity)
    renamed = {
        "shallow_projection": "proj",
        "deep_prompt": "compound_prompts_text",
        "deep_projection": "compound_prompt_projections",
    }
    state: Tensors = {}
    for name, value in fixture.below("maple.").items():
        first, *rest = name.split(".")
        # Published layers count from 0 behind the input.
        rest = [str(int(part) - 1) if part.isdecimal() else part for part in rest]
        state[".".join(["prompt_learner", renamed.get(first, first), *rest])] = value
    fitted = imported(state, tmp_path / "c", fixture.backbone())
    assert isinstance(fitted, PromptedClip)
    assert_agrees(scores(fitted, fixture), fixture)


def test_promptsrc(parity: Path, tmp_path: Path) -> None:
    fixture = read_fixture(parity / "promptsrc", parity)
    state: Tensors = {}
    first = {"text": "prompt_learner.ctx", "visual": "image_encoder.VPT"}
    encoder = {"text": "text_encoder", "visual": "image_encoder"}
    for name, value in fixture.below("prompt.").items():
        tower, block = name.split(".")
        deep = f"{encoder[tower]}.transformer.resblocks.{block}.VPT_shallow"
        state[deep if int(block) else first[tower]] = value
    fitted = imported(state, tmp_path / "c", fixture.backbone())
    assert isinstance(fitted, PromptedClip)
    assert_agrees(scores(fitted, fixture), fixture)
