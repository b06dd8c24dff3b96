"""The discriminant of tuned few-shot features beside CAPT's class texts."""

from __future__ import annotations

from pathlib import Path

import torch

from capt_core.methods.capt.method import FittedCapt
from capt_core.methods.classes import Classes
from capt_core.methods.fitting import dataset_features, fit_method, group_scorers
from capt_core.methods.gda import fitted_discriminant
from capt_core.methods.image_evidence import with_evidence
from capt_core.methods.model_file import load_model
from capt_core.methods.task import Task
from tests.methods.toy_task import NAMES, quick


def test_it_tells_trained_classes_apart_and_travels_with_the_model(
    task: Task, tmp_path: Path
) -> None:
    model = fit_method(quick("capt", discriminant={"weight": 0.5}), task)
    fitted = model.fitted
    assert isinstance(fitted, FittedCapt)
    assert fitted.told_names == NAMES[:2]
    drawn = task.few_shot_rows()
    features = dataset_features(
        fitted, task.dataset, drawn["sample_id"], None, task.image_root, 64, 1
    )
    labels = torch.tensor(drawn["class_id"].to_list())
    weight, bias = fitted_discriminant(features, labels, "toy")
    classes = Classes.of(task.dataset)
    texts = fitted.backbone.logit_scale * features @ fitted.class_texts(classes).T
    expected = with_evidence(texts, features @ weight.T + bias, [0, 1], [0, 1], 0.5)
    found = fitted.logits(features, classes)
    # It was computed from features that are the same up to rounding.
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)
    # Evaluation scores each half by itself, where logits may all be moved by the same.
    scorers = group_scorers(fitted, task.dataset)
    for group, members in (("base", [0, 1]), ("novel", [2, 3])):
        alone, whole = scorers[group](features), found[:, members]
        torch.testing.assert_close(alone - alone[:, :1], whole - whole[:, :1], rtol=1e-4, atol=1e-2)
    # Classes without images keep the logits of their texts.
    torch.testing.assert_close(found[:, 2:], texts[:, 2:])
    model.save(tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors", task.backbone).fitted
    torch.testing.assert_close(again.logits(features, classes), found)
