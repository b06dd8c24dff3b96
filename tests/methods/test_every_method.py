"""What holds for every method: it fits, scores any names, and comes back from its file."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn import functional

from capt_core import params
from capt_core.artifacts.features import HeldFeatures
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.tensors import load_tensors, write_tensors
from capt_core.backbone.encoding import encode_texts
from capt_core.backbone.loading import Backbone, load_backbone
from capt_core.evaluation.predictions import classified
from capt_core.methods.classes import Classes
from capt_core.methods.fitting import feature_blocks, fit_method, group_scorers
from capt_core.methods.fudd import Differential, differential_texts
from capt_core.methods.image_evidence import WithEvidence
from capt_core.methods.linear_probe import Probe
from capt_core.methods.method import Fitted, Need
from capt_core.methods.model_file import load_model, read_summary, restore_fitted
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.registry import method_class, method_label, method_names
from capt_core.methods.spotlighter.refined import RefinedByMemory
from capt_core.methods.tap.model import AttributeClip
from capt_core.methods.task import Task
from capt_core.methods.trained import TrainedModel
from capt_core.methods.zero_shot import class_logits
from capt_core.mined import bank_of
from tests.methods.interrupted import resumed
from tests.methods.toy_task import (
    NAMES,
    begun,
    labels_of,
    mined,
    named_dataset,
    quick,
    toy_task,
    with_features,
)
from tests.refusals import refusal

METHODS = method_names()
FROZEN = ("clip", "clip_prompts", "cupl", "fudd")
"""Nothing is learnt from images."""
NOVEL_UNSEEN = (
    *("coop", "maple", "promptsrc", "dpc", "tac", "twosfs", "spotlighter", "clip_lora"),
    *("clip_adapter", "clip_adapter_prompts", "clip_lora_prompts", "residual_adapter"),
    *("tip_adapter", "tip_adapter_f", "tip_adapter_f_prompts", "gda", "gda_prompts"),
)
"""Learn from images and names of base classes alone."""
CLOSED_FORM = ("linear_probe", "tip_adapter", "gda", "gda_prompts")
"""Fitted to images without steps, and the same for every seed."""
RIVALS = ("fudd", "tap")
"""How two classes compare depends on which others are asked for."""

_fitted: dict[str, TrainedModel] = {}


def fitted(name: str, task: Task) -> TrainedModel:
    """A method fitted once for all tests; not to be changed."""
    if name not in _fitted:
        _fitted[name] = fit(name, task)
    return _fitted[name]


def fit(name: str, task: Task) -> TrainedModel:
    """A method fitted on a task, with a base model that it can start from."""
    return fit_method(quick(name), begun(name, task))


@cache
def images() -> torch.Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def preprocessed(backbone: Backbone) -> torch.Tensor:
    size = backbone.preprocess.size
    return functional.interpolate(images(), size=(size, size))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_is(name: str) -> None:
    method = method_class(name)
    assert method.name == name
    assert method_label(name) == method.label
    assert method.label != name
    assert quick(name).settings == type(quick(name).settings)(**quick(name).settings.model_dump())


@pytest.mark.parametrize("name", METHODS)
def test_it_learns_the_base_classes_without_touching_the_backbone(name: str, task: Task) -> None:
    before = {key: value.clone() for key, value in task.backbone.clip.state_dict().items()}
    model = fitted(name, task)
    after = task.backbone.clip.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not model.training
    assert not any(value.requires_grad for value in model.parameters())
    run = model.fitted.training_run
    assert (run is None) == (name in (*FROZEN, *CLOSED_FORM))
    if run is not None:
        assert run.log["loss"].is_finite().all()
    learns_features = Need.FEATURES in model.fitted.method.needs
    if model.fitted.frozen_tower and learns_features and name not in FROZEN:
        assert task.features is not None
        base = labels_of(task.dataset) < 2
        logits = model.fitted.logits(model.fitted.adapt(task.features()[base]), model.classes)
        right = logits[:, :2].argmax(dim=1) == labels_of(task.dataset)[base]
        assert right.float().mean() > 0.9
        assert run is None or run.log["loss"][-1] < run.log["loss"][0]


def test_confidences_by_hand() -> None:
    # Eq. 1. Cosines 1 and 0.6 at scale ln(2) / 0.4: e^(0.4 s) = 2, so shares 2/3 and 1/3.
    images = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    texts = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    scale = float(torch.tensor(2.0, dtype=torch.float64).log() / 0.4)
    torch.testing.assert_close(
        class_logits(images, texts, scale).softmax(dim=-1),
        torch.tensor([[2 / 3, 1 / 3]], dtype=torch.float64),
    )


def test_the_frozen_model_is_misled_by_the_toy_task(task: Task) -> None:
    assert task.features is not None
    model, labels = fitted("clip", task), labels_of(task.dataset)
    logits = model.fitted.logits(task.features(), model.classes)
    assert (logits[labels < 2][:, :2].argmax(dim=1) == 0).all()
    texts = encode_texts(task.dataset.prompts, task.backbone)
    assert torch.equal(logits, task.backbone.logit_scale * task.features() @ texts.T)


def explained(found: Differential, classes: Classes) -> torch.Tensor:
    """What tells each class from each other one, [C, C, d]."""
    prompts = found.class_texts(classes)
    return torch.stack(
        [
            torch.stack(
                [
                    found.means[found.pairs[name, other]] if (name, other) in found.pairs else own
                    for other in classes.names
                ]
            )
            for name, own in zip(classes.names, prompts, strict=True)
        ]
    )


@pytest.mark.parametrize("name", METHODS)
def test_its_model_scores_images_as_its_parts_do(name: str, task: Task) -> None:
    model, batch = fitted(name, task), preprocessed(task.backbone)
    found = model.fitted
    features = found.image_features(batch)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    if found.frozen_tower:
        plain = functional.normalize(task.backbone.clip.encode_image(batch), dim=1)
        torch.testing.assert_close(features, found.adapt(plain))
    if isinstance(found, Probe):
        expected = features @ found.weight.T + found.bias
    elif isinstance(found, Differential):
        texts = differential_texts(explained(found, model.classes))
        expected = task.backbone.logit_scale * features @ texts.T  # all four are ambiguous
    elif isinstance(found, AttributeClip):
        bags, tokens = found.bags(model.classes), found.by_head(features)
        sentences = unit(found.encode_sentences(bags))
        heads = found.head_logits(tokens, sentences, bags.used)
        expected = 0.4 * heads[0] + 0.6 / (len(heads) - 1) * heads[1:].sum(dim=0)
    elif isinstance(found, RefinedByMemory):
        share = found.method.settings.test_share
        texts = super(RefinedByMemory, found).class_texts(model.classes)
        mixed = (1 - share) * features + share * found.refined_image(features)
        expected = task.backbone.logit_scale * mixed @ found.memory.refined_texts(texts).T
    else:
        expected = task.backbone.logit_scale * features @ found.class_texts(model.classes).T
        if isinstance(found, WithEvidence):
            told = expected[:, :2] + found.alpha * found.evidence(features)
            share = expected[:, :2].exp().sum(dim=1, keepdim=True)
            expected[:, :2] = (told.softmax(dim=1) * share).log()
    torch.testing.assert_close(model(batch), expected)
    assert torch.equal(model(batch), found(batch, model.classes))
    assert model.class_names == NAMES
    assert model.train() is model
    assert not model.training


@pytest.mark.parametrize("name", METHODS)
def test_stages_and_library_score_alike(name: str, task: Task) -> None:
    model = fitted(name, task)
    with torch.no_grad():
        scored_alike(model, task)


def scored_alike(model: TrainedModel, task: Task) -> None:
    """What the stages say of images, from stored features, is what their model says."""
    name, dataset = model.method, task.dataset
    found, drawn = model.fitted, dataset.samples[:4]
    assert task.image_root is not None
    files = [task.image_root / path for path in drawn["path"]]
    batch = torch.stack([model.preprocess(Image.open(file)) for file in files])
    stored = HeldFeatures(functional.normalize(task.backbone.clip.encode_image(batch), dim=1))
    # What evaluate, infer-teacher and mine-pairs do.
    ids, scorers = drawn["sample_id"], group_scorers(found, dataset)
    ((_, features),) = feature_blocks(found, dataset, ids, stored, task.image_root, 4, 1)
    table = classified(dataset, ids, features, scorers, top_classes=5)
    whole = model(batch)
    for group in ("base", "novel"):
        members = dataset.class_ids(group)
        logits, expected = scorers[group](features), whole[:, members]
        if name in RIVALS:
            expected = found(batch, model.classes.only(members))
        torch.testing.assert_close(logits.softmax(dim=1), expected.softmax(dim=1))
        if name != "linear_probe":  # it has no class texts
            known = group_scorers(found, dataset, found.class_texts(model.classes))
            torch.testing.assert_close(known[group](features), logits)
    assert bank_of(model, dataset, drawn, features).predictions.equals(table)


@pytest.mark.parametrize("name", METHODS)
def test_class_texts_follow_the_names_asked_for(name: str, task: Task) -> None:
    found = fitted(name, task).fitted
    other = Classes.named(["zebra skin", "cracked", "wicker"], "a photo of a {}.")
    if name == "linear_probe":
        assert "no class texts; choose another method" in refusal(found.class_texts, other)
        assert "'zebra skin' is none of them; choose" in refusal(found.scorer, other)
        return
    texts = found.class_texts(other)
    assert texts.shape == (3, task.backbone.clip.text_projection.shape[1])
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(3))
    back = Classes(other.names[::-1], other.templates)
    torch.testing.assert_close(found.class_texts(back), texts.flip(0))
    own = found.class_texts(Classes.of(task.dataset))
    torch.testing.assert_close(own[1], texts[1])
    assert len(found.readable_prompts(other)) == 3


@pytest.mark.parametrize("name", METHODS)
def test_its_file_alone_gives_the_same_scores(
    name: str, task: Task, backbone: Backbone, tmp_path: Path
) -> None:
    model, batch = fitted(name, task), preprocessed(backbone)
    path = tmp_path / "elsewhere" / "model.safetensors"
    model.save(path)
    fresh = load_backbone(params.Backbone(), params.Runtime(device="cpu"))
    assert fresh.clip is not backbone.clip
    loaded = load_model(path, fresh)
    assert torch.equal(loaded(batch), model(batch))
    assert loaded.method == name
    assert loaded.classes == model.classes
    assert loaded.fitted.method.settings == model.fitted.method.settings
    assert (loaded.sees, loaded.seed) == (model.sees, model.seed)
    assert loaded.provenance == model.provenance
    assert read_summary(path, model.provenance, "").method == name
    again = tmp_path / "again.safetensors"
    loaded.save(again)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", METHODS)
def test_equal_fits_write_equal_bytes_interrupted_or_not(
    name: str, task: Task, tmp_path: Path
) -> None:
    paths, whole = [tmp_path / "first", tmp_path / "second"], fitted(name, task)
    whole.save(paths[0])
    run = whole.fitted.training_run
    if run is None:
        fit(name, task).save(paths[1])
    else:
        method, given = quick(name), begun(name, task)
        again = resumed(partial(fit_method, method), given, tmp_path, len(run.log) // 2)
        again.save(paths[1])
        assert again.fitted.training_run is not None
        assert again.fitted.training_run.interrupted
        assert again.fitted.training_run.log.equals(run.log)
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("name", METHODS)
def test_a_restored_one_shares_no_memory_with_what_it_was_restored_from(
    name: str, task: Task
) -> None:
    given = fitted(name, task).fitted
    found = restore_fitted(given.record(), given.state_dict(), task.backbone).state_dict()
    for key, value in given.state_dict().items():
        assert torch.equal(found[key], value)
        assert not value.numel() or found[key].data_ptr() != value.data_ptr()


@pytest.mark.parametrize("name", METHODS)
def test_the_seed_matters_where_something_is_drawn(name: str, task: Task) -> None:
    first = fitted(name, task).fitted.state_dict()
    second = fit(name, replace(task, seed=2)).fitted.state_dict()
    same = all(torch.equal(first[key], second[key]) for key in first)
    assert same == (name in (*FROZEN, *CLOSED_FORM))


@pytest.mark.parametrize("name", NOVEL_UNSEEN)
def test_novel_images_and_names_change_nothing(
    name: str, task: Task, backbone: Backbone, tmp_path: Path
) -> None:
    other = toy_task(backbone, tmp_path, named_dataset((*NAMES[:2], "lined", "veined")))
    assert task.features is not None
    changed = task.features().clone()
    novel = labels_of(task.dataset) >= 2
    changed[novel] = changed[novel].flip(1)
    second = fit(name, with_features(other, changed)).fitted.state_dict()
    first = fitted(name, task).fitted.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_needs_is_asked_for_first(name: str, task: Task) -> None:
    bare = Task(task.dataset, task.fewshot, task.backbone, 1, 16)
    method = quick(name)
    if not method.needs:
        fit_method(method, bare)
        return
    message = refusal(fit_method, method, bare)
    assert f"{name} needs " in message
    assert min(method.needs) in message
    assert method.needs <= set(Need)


SHOTS, BANK = "all base training images (shots)", "all base training images (bank)"
TEXTS = "difference prompts (class texts)"
GENERIC = "generic vocabulary (retention)"
WRITTEN = "generic vocabulary and the pairs' prompts (retention)"
NOVEL = "novel class names (retention)"
SEARCHED = "validation images (alpha, beta)"


@pytest.mark.parametrize(
    ("name", "shots", "bank", "losses", "described", "seen"),
    [
        ("clip", 16, "fewshot", {}, False, []),
        ("clip", 0, "full_train", {}, False, []),  # it looks at no image
        ("clip_prompts", 0, "fewshot", {}, True, [TEXTS]),
        ("coop", 16, "full_train", {}, False, []),  # it reads no bank
        ("coop", 0, "fewshot", {}, False, [SHOTS]),
        ("maple", 16, "full_train", {}, False, []),
        ("promptsrc", 0, "fewshot", {}, False, [SHOTS]),
        (
            "promptkd",
            0,
            "fewshot",
            {},
            False,
            [SHOTS, "unlabelled training images of all classes", "names of all classes"],
        ),
        ("spotlighter", 0, "fewshot", {}, False, [SHOTS]),
        ("clip_lora", 16, "full_train", {}, False, []),
        ("clip_adapter", 0, "full_train", {}, False, [SHOTS]),
        ("linear_probe", 16, "fewshot", {}, False, ["novel images (linear probe)"]),
        ("residual_adapter", 16, "fewshot", (1, "all"), False, [NOVEL]),
        ("residual_adapter", 16, "fewshot", (1, "training"), False, []),
        ("residual_adapter", 16, "fewshot", (1, "generic"), False, [GENERIC]),
        ("residual_adapter", 16, "fewshot", (1, "generic"), True, [TEXTS, GENERIC]),
        ("residual_adapter", 16, "fewshot", (0, "all"), False, []),
        ("clip_adapter_prompts", 16, "full_train", (4, "prompts"), True, [TEXTS, WRITTEN]),
        ("clip_lora_prompts", 0, "fewshot", (4, "all"), False, [SHOTS, NOVEL]),
        ("tip_adapter_f_prompts", 16, "fewshot", {}, True, [TEXTS, SEARCHED]),
        ("capt", 16, "fewshot", (4, "prompts"), False, [WRITTEN]),
        ("capt", 16, "augmented_views", (0, "all"), False, []),
        ("capt", 16, "full_train", (0, "all"), False, [BANK]),
        ("capt", 0, "full_train", (1, "all"), False, [SHOTS, BANK, NOVEL]),
    ],
)
def test_what_a_run_saw(
    name: str,
    shots: int,
    bank: str,
    losses: Any,
    described: bool,
    seen: list[str],
    task: Task,
) -> None:
    kept = {"retention_weight": float(losses[0]), "retention_names": losses[1]} if losses else {}
    method = quick(name, **({"losses": kept} if name == "capt" else kept))
    vectors = {"woven": torch.ones(64)} if described else {}
    other = replace(task, shots=shots, confusions=lambda: mined(64, bank))
    assert method.sees(other, Fitted(method, task.backbone, vectors)) == seen


def test_nothing_seen_has_words_too(task: Task) -> None:
    assert fitted("clip", task).sees == "base only"
    assert fitted("residual_adapter", task).sees == TEXTS
    assert fitted("capt", task).sees == f"{TEXTS}; generic vocabulary (confused pairs)"
    # Retention over the same words tells them already, and without the expert none are read.
    over_words = {"losses": {"retention_names": "generic"}}
    assert fit_method(quick("capt", **over_words), task).sees == f"{TEXTS}; {GENERIC}"
    sample = {"experts": {"granularities": ["sample"]}, "losses": {"retention_weight": 0.0}}
    assert fit_method(quick("capt", **sample), task).sees == TEXTS


def test_without_a_backbone_the_embedded_one_is_loaded(task: Task, tmp_path: Path) -> None:
    path = tmp_path / "model"
    fitted("coop", task).save(path)
    assert load_model(path).fitted.backbone.identity == task.backbone.identity
    foreign = replace(task.backbone, identity="ViT-B-16@abc")
    fit_method(quick("clip"), replace(task, backbone=foreign)).save(path)
    assert re.search(r"ViT-B-16.*abc.*; give backbone=", refusal(load_model, path))


def test_a_file_that_cannot_be_used_is_refused_in_one_line(task: Task, tmp_path: Path) -> None:
    path = tmp_path / "model"

    def refused(backbone: Backbone | None = None, **arguments: Any) -> str:
        message = refusal(load_model, path, backbone, **arguments)
        assert message.startswith(str(path))
        return message

    assert "missing; check the path" in refused()
    model = fitted("coop", task)
    model.save(path)
    other = replace(task.backbone, identity="tiny-clip@other")
    assert re.search(r"trained on .*, not on tiny-clip@other; load that", refused(other))
    expected = Provenance("eurosat", "", task.backbone.identity)
    message = refused(task.backbone, expected=expected, remedy="do this")
    assert "data set 'proctex', not 'eurosat'; do this" in message
    path.write_bytes(path.read_bytes()[:-8])
    message = refused(task.backbone, remedy="do this")
    assert "not what was written; do this" in message
    write_tensors(path, {}, {"kind": "other"}, model.provenance)
    assert "holds no trained model of this version" in refused(task.backbone)


@pytest.mark.parametrize("template", ["a {class}.", "{} {}", "no place"])
def test_a_file_without_what_a_model_needs_is_refused(
    template: str, task: Task, tmp_path: Path
) -> None:
    path, model = tmp_path / "model", fitted("coop", task)
    model.save(path)
    facts = load_tensors(path, "").facts
    write_tensors(path, {}, facts, model.provenance)
    assert "does not hold the model that it names" in refusal(load_model, path, task.backbone)
    facts["classes"]["templates"][-1] = template
    write_tensors(path, {}, facts, model.provenance)
    for call in ((load_model, path, task.backbone), (read_summary, path, model.provenance, "")):
        assert f"{path}: holds no trained model; " in refusal(*call)


def test_a_model_classifies_files_and_images(task: Task) -> None:
    model = fitted("clip", task)
    assert task.image_root is not None
    files = [task.image_root / path for path in task.dataset.samples["path"][:3]]
    table = model.predict([*files, Image.open(files[0])], top=2, batch_size=2, workers=1)
    assert table["path"].to_list() == [*map(str, files), None]
    assert table["prediction"][3] == table["prediction"][0]
    scores = torch.stack([model.preprocess(Image.open(file)) for file in files])
    expected = model(scores).softmax(dim=1)
    assert table["prediction"][:3].to_list() == [
        NAMES[index] for index in expected.argmax(dim=1).tolist()
    ]
    torch.testing.assert_close(
        torch.tensor(table["top_confidences"][:3].to_list()), expected.topk(2).values
    )
    assert table["confidence"].to_list() == [row[0] for row in table["top_confidences"].to_list()]
    assert [row[0] for row in table["top_classes"].to_list()] == table["prediction"].to_list()
    assert len(model.predict([])) == 0
    assert "nowhere.png" in refusal(model.predict, [Path("nowhere.png")])
