"""Weights by the names of Hugging Face."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from capt_core.backbone.hugging_face import open_clip_name
from tests.backbone.small_model import (
    State,
    activation,
    as_pt,
    as_safetensors,
    assert_loaded,
    load,
    load_refusal,
)


def as_hugging_face(state: State) -> State:
    """The same weights as transformers' CLIPModel names and lays them out."""
    parts = {
        "resblocks": "layers",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "attn": "self_attn",
        "c_fc": "fc1",
        "c_proj": "fc2",
        "transformer": "encoder",
        "ln_pre": "pre_layrnorm",
        "ln_post": "post_layernorm",
        "ln_final": "final_layer_norm",
        "conv1": "embeddings.patch_embedding",
        "class_embedding": "embeddings.class_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
        "token_embedding": "embeddings.token_embedding",
    }
    theirs = {}
    for name, value in state.items():
        visual = name.startswith("visual.")
        tower = "vision_model." if visual else "text_model."
        words = [parts.get(word, word) for word in name.removeprefix("visual.").split(".")]
        if name == "logit_scale":
            theirs[name] = value
        elif name in ("text_projection", "visual.proj"):
            theirs[f"{'visual' if visual else 'text'}_projection.weight"] = value.T.contiguous()
        elif words[-1].startswith("in_proj_"):
            kind = words.pop().removeprefix("in_proj_")
            for part, third in zip("qkv", value.chunk(3), strict=True):
                theirs[f"{tower}{'.'.join(words)}.{part}_proj.{kind}"] = third.contiguous()
        else:
            theirs[tower + ".".join(words)] = value
    return {**theirs, "text_model.embeddings.position_ids": torch.arange(12)[None]}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
        ("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"),
        ("vision_model.pre_layrnorm.bias", "visual.ln_pre.bias"),
        (
            "text_model.encoder.layers.11.self_attn.out_proj.weight",
            "transformer.resblocks.11.attn.out_proj.weight",
        ),
        (
            "model.vision_model.encoder.layers.0.mlp.fc2.bias",
            "model.visual.transformer.resblocks.0.mlp.c_proj.bias",
        ),
        ("text_model.final_layer_norm.weight", "ln_final.weight"),
        ("visual_projection.weight", "visual.proj"),
        ("logit_scale", "logit_scale"),
    ],
)
def test_names_of_hugging_face(theirs: str, ours: str) -> None:
    assert open_clip_name(theirs) == ours


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"text_config": {}, "vision_config": {}}, "QuickGELU"),  # the default of transformers
        ({part: {"hidden_act": "gelu"} for part in ("text_config", "vision_config")}, "GELU"),
    ],
)
@pytest.mark.parametrize("save", [as_pt, as_safetensors])
def test_hugging_face_weights_are_loaded(
    state: State,
    tmp_path: Path,
    save: Callable[[State, Path], Path],
    config: dict[str, Any],
    expected: str,
) -> None:
    path = save(as_hugging_face(state), tmp_path)
    # No tensor tells the activation, and a wrong one would only make the numbers worse.
    assert "config.json" in load_refusal(path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_loaded(path, state)
    assert activation(load(path)) == expected


def test_a_text_tower_may_be_named_as_a_part(state: State, tmp_path: Path) -> None:
    inner = {
        name if name.startswith(("visual.", "logit")) else f"text.{name}": value
        for name, value in state.items()
    }
    assert_loaded(as_pt(inner, tmp_path), state)
