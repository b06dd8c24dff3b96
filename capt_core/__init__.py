"""CAPT: see which classes CLIP confuses, and repair them with a few images.

The names below are the library; each is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from capt_core.artifacts.schemas import open_table as read_table
    from capt_core.backbone.loading import Backbone
    from capt_core.classifier import ConfusionAwareClassifier
    from capt_core.data.dataset import Dataset
    from capt_core.data.folder import open_dataset, open_folder
    from capt_core.errors import CaptError
    from capt_core.library import fit, load_backbone, predict
    from capt_core.methods.importing.model import import_checkpoint
    from capt_core.methods.method import Fitted, Method
    from capt_core.methods.model_file import load_model
    from capt_core.methods.registry import method_names, register
    from capt_core.methods.task import Task
    from capt_core.methods.trained import TrainedModel
    from capt_core.mined import build_bank, mine_pairs

_PLACES = {
    "Backbone": "capt_core.backbone.loading:Backbone",
    "CaptError": "capt_core.errors:CaptError",
    "ConfusionAwareClassifier": "capt_core.classifier:ConfusionAwareClassifier",
    "Dataset": "capt_core.data.dataset:Dataset",
    "Fitted": "capt_core.methods.method:Fitted",
    "Method": "capt_core.methods.method:Method",
    "Task": "capt_core.methods.task:Task",
    "TrainedModel": "capt_core.methods.trained:TrainedModel",
    "build_bank": "capt_core.mined:build_bank",
    "fit": "capt_core.library:fit",
    "import_checkpoint": "capt_core.methods.importing.model:import_checkpoint",
    "load_backbone": "capt_core.library:load_backbone",
    "load_model": "capt_core.methods.model_file:load_model",
    "method_names": "capt_core.methods.registry:method_names",
    "mine_pairs": "capt_core.mined:mine_pairs",
    "open_dataset": "capt_core.data.folder:open_dataset",
    "open_folder": "capt_core.data.folder:open_folder",
    "predict": "capt_core.library:predict",
    "read_table": "capt_core.artifacts.schemas:open_table",
    "register": "capt_core.methods.registry:register",
}

__all__ = [
    "Backbone",
    "CaptError",
    "ConfusionAwareClassifier",
    "Dataset",
    "Fitted",
    "Method",
    "Task",
    "TrainedModel",
    "build_bank",
    "fit",
    "import_checkpoint",
    "load_backbone",
    "load_model",
    "method_names",
    "mine_pairs",
    "open_dataset",
    "open_folder",
    "predict",
    "read_table",
    "register",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, member = _PLACES[name].partition(":")
    value = getattr(importlib.import_module(module), member)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
