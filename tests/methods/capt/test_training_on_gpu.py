"""Training on a GPU: as on the processor, to the bit each time, and resumable to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from polars.testing import assert_frame_equal

from capt_core import params
from capt_core.backbone.loading import load_backbone
from tests import paper_preset
from tests.methods.capt.test_training import RESUMED, fit, resumes, same
from tests.methods.capt.toy import toy_backbone, toy_trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")

PLAIN = paper_preset.train(epochs=3, batch_size=2, learning_rate=0.01, augmentation="none")


def test_a_gpu_trains_as_the_processor(tmp_path: Path) -> None:
    expected = toy_trainer(tmp_path, PLAIN, blocks=2)
    on_gpu = toy_trainer(tmp_path, PLAIN, blocks=2, backbone=toy_backbone("cuda"))
    assert_frame_equal(on_gpu.fit().log, expected.fit().log, rel_tol=1e-3, abs_tol=1e-4)
    state = expected.model.state_dict()
    for name, value in on_gpu.model.state_dict().items():
        torch.testing.assert_close(value.cpu(), state[name], rtol=1e-3, atol=1e-4, msg=name)


def test_a_cached_prefix_trains_as_computing_it_anew(tmp_path: Path) -> None:
    backbone = load_backbone(params.Backbone(), params.Runtime(device="cuda"))
    settings = PLAIN.model_copy(update={"augmentation": "crop_flip", "views": 3})
    live = toy_trainer(tmp_path, settings, blocks=1, backbone=backbone).fit()
    cached = toy_trainer(tmp_path, settings, blocks=1, backbone=backbone, cached=True).fit()
    assert_frame_equal(cached.log, live.log, rel_tol=1e-4, abs_tol=1e-4)


def test_equal_seeds_give_equal_bits(tmp_path: Path) -> None:
    backbone = toy_backbone("cuda")
    same(*(fit(tmp_path, PLAIN, backbone=backbone) for _ in range(2)))


@pytest.mark.parametrize("changes", RESUMED, ids=str)
def test_interrupted_training_ends_as_if_it_was_not(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    resumes(tmp_path, changes, backbone=toy_backbone("cuda"))


def test_mixed_precision_trains_alike(tmp_path: Path) -> None:
    exact = toy_trainer(tmp_path, PLAIN, backbone=toy_backbone("cuda")).fit()
    backbone = replace(toy_backbone("cuda"), autocast=torch.bfloat16)
    rough = toy_trainer(tmp_path, PLAIN, backbone=backbone).fit()
    assert rough.log["loss"].to_list() == pytest.approx(exact.log["loss"].to_list(), rel=0.05)
