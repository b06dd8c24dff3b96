"""A few-shot task on the embedded CLIP that has all that any method needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from PIL import Image
from torch.nn import functional

from capt_core.artifacts.schemas import (
    CLASS_DESCRIPTIONS,
    CONFUSION_STATISTICS,
    PROMPTS,
    REPRESENTATIVES,
)
from capt_core.backbone.encoding import encode_texts
from capt_core.backbone.loading import Backbone
from capt_core.data.dataset import Dataset
from capt_core.errors import CaptError
from capt_core.methods.clip import Clip
from capt_core.methods.fitting import fit_method
from capt_core.methods.method import Method, Need
from capt_core.methods.registry import method_class
from capt_core.methods.task import Confusions, Task
from tests.toys import toy_dataset

NAMES = ("woven", "cracked", "dotted", "bumpy")
"""Two base classes, two novel ones."""

QUICK: dict[str, dict[str, Any]] = {
    "coop": {"epochs": 8, "batch_size": 4, "learning_rate": 0.05},
    "maple": {"epochs": 2, "batch_size": 4},
    "promptsrc": {"epochs": 2, "batch_size": 4, "templates": 2, "gaussian_mean": 2.0},
    "tac": {"epochs": 2, "batch_size": 4, "centres": 2, "views": 2},
    "promptkd": {"epochs": 2, "batch_size": 4},
    "tap": {"epochs": 2, "text_epochs": 1, "batch_size": 4},
    "dpc": {"epochs": 2, "batch_size": 12, "warmup_learning_rate": 0.001},
    "lweib": {"epochs": 1, "batch_size": 4},
    "twosfs": {"iterations_per_shot": 1, "batch_size": 2},
    "spotlighter": {"epochs": 2, "batch_size": 4},
    "spotlighter_promptkd": {"epochs": 2, "batch_size": 4},
    "clip_lora": {"iterations_per_shot": 1, "batch_size": 2},
    "clip_lora_prompts": {
        "iterations_per_shot": 1,
        "batch_size": 2,
        "retention_names": "training",
    },
    "clip_adapter_prompts": {
        "epochs": 20,
        "batch_size": 4,
        "learning_rate": 0.2,
        "ratio": 0.5,
        "retention_weight": 0.5,
        "retention_names": "training",
    },
    "clip_adapter": {"epochs": 20, "batch_size": 4, "learning_rate": 0.2, "ratio": 0.5},
    "residual_adapter": {
        "epochs": 15,
        "batch_size": 4,
        "hidden": 8,
        "learning_rate": 0.02,
        "retention_names": "training",
    },
    "capt": {
        "adapter": {"blocks": 1},
        "experts": {"granularities": ["sample", "commonality", "difference", "confused_pair"]},
        "losses": {
            "confusion_weight": 0.1,
            "original_images": "anchors",
            "retention_names": "training",
        },
        "train": {"epochs": 2, "batch_size": 4, "interpolation": 0.85},
    },
}
"""Settings with which a method learns the toy task in a second."""


def quick(name: str, **changes: Any) -> Method:
    """A method with settings for the toy task."""
    found = method_class(name)
    return found(found.Settings.model_validate(QUICK.get(name, {}) | changes))


def begun(name: str, task: Task) -> Task:
    """The task with a base model that a method can start from, should it need one."""
    method = quick(name)
    if Need.BASE_MODEL not in method.needs or task.base_model is None:
        return task
    try:
        method.check_base(task.base_model.method)
    except CaptError:
        return replace(task, base_model=fit_method(quick("coop", epochs=1), task).fitted)
    return task


def named_dataset(names: Sequence[str] = NAMES) -> Dataset:
    """40 samples of four classes in turn: 24 for training, 8 for validation, 8 for tests."""
    toy = toy_dataset([index % 4 for index in range(40)], 4)
    split = pl.Series(["train"] * 24 + ["val"] * 8 + ["test"] * 8)
    classes = toy.classes.with_columns(class_name=pl.Series(names))
    return Dataset(toy.name, toy.samples.with_columns(split=split), classes, toy.fingerprint)


def labels_of(dataset: Dataset) -> torch.Tensor:
    return torch.tensor(dataset.samples["class_id"].to_list())


def misleading_features(dataset: Dataset, backbone: Backbone) -> torch.Tensor:
    """Each image looks like its class and, more so, like the first class of its half."""
    texts = encode_texts(dataset.prompts, backbone)
    labels = labels_of(dataset)
    noise = torch.randn(40, texts.shape[1], generator=torch.Generator().manual_seed(0))
    return functional.normalize(texts[labels] + 1.3 * texts[labels // 2 * 2] + 0.01 * noise, dim=1)


def written_prompts() -> pl.DataFrame:
    """One difference prompt for each of the two base classes, and one commonality prompt."""
    pair = {"class_id": 0, "class_name": "woven", "paired_class_id": 1, "paired_class": "cracked"}
    other = {"class_id": 1, "class_name": "cracked", "paired_class_id": 0, "paired_class": "woven"}
    written = {"position": 0, "source": "hand-written"}
    return PROMPTS.frame(
        [
            pair | written | {"kind": "difference", "prompt": "a photo of crossing threads."},
            other | written | {"kind": "difference", "prompt": "a photo of thin dark lines."},
            pair | written | {"kind": "commonality", "prompt": "a photo of a rough surface."},
        ]
    )


def written_descriptions() -> pl.DataFrame:
    """Sentences about the first class of each half, and about both of the base half as a pair."""
    woven, cracked, dotted, alone = (0, "woven"), (1, "cracked"), (2, "dotted"), (None, None)
    rows = [
        (*woven, *alone, 0, "structure", "threads over and under."),
        (*woven, *alone, 1, None, "a photo of cloth."),
        (*dotted, *alone, 0, "shape", "a photo of round spots."),
        (*woven, *cracked, 2, None, "a photo of crossing threads."),
        (*woven, *cracked, 3, None, "a photo of cloth without gaps."),
        (*cracked, *woven, 0, None, "a photo of thin dark lines."),
    ]
    schema = dict(CLASS_DESCRIPTIONS.columns)
    return pl.DataFrame([(*row, None, "hand-written") for row in rows], schema=schema, orient="row")


def mined(width: int, bank_source: str = "fewshot") -> Confusions:
    """Centres of prompts, and one representative of the other class for every second anchor."""
    source = torch.Generator().manual_seed(5)
    centres = {
        kind: functional.normalize(torch.randn(2, width, generator=source), dim=1)
        for kind in ("commonality", "difference")
    }
    rows = [
        {
            "sample_id": anchor,
            "rank": 1,
            "class_id": 1,
            "class_name": "cracked",
            "order": 1,
            "representative_id": anchor + 1,
            "representative_path": f"c1/{anchor + 1}.png",
            "cosine": 0.5,
            "source": "confused_class",
        }
        for anchor in range(0, 24, 4)
    ]
    counts = CONFUSION_STATISTICS.frame(
        [
            {
                "true_class_id": 0,
                "true_class": "woven",
                "predicted_class_id": 1,
                "predicted_class": "cracked",
                "count": 3,
                "rate": 0.25,
            }
        ]
    )
    return Confusions(centres, REPRESENTATIVES.frame(rows), counts, bank_source)


def toy_task(backbone: Backbone, images: Path, dataset: Dataset | None = None) -> Task:
    """The task; its images are drawn into a folder, its features are made up."""
    dataset = dataset or named_dataset()
    drawn = np.random.default_rng(0)
    for path in dataset.samples["path"]:
        file = images / path
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = drawn.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(file)
    features = misleading_features(dataset, backbone)
    plain = Clip().fit(Task(dataset, dataset.samples, backbone, 1, 16)).eval()
    return Task(
        dataset,
        dataset.samples.filter(pl.col("split") != "test"),
        backbone,
        seed=1,
        shots=16,
        features=lambda: features,
        image_root=images,
        prompts=written_prompts,
        class_descriptions=written_descriptions,
        confusions=lambda: mined(features.shape[1]),
        base_model=plain,
        teacher=plain,
        workers=1,
    )


def with_features(task: Task, features: torch.Tensor) -> Task:
    return replace(task, features=lambda: features)
