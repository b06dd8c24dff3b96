"""Weights files: wrappings that people have, files that hold none, and code that never runs."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pickle
import shlex
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from capt_core.backbone.hugging_face import open_clip_name
from tests.backbone.small_model import (
    State,
    activation,
    as_pt,
    as_safetensors,
    load,
    load_refusal,
)

ALONE = "torch.save(model.state_dict(), 'weights.pt')"


def assert_loaded(path: Path, state: State) -> None:
    for name, value in load(path).clip.state_dict().items():
        assert torch.equal(value, state[name]), name


class _Node(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def module_of(state: State) -> nn.Module:
    """A module that has these tensors as parameters of its submodules."""
    root = _Node()
    for name, value in state.items():
        node: nn.Module = root
        *parents, leaf = name.split(".")
        for part in parents:
            if part not in dict(node.named_children()):
                node.add_module(part, _Node())
            node = node.get_submodule(part)
        node.register_parameter(leaf, nn.Parameter(value, requires_grad=False))
    return root


def scripted(module: nn.Module, folder: Path) -> Path:
    path = folder / "archive.pt"
    torch.jit.script(module).save(str(path))  # type: ignore[no-untyped-call]
    return path


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


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


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
    state: State, tmp_path: Path, kind: str, zipped: bool
) -> None:
    make, words = FOREIGN[kind]
    path = tmp_path / "it's $x.pt"
    torch.save(make(state), path, _use_new_zipfile_serialization=zipped)
    message = refused_for_foreign(path, words)
    python, option, code = shlex.split(
        message.partition("write the state dict alone: ")[2].removesuffix(" in its folder")
    )
    assert (python, option) == ("python", "-c")
    subprocess.run([sys.executable, option, code], cwd=tmp_path, check=True, timeout=60)
    assert_loaded(tmp_path / "it's $x_state_dict.pt", state)


def test_objects_of_classes_that_may_not_be_here_are_refused(state: State, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    for document in (module_of(state), {"model": module_of(state), "epoch": np.int64(1)}):
        torch.save(document, path)
        assert ALONE in refused_for_foreign(path, "tests.backbone.test_weights._Node")
    torch.save([state, np.zeros(1)], path)
    assert ALONE in refused_for_foreign(path, "numpy")


def test_two_sets_of_weights_are_not_chosen_from(state: State, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"model": state, "ema": {name: value * 2 for name, value in state.items()}}, path)
    message = load_refusal(path)
    assert "several sets" in message
    assert "'ema.'" in message
    assert "'model.'" in message


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


def test_weights_of_other_shapes_are_refused(state: State, tmp_path: Path) -> None:
    wrong = {**state, "text_projection": torch.ones(3, 5)}
    message = load_refusal(as_pt(wrong, tmp_path))
    for words in ("other shapes", "'text_projection'", "[3, 5]", "[8, 16]", "backbone.name"):
        assert words in message


def test_missing_and_unknown_tensors_are_counted(state: State, tmp_path: Path) -> None:
    fewer = {name: value for name, value in state.items() if name != "visual.proj"}
    message = load_refusal(as_pt(fewer, tmp_path))
    assert "1 tensors missing, 0 unknown (such as 'visual.proj')" in message
    # Where unknown ones are the trouble, one of them is the example.
    more = {**fewer, "adapter": torch.zeros(1)}
    assert "1 tensors missing, 1 unknown (such as 'adapter')" in load_refusal(as_pt(more, tmp_path))
    assert ALONE in load_refusal(as_pt({**state, **prefixed(state, "ema.")}, tmp_path))


def test_one_of_several_files_is_named(state: State, tmp_path: Path) -> None:
    path = tmp_path / "model-00001-of-00002.safetensors"
    save_file(dict(list(state.items())[:5]), path)
    assert "join them" in load_refusal(path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"logit_scale": path.name}}))
    assert "safetensors.torch" in load_refusal(index)


BROKEN: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "nan": (lambda t: t * float("nan"), "NaN or infinite"),
    "infinite": (lambda t: t / 0, "NaN or infinite"),
    "beyond fp32": (lambda t: t.double() * 1e300, "NaN or infinite"),
    "zero": (torch.zeros_like, "zero throughout"),
    "complex": (lambda t: t.to(torch.complex64), "type complex64"),
    "whole numbers": (lambda t: t.long(), "type int64"),
    "eight bits": (lambda t: t.to(torch.float8_e4m3fn), "type float8_e4m3fn"),
}


@pytest.mark.parametrize("save", [as_pt, as_safetensors])
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_values_are_refused(
    state: State, tmp_path: Path, kind: str, save: Callable[[State, Path], Path]
) -> None:
    change, words = BROKEN[kind]
    message = load_refusal(save({**state, "visual.proj": change(state["visual.proj"])}, tmp_path))
    assert words in message
    assert "'visual.proj'" in message


@pytest.mark.parametrize("name", ["visual.ln_post.weight", "visual.class_embedding"])
def test_a_scale_of_zeros_is_refused(state: State, tmp_path: Path, name: str) -> None:
    message = load_refusal(as_pt({**state, name: torch.zeros_like(state[name])}, tmp_path))
    assert f"'{name}' is zero throughout" in message


def test_a_bias_may_be_zero(state: State, tmp_path: Path) -> None:
    sound = {n: torch.zeros_like(v) if n.endswith("bias") else v for n, v in state.items()}
    assert_loaded(as_pt(sound, tmp_path), sound)


CONTENTS = {
    b"": "empty",
    b"<!DOCTYPE html><html>404</html>": "web page",
    b"\n<html>": "web page",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n": "git-lfs pointer",
    b'{"error": "gated"}': "JSON",
    b"PK\x03\x04 half a zip": "truncated",
    b"\x00\x10\x00\x00\x00\x00\x00\x00{": "truncated",
    b"\x1f\x8b\x08": "gzip",
    b"Repository not found": "text",
    b"(dp0\nVa\np1\nI1\ns.": "pickled object",
    b"}q\x00(X\x01\x00\x00\x00aq\x01K\x01u.": "a pickled object, which",
    b"cposix\nmkdir\np0\n(Va\np1\ntp2\nRp3\n.": "a pickled object",
    b"\0" * 4000: "zero bytes",
    bytes(range(200, 250)): "no form that is read",
}


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("content", CONTENTS, ids=CONTENTS.values())
def test_a_file_that_holds_no_weights_is_told_for_what_it_is(
    state: State, tmp_path: Path, name: str, content: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert CONTENTS[content] in load_refusal(path)


def test_what_is_no_file_is_named(state: State, tmp_path: Path) -> None:
    assert "no such file" in load_refusal(tmp_path / "gone.pt")
    assert "a folder" in load_refusal(tmp_path)
    as_pt(state, tmp_path)
    assert "such as weights.pt" in load_refusal(tmp_path)
    assert "no regular file" in load_refusal(Path("/dev/zero"))


@pytest.mark.parametrize("save", [as_safetensors, as_pt])
def test_a_truncated_checkpoint_is_named(
    state: State, tmp_path: Path, save: Callable[[State, Path], Path]
) -> None:
    path = save(state, tmp_path)
    path.write_bytes(path.read_bytes()[:-500])
    assert "truncated" in load_refusal(path)


def test_a_flipped_bit_in_an_archive_is_found(state: State, tmp_path: Path) -> None:
    path = as_pt(state, tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(state["visual.proj"].numpy().tobytes()) + 3] ^= 1
    path.write_bytes(content)
    assert "not a readable weights file" in load_refusal(path)


class _Trap:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("form", ["pickle", "zip", "legacy"])
def test_a_checkpoint_cannot_run_code(state: State, tmp_path: Path, form: str) -> None:
    path, marker = tmp_path / "weights.pt", tmp_path / "owned"
    document = {"state_dict": state, "scheduler": _Trap(marker)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(document, protocol=2))
    else:
        torch.save(document, path, _use_new_zipfile_serialization=form == "zip")
    message = load_refusal(path)
    assert ALONE in message
    assert form == "pickle" or "'posix.mkdir'" in message
    assert not marker.exists()


HOSTILE = """
import torch
class Hostile(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("w", torch.zeros(2))
    def forward(self, x):
        return x
    @torch.jit.export
    def __getstate__(self):
        return (self.w, self.training)
    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        self.training = state[1]
        t = torch.from_file({victim!r}, True, 10, dtype=torch.float32)
        t.fill_(9.0)
        self.w = t[:2]
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_code_of_a_scripted_model_is_not_run(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim.bin"
    victim.write_bytes(b"\0" * 40)
    (tmp_path / "capt_hostile.py").write_text(HOSTILE.format(victim=str(victim)))
    monkeypatch.syspath_prepend(tmp_path)
    capt_hostile: Any = importlib.import_module("capt_hostile")
    path = scripted(capt_hostile.Hostile(), tmp_path)
    victim.write_bytes(b"\0" * 40)
    assert ALONE in load_refusal(path)
    assert victim.read_bytes() == b"\0" * 40
    del sys.modules["capt_hostile"]


def tensor_pickle(shape: bytes, stride: bytes, offset: bytes, count: bytes) -> bytes:
    """A state dict of one tensor over the storage ``0``, as torch pickles it."""
    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    )
    return (
        b"\x80\x02}X\x0b\x00\x00\x00visual.projctorch._utils\n_rebuild_tensor_v2\n("
        + storage + count + b"tQ" + offset + shape + stride + b"\x89}tRs."
    )  # fmt: skip


NONE, TWO, ONE = b"K\x00K\x00\x86", b"K\x02K\x02\x86", b"K\x02K\x01\x86"
ZERO, FOUR = b"K\x00", b"K\x04"
PICKLES = {
    "offset past the end": tensor_pickle(TWO, ONE, b"K\xff", FOUR),
    "ten billion repeats": tensor_pickle(b"J\xff\xff\xff\x7fK\x05\x86", NONE, ZERO, FOUR),
    "negative size": tensor_pickle(b"J\xff\xff\xff\xffK\x02\x86", ONE, ZERO, FOUR),
    "sizes that are text": tensor_pickle(b"X\x01\x00\x00\x00aK\x01\x86", ONE, ZERO, FOUR),
    "more values than stored": tensor_pickle(TWO, ONE, ZERO, b"J\xff\xff\xff\x7f"),
    "no shape": tensor_pickle(b"N", b"N", ZERO, FOUR),
    "a place far off in the memo": b"\x80\x02}r\xff\xff\xff\x7f.",
    "a petabyte of bytes": b"\x80\x05\x96\x00\x00\x00\x00\x00\x00\x04\x00.",
    "deep nesting": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "attributes of a function": b"ctorch._utils\n_rebuild_tensor_v2\nN}X\x01\x00\x00\x00aNs\x86b.",
    "an old call": b"(X\x01\x00\x00\x00aios\nsystem\n.",
    "an extension code": b"\x80\x02\x82\x01.",
    "nothing": b"",
    "a number without end": b"I" + b"9" * 6000 + b"\n.",
}  # fmt: skip


@pytest.mark.parametrize("kind", PICKLES)
def test_pickles_that_nobody_wrote_are_refused(state: State, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", PICKLES[kind])
        archive.writestr("a/data/0", bytes(16))
    assert len(load_refusal(path)) < 400 + len(str(path))


def test_what_refers_to_itself_is_read(state: State, tmp_path: Path) -> None:
    document: dict[str, Any] = {"state_dict": dict(state)}
    document["state_dict"]["self"] = document["self"] = document
    torch.save(document, tmp_path / "weights.pt")
    assert_loaded(tmp_path / "weights.pt", state)


def test_compressed_data_are_refused(state: State, tmp_path: Path) -> None:
    # A few kilobytes could otherwise be made to fill the memory.
    path = tmp_path / "bomb.pt"
    with (
        zipfile.ZipFile(as_pt(state, tmp_path)) as plain,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    assert "compressed" in load_refusal(path)


@pytest.mark.parametrize(
    "document",
    [[1, 2], torch.zeros(3), {"state_dict": None}, {"state_dict": [1]}, {0: torch.zeros(1)}, {}],
    ids=["list", "tensor", "no state", "state list", "numbered", "empty"],
)
def test_a_checkpoint_of_another_form_is_named(
    state: State, tmp_path: Path, document: object
) -> None:
    path = tmp_path / "weights.pt"
    torch.save(document, path)
    message = load_refusal(path)
    assert "holds no tensors by the names" in message
    assert ALONE in message
