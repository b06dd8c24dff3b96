"""What is no checkpoint of these methods on this backbone is refused in one line, by name."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from capt_core.backbone.loading import Backbone
from capt_core.methods.coop import CoOp, CoOpSettings
from capt_core.methods.importing.frozen import relative_distance
from capt_core.methods.importing.model import checkpoint_method, import_checkpoint
from capt_core.methods.importing.texts import nearest_tokens
from capt_core.methods.maple import Maple
from capt_core.methods.promptsrc import PromptSRC
from tests.methods.importing import dassl
from tests.methods.importing.dassl import State
from tests.methods.importing.test_importing import BASE, DATASET, started
from tests.methods.toy_task import NAMES
from tests.refusals import refusal

STARTS = {"coop": CoOp(), "maple": Maple(), "promptsrc": PromptSRC()}


def refused(state: State, folder: Path, backbone: Backbone, **entries: Any) -> str:
    path = dassl.save(state, folder / "model.pth.tar-50", **entries)
    message = refusal(import_checkpoint, path, DATASET, backbone)
    assert message.startswith(f"fit_teacher.checkpoint: {path}: ")
    assert len(message) < 500 + len(str(path))
    return message


def state(name: str, backbone: Backbone, **changes: torch.Tensor) -> State:
    return dassl.state_of(started(STARTS[name], backbone), BASE) | changes


OTHERS = {
    "CoCoOp": {"ctx": torch.ones(4, 128), "meta_net.linear1.weight": torch.ones(8, 128)},
    "TaskRes": {"text_feature_residuals": torch.ones(2, 128)},
    "PromptKD": {"image_encoder.VPT": torch.ones(4, 9), "VPT_image_trans.bias": torch.ones(9)},
    "TAC": {"prompt_learner.ctx": torch.ones(5, 128), "VPT_topk_t.weight": torch.ones(8, 8)},
    "LwEIB": {"text_adapter.1.att_conv.conv.weight": torch.ones(8, 1, 3)},
    "TAP": {"prompt_embeddings": torch.ones(4, 128)},
    "CLIP-Adapter": {"fc.0.weight": torch.ones(32, 128)},
    "visual prompt tuning": {"image_encoder.VPT": torch.ones(4, 128)},
    "backbone.checkpoint": {"visual.proj": torch.ones(4, 128)},
}  # fmt: skip


@pytest.mark.parametrize("method", OTHERS)
def test_other_methods_are_named(method: str, backbone: Backbone, tmp_path: Path) -> None:
    assert method in refused(OTHERS[method], tmp_path, backbone)


WRONG: dict[str, tuple[str, str, torch.Tensor | None, str]] = {
    "the width of another model": ("coop", "ctx", torch.ones(4, 768), "[4, 768], not [any, 128]"),
    "no values": ("coop", "ctx", torch.ones(0, 128), "[0, 128], not [any, 128]"),
    "a number": ("coop", "ctx", torch.tensor(1.0), "[], not [any, 128]"),
    "whole numbers": ("coop", "ctx", torch.ones(4, 128, dtype=torch.long), "no real numbers"),
    "NaN": ("coop", "ctx", torch.full((4, 128), float("nan")), "512 of 512 values of 'ctx'"),
    "texts of another length": ("coop", "token_suffix", torch.ones(2, 72, 128), "not [2, 27, 128]"),
    "other embeddings": ("coop", "token_prefix", torch.ones(2, 1, 128), "token embeddings are not"),
    "no texts behind": ("coop", "token_suffix", None, "holds no token_suffix"),
    "another learned part": ("coop", "scale.weight", torch.ones(3), "'scale.weight', for which"),
    "a layer without projection": (
        "maple",
        "prompt_learner.compound_prompt_projections.1.bias",
        None,
        "holds no prompt_learner.compound_prompt_projections.1.bias",
    ),
    "a missing layer": (
        "maple",
        "prompt_learner.compound_prompts_text.0",
        None,
        "compound_prompts_text.1 without prompt_learner.compound_prompts_text.0",
    ),
    "a context of another width": (
        "maple",
        "prompt_learner.compound_prompts_text.0",
        torch.ones(3, 128),
        "[3, 128], not [2, 128]",
    ),
    "more layers than blocks": (
        "promptsrc",
        "text_encoder.transformer.resblocks.3.VPT_shallow",
        torch.ones(4, 128),
        "prompts for 4 layers",
    ),
    "image prompts in deep layers alone": (
        "promptsrc",
        "image_encoder.VPT",
        None,
        "holds no image_encoder.VPT",
    ),
    "other frozen weights": (
        "maple",
        "text_encoder.text_projection",
        torch.ones(128, 128),
        "its copy of text_encoder.text_projection differs",
    ),
    "another image tower": (
        "promptsrc",
        "image_encoder.layer1.0.conv1.weight",
        torch.ones(3, 3),
        "'image_encoder.layer1.0.conv1.weight' is no weight of tiny-clip",
    ),
    "another grid": (
        "maple",
        "image_encoder.positional_embedding",
        torch.ones(197, 128),
        "'image_encoder.positional_embedding' is no weight of tiny-clip",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_does_not_fit_is_named(kind: str, backbone: Backbone, tmp_path: Path) -> None:
    method, name, value, said = WRONG[kind]
    changed = state(method, backbone)
    if value is None:
        del changed[name]
    else:
        changed[name] = value
    assert said in refused(changed, tmp_path, backbone)


def test_class_specific_contexts_need_the_same_classes(backbone: Backbone, tmp_path: Path) -> None:
    method = CoOp(CoOpSettings(class_specific=True))

    def of(*names: str) -> State:
        return dassl.state_of(started(method, backbone, names), names)

    message = refused(of("woven", "striped"), tmp_path, backbone)
    assert "1 of its 2 classes, each with a context of its own, are not in this data set" in message
    assert "'striped" in message
    assert "5 of its 9" in refused(
        of(*NAMES, *(f"spotted {n}" for n in range(5))), tmp_path, backbone
    )
    without = {"ctx": of("woven")["ctx"]}
    assert "contexts of 1 classes, and texts (token_suffix) of 0" in refused(
        without, tmp_path, backbone
    )
    fewer = of("woven", "dotted") | dassl.class_texts(["woven"], None, 4, backbone)
    assert "contexts of 2 classes" in refused(fewer, tmp_path, backbone)


def test_the_method_that_is_asked_for_must_be_that_of_the_file(
    backbone: Backbone, tmp_path: Path
) -> None:
    path = dassl.save(state("coop", backbone), tmp_path / "model.pth.tar")
    message = refusal(import_checkpoint, path, DATASET, backbone, "maple")
    assert "trained with coop, not maple; set fit_teacher.method=coop" in message
    assert "unknown method" in refusal(import_checkpoint, path, DATASET, backbone, "copo")
    assert "methods.coop.depth" in refusal(
        import_checkpoint, path, DATASET, backbone, settings={"depth": 3}
    )


class _Trap:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("place", ["optimizer", "scheduler", "val_result", "torch.optim"])
def test_no_code_is_run(place: str, backbone: Backbone, tmp_path: Path) -> None:
    marker = tmp_path / "owned"
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    entries: dict[str, Any] = {place: _Trap(marker)}
    if place == "torch.optim":
        # An object that is let pass, with one in it that is not.
        optimizer.param_groups[0]["trap"] = _Trap(marker)
        entries = {"scheduler": optimizer}
    message = refused(state("coop", backbone), tmp_path, backbone, **entries)
    assert "'posix.mkdir'" in message
    assert "state dict alone" in message
    assert not marker.exists()


def test_a_plain_pickle_is_not_read(backbone: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "model.pth.tar"
    path.write_bytes(pickle.dumps({"state_dict": {}}))
    assert "a pickled object" in refusal(checkpoint_method, path)


def test_cut_off_and_foreign_files_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    whole = dassl.save(state("maple", backbone), tmp_path / "whole").read_bytes()
    path = tmp_path / "model.pth.tar"
    for content in (b"", whole[:100], whole[: len(whole) // 2], whole[:-1], b"text", bytes(999)):
        path.write_bytes(content)
        assert refusal(checkpoint_method, path).startswith(f"fit_teacher.checkpoint: {path}: ")
    damaged = bytearray(whole)
    middle = whole.index(b"ctxq") if b"ctxq" in whole else 200
    damaged[middle : middle + 40] = bytes(40)
    path.write_bytes(damaged)
    assert "fit_teacher.checkpoint" in refusal(import_checkpoint, path, DATASET, backbone)
    torch.save({"state_dict": {}, "optimizer": {"state": torch.ones(2)}}, path)
    assert "holds no tensors" in refusal(checkpoint_method, path)
    for missing in (tmp_path / "none", tmp_path):
        assert str(missing) in refusal(checkpoint_method, missing)


def test_distance_of_copies_by_hand() -> None:
    original = torch.tensor([3.0, 4.0])
    # |(0.3, 0.4)| = 0.5 beside |(3, 4)| = 5, less a rounding of 1e-5 for each of two entries.
    expected = (0.5 - 1e-5 * 2**0.5) / 5
    assert relative_distance(1.1 * original, original) == pytest.approx(expected, rel=1e-4)
    assert relative_distance(original + 1e-6, original) == 0
    assert relative_distance(torch.zeros(2) + 1e-6, torch.zeros(2)) == 0
    assert relative_distance(torch.ones(2), torch.zeros(2)) > 1


def test_nearest_tokens_by_hand() -> None:
    table = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    texts = torch.tensor([[[0.0, 2.01], [1.0, 0.0]], [[3.0, 3.0], [3.0, 2.99]]])
    found = nearest_tokens(texts, table)
    assert found is not None
    assert found.tolist() == [[1, 0], [2, 2]]
    assert nearest_tokens(torch.tensor([[[0.5, 0.0]]]), table) is None
