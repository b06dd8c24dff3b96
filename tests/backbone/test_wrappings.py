"""Weights are found wherever trainers put them, and other objects beside them are refused."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.backbone.small_model import (
    State,
    activation,
    as_pt,
    as_safetensors,
    assert_loaded,
    load,
    load_refusal,
    module_of,
    prefixed,
    scripted,
)

ALONE = "torch.save(model.state_dict(), 'weights.pt')"


OPENAI = {name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size")}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("form", ["archive", "pt", "safetensors"])
def test_openai_weights_are_loaded_with_quick_gelu(state: State, tmp_path: Path, form: str) -> None:
    half = {name: value.half() for name, value in state.items()}
    if form == "archive":
        root = module_of(half)
        for name, value in OPENAI.items():
            root.register_buffer(name, value)
        # A tensor that the model makes by itself: in OpenAI's archives it is an attribute.
        root.get_submodule("transformer.resblocks.0").attn_mask = torch.zeros(2, 2)
        path = scripted(root, tmp_path)
    else:
        save = as_pt if form == "pt" else as_safetensors
        path = save({**half, **{k: v.clone() for k, v in OPENAI.items()}}, tmp_path)
    backbone = load(path)
    for name, value in backbone.clip.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[name].half().float()), name
    assert activation(backbone) == "QuickGELU"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_other_scripted_models_keep_the_activation_of_their_name(
    state: State, tmp_path: Path
) -> None:
    path = scripted(module_of(state), tmp_path)
    assert_loaded(path, state)
    assert activation(load(path)) == "GELU"


PREFIXES = ["module.", "_orig_mod.", "model.", "module._orig_mod.", "student.backbone.clip."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("save", [as_pt, as_safetensors])
def test_any_common_prefix_is_taken_off(
    state: State, tmp_path: Path, save: Callable[[State, Path], Path], prefix: str
) -> None:
    assert_loaded(save(prefixed(state, prefix), tmp_path), state)


def test_what_stands_beside_a_prefix_is_left_alone(state: State, tmp_path: Path) -> None:
    trained = {**prefixed(state, "model."), "head.weight": torch.ones(2, 2)}
    assert_loaded(as_safetensors(trained, tmp_path), state)


def test_wrappers_of_a_part_of_the_model_are_taken_off(state: State, tmp_path: Path) -> None:
    wrapped = {
        name.replace("visual.", "visual._orig_mod.").replace(
            "resblocks.1.", "resblocks.1.module."
        ): value
        for name, value in state.items()
    }
    assert wrapped.keys() != state.keys()
    assert_loaded(as_pt(wrapped, tmp_path), state)


CONTAINERS: dict[str, Callable[[State], Any]] = {
    "open_clip": lambda s: {"epoch": 3, "state_dict": prefixed(s, "module.")},
    "model": lambda s: {"model": s, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
    "model_state_dict": lambda s: {"model_state_dict": s},
    "ema": lambda s: {"ema": s},
    "averaged": lambda s: {"n_averaged": torch.tensor(3), **prefixed(s, "module.")},
    "the same twice": lambda s: {"model": s, "ema": s},
    "lightning": lambda s: {"state_dict": prefixed(s, "model."), "hyper_parameters": {"lr": 0.1}},
    "deep": lambda s: {"a": {"b": {"c": prefixed(s, "clip.")}}},
    "plain values": lambda s: {
        "model": s,
        "a": [1, (2.5, None, True), {3}, frozenset({4}), b"5", bytearray(b"6"), 7j, 8**99, "9"],
        "torch": [torch.Size([1]), torch.float16, torch.device("cpu"), torch.strided],
        "more": [defaultdict(list, {1: [2]}), Counter("ab"), OrderedDict(a=1)],
        "other tensors": [torch.eye(2).to_sparse(), torch.ones(2, device="meta")],
    },
    "parameters": lambda s: {name: nn.Parameter(value) for name, value in s.items()},
    "views": lambda s: {name: torch.stack([value * 2, value])[1] for name, value in s.items()},
    "transposed": lambda s: {
        name: value.T.contiguous().T if value.dim() == 2 else value for name, value in s.items()
    },
    "position ids": lambda s: {**s, "embeddings.position_ids": torch.arange(12)},
    "scale of one": lambda s: {**s, "logit_scale": s["logit_scale"][None]},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_weights_are_found_wherever_they_stand(
    state: State, tmp_path: Path, container: str, zipped: bool
) -> None:
    path = tmp_path / "weights.pt"
    document = CONTAINERS[container](state)
    torch.save(document, path, _use_new_zipfile_serialization=zipped)
    assert_loaded(path, state)


@pytest.mark.parametrize("protocol", range(1, 6))
def test_any_version_of_pickles_is_read(state: State, tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "weights.pt"
    torch.save(CONTAINERS["plain values"](state), path, pickle_protocol=protocol)
    assert_loaded(path, state)


FOREIGN: dict[str, tuple[Callable[[State], Any], str]] = {
    "numpy number": (lambda s: {"state_dict": s, "best": np.float64(0.5)}, "numpy"),
    "numpy array": (lambda s: {"a": {"b": s}, "history": np.zeros(3)}, "numpy"),
    "among the weights": (lambda s: {**s, "best": np.float64(0.5)}, "numpy"),
    "arguments": (
        lambda s: {"state_dict": s, "args": argparse.Namespace(out=Path("a"))},
        "argparse.Namespace",
    ),
    "path": (lambda s: {"state_dict": s, "out": Path("a")}, "pathlib"),
    "range": (lambda s: {"state_dict": s, "epochs": range(3)}, "range"),
}


def refused_for_foreign(path: Path, kind: str) -> str:
    message = load_refusal(path)
    assert "holds other objects than tensors" in message
    assert kind in message
    assert len(message) < 350 + len(str(path))
    return message


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_other_objects_are_refused_with_a_command_that_leaves_them_out(
    state: State, tmp_path: Path, kind: str, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, words = FOREIGN[kind]
    path = tmp_path / "it's $x.pt"
    torch.save(make(state), path, _use_new_zipfile_serialization=zipped)
    message = refused_for_foreign(path, words)
    python, option, code = shlex.split(
        message.partition("write the state dict alone: ")[2].removesuffix(" in its folder")
    )
    assert (python, option) == ("python", "-c")
    if kind == "path":
        subprocess.run([sys.executable, option, code], cwd=tmp_path, check=True, timeout=60)
    else:
        monkeypatch.chdir(tmp_path)
        exec(code, {})
    assert_loaded(tmp_path / "it's $x_state_dict.pt", state)


def test_objects_of_classes_that_may_not_be_here_are_refused(state: State, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    for document in (module_of(state), {"model": module_of(state), "epoch": np.int64(1)}):
        torch.save(document, path)
        assert ALONE in refused_for_foreign(path, "tests.backbone.small_model._Node")
    torch.save([state, np.zeros(1)], path)
    assert ALONE in refused_for_foreign(path, "numpy")


def test_two_sets_of_weights_are_not_chosen_from(state: State, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"model": state, "ema": {name: value * 2 for name, value in state.items()}}, path)
    message = load_refusal(path)
    assert "several sets" in message
    assert "'ema.'" in message
    assert "'model.'" in message
