"""Every method on a GPU: as on the processor, to the bit each time, and from its file anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from capt_core import params
from capt_core.backbone.loading import load_backbone
from capt_core.methods.fitting import fit_method
from capt_core.methods.model_file import load_model
from capt_core.methods.registry import method_names
from capt_core.methods.task import Task
from capt_core.methods.trained import TrainedModel
from tests.methods.toy_task import begun, quick, toy_task

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory: pytest.TempPathFactory) -> Task:
    backbone = load_backbone(params.Backbone(), params.Runtime(device="cuda"))
    return toy_task(backbone, tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def on_processor(tmp_path_factory: pytest.TempPathFactory) -> Task:
    backbone = load_backbone(params.Backbone(), params.Runtime(device="cpu"))
    return toy_task(backbone, tmp_path_factory.mktemp("images"))


def fitted(name: str, task: Task) -> TrainedModel:
    return fit_method(quick(name), begun(name, task))


def scores(model: TrainedModel) -> torch.Tensor:
    size = model.fitted.backbone.preprocess.size
    drawn = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        found: torch.Tensor = model(drawn.to(model.fitted.backbone.device))
    return found.softmax(dim=-1).cpu()


@pytest.mark.parametrize("name", method_names())
def test_a_method_is_the_same_on_a_gpu(
    name: str, on_gpu: Task, on_processor: Task, tmp_path: Path
) -> None:
    found, expected = fitted(name, on_gpu), fitted(name, on_processor)
    torch.testing.assert_close(scores(found), scores(expected), rtol=0, atol=0.05)
    again = fitted(name, on_gpu)
    for (key, one), other in zip(
        found.fitted.state_dict().items(), again.fitted.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), key
    found.save(tmp_path / "model.safetensors")
    restored = load_model(tmp_path / "model.safetensors", on_processor.backbone)
    torch.testing.assert_close(scores(restored), scores(found), rtol=0, atol=0.05)
