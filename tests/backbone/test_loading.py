"""Loading CLIPs: every form of weights, and every way in which they can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from capt_core.backbone.identity import TINY_CLIP, backbone_identity
from capt_core.backbone.loading import (
    load_backbone,
    load_tokenizer,
    looks_untrained,
    shared_backbones,
)
from capt_core.device import choose_device
from capt_core.params import Backbone as Settings
from capt_core.params import Runtime
from tests.backbone.small_model import (
    CPU,
    NAME,
    State,
    activation,
    as_pt,
    as_safetensors,
    as_training_checkpoint,
    load,
)
from tests.refusals import refusal


@pytest.mark.parametrize("save", [as_safetensors, as_pt, as_training_checkpoint])
def test_weights_of_every_form_are_loaded_and_frozen(
    state: State, tmp_path: Path, save: Callable[[State, Path], Path]
) -> None:
    path = save(state, tmp_path)
    backbone = load(path)
    for name, value in backbone.clip.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert not backbone.clip.training
    assert not any(parameter.requires_grad for parameter in backbone.clip.parameters())
    assert not backbone.untrained
    assert backbone.device.type == "cpu"
    assert backbone.autocast is None
    assert backbone.preprocess.size == 32
    assert backbone.preprocess.mean == (0.48145466, 0.4578275, 0.40821073)
    assert backbone.preprocess.std == (0.26862954, 0.26130258, 0.27577711)
    assert backbone.logit_scale == pytest.approx(float(state["logit_scale"].exp()))
    assert activation(backbone) == "GELU"


def test_half_precision_weights_become_single(state: State, tmp_path: Path) -> None:
    half = {name: value.half() for name, value in state.items()}
    clip = load(as_safetensors(half, tmp_path)).clip
    assert {value.dtype for value in clip.state_dict().values()} == {torch.float32}


def test_the_tokenizer_counts_what_it_writes(state: State, tmp_path: Path) -> None:
    tokenizer = load(as_pt(state, tmp_path)).tokenizer
    for text in ("", "a cat", "a Fluffy cat, it's asleep"):
        assert tokenizer.token_count(text) == int((tokenizer([text]) != 0).sum())
    with pytest.raises(ValueError, match="longer than 12 tokens"):
        tokenizer(["cat " * 11])
    assert tokenizer(["cat " * 10]).shape == (1, 12)


def test_an_unknown_model_is_named(tmp_path: Path, state: State) -> None:
    settings = Settings(name="ViT-Z-99", checkpoint=str(as_pt(state, tmp_path)))
    message = refusal(load_backbone, settings, CPU)
    assert "'ViT-Z-99'" in message
    assert "list_models" in message
    # As are missing weights and an unknown tag.
    message = refusal(load, None)
    for words in ("no weights named", "backbone.checkpoint", "backbone.pretrained"):
        assert words in message
    message = refusal(load_backbone, Settings(name=NAME, pretrained="no-such-tag"), CPU)
    assert "'no-such-tag'" in message
    assert "backbone.checkpoint" in message


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    assert "not CLIP's own" in refusal(load_tokenizer, Settings(name="ViT-B-16-SigLIP"))


@pytest.mark.filterwarnings("ignore:QuickGELU mismatch")
@pytest.mark.parametrize(("quick", "expected"), [(True, "QuickGELU"), (False, "GELU")])
def test_a_tag_brings_the_activation_it_was_trained_with(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: bool, expected: str
) -> None:
    # As with ViT-B-16 and `openai`: open_clip itself only warns, and computes other features.
    import open_clip.factory
    import open_clip.pretrained

    tag = {"url": "https://example.org/weights.pt", "quick_gelu": quick, "mean": (0.1, 0.2, 0.3)}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, NAME, {"sometag": tag})
    path = str(as_pt(state, tmp_path))
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: path)
    backbone = load_backbone(Settings(name=NAME, pretrained="sometag"), CPU)
    assert backbone.preprocess.mean == (0.1, 0.2, 0.3)
    assert torch.equal(backbone.clip.visual.proj, state["visual.proj"])
    assert activation(backbone) == expected


def test_fresh_weights_are_recognised(state: State, tmp_path: Path) -> None:
    import open_clip

    fresh = open_clip.create_model(NAME, load_weights=False)
    assert looks_untrained(fresh)
    assert load(as_pt(fresh.state_dict(), tmp_path)).untrained
    assert not looks_untrained(nn.Linear(2, 2))  # nothing to judge by
    for tensor in ("weight", "bias"):
        model = nn.Sequential(nn.LayerNorm(2), nn.LayerNorm(2))
        assert looks_untrained(model)
        model[1].get_parameter(tensor).data[0] += 0.5
        assert not looks_untrained(model)


def test_the_identity_follows_the_weights(state: State, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    other = {**state, "logit_scale": state["logit_scale"] + 1}
    first, second = as_pt(state, tmp_path), as_pt(other, tmp_path / "two")
    copy = tmp_path / "one" / "renamed.pt"
    copy.write_bytes(first.read_bytes())

    def identity(path: Path) -> str:
        return backbone_identity(Settings(name=NAME, checkpoint=str(path)))

    assert identity(first) == identity(copy) == load(first).identity
    assert identity(first) != identity(second)
    assert identity(first).startswith(f"{NAME}@")
    assert backbone_identity(Settings(name="ViT-B-16", pretrained="openai")) == "ViT-B-16@openai"


def test_the_identity_follows_a_file_that_is_replaced(state: State, tmp_path: Path) -> None:
    settings = Settings(name=NAME, checkpoint=str(as_pt(state, tmp_path)))
    before = backbone_identity(settings)
    as_pt({**state, "logit_scale": state["logit_scale"] + 1}, tmp_path)
    assert backbone_identity(settings) != before


def test_a_missing_checkpoint_has_no_identity(tmp_path: Path) -> None:
    gone = Settings(name=NAME, checkpoint=str(tmp_path / "gone.pt"))
    assert "no such file" in refusal(backbone_identity, gone)
    assert "no weights named" in refusal(backbone_identity, Settings(name=NAME))


@pytest.mark.parametrize(
    ("gpu", "device", "precision", "chosen"),
    [
        (False, "auto", "fp32", ("cpu", None)),
        (False, "cpu", "fp32", ("cpu", None)),
        (False, "cuda", "fp32", "runtime.device: "),
        (False, "auto", "fp16", "runtime.precision: fp16 needs a GPU"),
        (True, "auto", "bf16", ("cuda", torch.bfloat16)),
        (True, "cuda", "bf16", ("cuda", torch.bfloat16)),
        (True, "cpu", "bf16", ("cpu", torch.bfloat16)),
        (True, "auto", "fp16", ("cuda", torch.float16)),
    ],
)
def test_the_device_and_its_precision(
    monkeypatch: pytest.MonkeyPatch,
    gpu: bool,
    device: str,
    precision: str,
    chosen: str | tuple[str, torch.dtype | None],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    runtime = Runtime.model_validate({"device": device, "precision": precision})
    if isinstance(chosen, str):
        assert chosen in refusal(choose_device, runtime)
    else:
        assert choose_device(runtime) == (torch.device(chosen[0]), chosen[1])


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_the_towers_run_in_the_chosen_precision(
    state: State, tmp_path: Path, precision: str, dtype: torch.dtype
) -> None:
    runtime = Runtime.model_validate({"device": "cpu", "precision": precision})
    backbone = load_backbone(Settings(name=NAME, checkpoint=str(as_pt(state, tmp_path))), runtime)
    with torch.no_grad(), backbone.precision():
        images = backbone.clip.encode_image(torch.zeros(2, 3, 32, 32))
        texts = backbone.clip.encode_text(backbone.tokenizer(["a cat", "a dog"]))
    assert images.shape == texts.shape == (2, 16)
    assert images.dtype == dtype


def test_tiny_clip_takes_weights_of_ones_own(tmp_path: Path) -> None:
    from capt_core.backbone import tiny_clip

    weights = tiny_clip.build_model().state_dict()
    path = as_safetensors({k: v.contiguous() for k, v in weights.items()}, tmp_path)
    backbone = load_backbone(Settings(name=TINY_CLIP, checkpoint=str(path)), CPU)
    assert backbone.identity.startswith("tiny-clip@")
    assert backbone.untrained
    assert backbone.preprocess.size == tiny_clip.IMAGE_SIZE
    for name, value in backbone.clip.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_a_shared_backbone_is_loaded_once() -> None:
    settings, runtime = Settings(), Runtime()
    with shared_backbones():
        first = load_backbone(settings, runtime)
        assert load_backbone(settings, runtime) is first
        assert load_backbone(settings, runtime.model_copy(update={"precision": "bf16"})) != first
    assert load_backbone(settings, runtime) is not first
