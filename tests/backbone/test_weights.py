"""Weights that do not fit, broken values, and files that hold none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.backbone.small_model import (
    State,
    as_pt,
    as_safetensors,
    assert_loaded,
    load_refusal,
    prefixed,
)

ALONE = "torch.save(model.state_dict(), 'weights.pt')"


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
