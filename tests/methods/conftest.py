"""The embedded CLIP and a toy task on it."""

from __future__ import annotations

import pytest

from capt_core import params
from capt_core.backbone.loading import Backbone, load_backbone
from capt_core.methods.task import Task
from tests.methods.toy_task import toy_task


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    return load_backbone(params.Backbone(), params.Runtime(device="cpu"))


@pytest.fixture(scope="session")
def task(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Task:
    return toy_task(backbone, tmp_path_factory.mktemp("images"))
