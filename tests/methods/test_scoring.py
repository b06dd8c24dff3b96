"""Scores from saved tensors: each method's own formula, and the calls that fit and score it."""

from __future__ import annotations

import polars as pl
import pytest
import torch
from torch.nn import functional

from capt_core import params
from capt_core.backbone.encoding import encode_texts
from capt_core.backbone.loading import Backbone, load_backbone
from capt_core.data.dataset import Dataset
from capt_core.errors import CaptError
from capt_core.methods.baselines import BaselineData, BaselineSettings, fit_baseline
from capt_core.methods.coop import initial_context
from capt_core.methods.residual import Residual
from capt_core.methods.saved import SavedTensors
from capt_core.methods.scoring import FEATURE_METHODS, ClassTexts, feature_logits
from tests.toys import toy_dataset

NAMES = ["woven", "cracked", "dotted", "bumpy"]
SETTINGS = BaselineSettings(
    params.Coop(epochs=40, batch_size=4),
    params.LinearProbe(),
    params.Residual(
        epochs=40, batch_size=4, hidden=8, learning_rate=0.01, retention_names="training"
    ),
)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(params.Backbone(), params.Runtime(device="cpu"))


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    toy = toy_dataset([index % 4 for index in range(40)], 4)
    classes = toy.classes.with_columns(class_name=pl.Series(NAMES))
    split = pl.Series(["train"] * 24 + ["val"] * 8 + ["test"] * 8)
    return Dataset(toy.name, toy.samples.with_columns(split=split), classes, toy.fingerprint)


@pytest.fixture(scope="module")
def data(backbone: Backbone, dataset: Dataset) -> BaselineData:
    texts = encode_texts(dataset.prompts, backbone)
    labels = torch.tensor(dataset.samples["class_id"].to_list())
    # Each image looks like its class and, more so, like the first class of its half.
    noise = torch.randn(40, texts.shape[1], generator=torch.Generator().manual_seed(0))
    seen = functional.normalize(texts[labels] + 1.3 * texts[labels // 2 * 2] + 0.01 * noise, dim=1)
    return BaselineData(dataset, dataset.samples, seen, texts, texts, lambda: texts[:1])


def saved(method: str, tensors: dict[str, torch.Tensor]) -> SavedTensors:
    return SavedTensors(tensors, {"method": method})


def test_formulas(backbone: Backbone, data: BaselineData) -> None:
    texts = ClassTexts(NAMES, data.text_features)
    images = data.image_features
    zero_shot = backbone.logit_scale * images @ data.text_features.T
    assert torch.equal(feature_logits(saved("clip", {}), images, texts, backbone), zero_shot)
    # A residual and a context before their first step change nothing.
    fresh = dict(Residual(images.shape[1], 4).state_dict())
    found = feature_logits(saved("residual", fresh), images, texts, backbone)
    torch.testing.assert_close(found, zero_shot)
    context = initial_context(params.Coop(), backbone, 1)
    found = feature_logits(saved("coop", {"context": context}), images, texts, backbone)
    torch.testing.assert_close(found, zero_shot)
    probe = {"weight": torch.eye(4, images.shape[1]), "bias": torch.tensor([0.0, 1.0, 2.0, 3.0])}
    found = feature_logits(saved("linear_probe", probe), images, texts, backbone)
    torch.testing.assert_close(found, images[:, :4] + torch.arange(4.0))


def test_a_model_without_its_tensors_is_refused(backbone: Backbone, data: BaselineData) -> None:
    texts = ClassTexts(NAMES, data.text_features)
    with pytest.raises(CaptError, match="capt-stage train --method coop"):
        feature_logits(saved("coop", {}), data.image_features, texts, backbone)


@pytest.mark.parametrize("method", FEATURE_METHODS)
def test_what_is_fitted_is_what_is_scored(
    method: str, backbone: Backbone, data: BaselineData, dataset: Dataset
) -> None:
    told: list[int] = []
    tensors, log = fit_baseline(method, data, backbone, SETTINGS, 1, told.append)
    assert sum(told) == SETTINGS.stretches(method)
    assert log.columns == ["step", "epoch", "learning_rate", "loss"]
    logits = feature_logits(
        saved(method, tensors), data.image_features, ClassTexts(NAMES, data.text_features), backbone
    )
    labels = torch.tensor(dataset.samples["class_id"].to_list())
    base = labels < 2
    taken = logits[base][:, :2].argmax(dim=1)
    right = (taken == labels[base]).float().mean()
    frozen = method in ("clip", "clip_prompts")
    assert right == 0.5 if frozen else right > 0.9
    if not frozen and method != "linear_probe":
        assert log["loss"][-1] < log["loss"][0]


@pytest.mark.parametrize(("names", "count"), [("training", 2), ("all", 4), ("generic", 1)])
def test_names_of_retention(data: BaselineData, names: str, count: int) -> None:
    assert torch.equal(data.retained_texts(names), data.text_features[:count])


@pytest.mark.parametrize("method", ["coop", "residual"])
def test_novel_images_and_names_change_nothing(
    method: str, backbone: Backbone, data: BaselineData, dataset: Dataset
) -> None:
    labels = torch.tensor(dataset.samples["class_id"].to_list())
    images, texts = data.image_features.clone(), data.text_features.clone()
    images[labels >= 2] = images[labels >= 2].flip(1)
    texts[2:] = texts[2:].flip(1)
    names = dataset.classes.with_columns(class_name=pl.Series([*NAMES[:2], "lined", "veined"]))
    other = BaselineData(
        Dataset("proctex", dataset.samples, names, dataset.fingerprint),
        data.fewshot,
        images,
        texts,
        texts,
        data.generic_texts,
    )
    first, _ = fit_baseline(method, data, backbone, SETTINGS, 1)
    second, _ = fit_baseline(method, other, backbone, SETTINGS, 1)
    assert all(torch.equal(first[name], second[name]) for name in first)
