"""Archives of torch are read without running anything of theirs."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.backbone.small_model import (
    State,
    as_pt,
    assert_loaded,
    load_refusal,
    scripted,
)

ALONE = "torch.save(model.state_dict(), 'weights.pt')"


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
