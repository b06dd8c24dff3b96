"""Where a model looks for two classes: the occlusion, what is compared, the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import capt_core
from capt_core import explanation
from capt_core.artifacts.provenance import Provenance
from capt_core.data.images import Preprocess
from capt_core.data.proctex import CLASS_NAMES, render_image
from capt_core.evaluation.calibration import Calibration
from capt_core.explanation import (
    Explanation,
    View,
    averaged_occlusion,
    base_model,
    blurred,
    cell_of,
    centred_scores,
    explain,
    occlusion,
    occlusion_count,
    seen_image,
)
from capt_core.methods.capt.method import FittedCapt
from capt_core.methods.capt.parts import parts_of, switched_on
from capt_core.methods.classes import Classes
from capt_core.methods.clip import Clip
from capt_core.methods.fitting import fit_method
from capt_core.methods.method import Fitted
from capt_core.methods.registry import method_label, method_names
from capt_core.methods.task import Task
from capt_core.methods.trained import TrainedModel
from capt_core.reporter import Reporter, reporting_to
from capt_core.reporting.explanation_figure import draw_explanation
from tests.methods.toy_task import begun, quick, toy_task
from tests.refusals import refusal
from tests.toys import small_clip

pytest.importorskip("captum")


@pytest.fixture(scope="module")
def backbone() -> capt_core.Backbone:
    return capt_core.load_backbone(device="cpu")


@pytest.fixture(scope="module")
def task(backbone: capt_core.Backbone, tmp_path_factory: pytest.TempPathFactory) -> Task:
    return toy_task(backbone, tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def capt(task: Task) -> TrainedModel:
    """CAPT with an adapter and experts that do something."""
    model = fit_method(quick("capt"), task)
    assert isinstance(model.fitted, FittedCapt)
    generator = torch.Generator().manual_seed(0)
    for adapter in model.fitted.model.adapters.values():
        kernel = adapter.get_parameter("kernel")
        kernel.data += 0.05 * torch.randn(kernel.shape, generator=generator)
    model.fitted.model.experts.residual_gate.data += 0.5
    return model


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few windows."""
    monkeypatch.setattr(explanation, "CELLS", 2)


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    return Image.fromarray(render_image(5, "test", 1, 0))


def test_occlusion_by_hand() -> None:
    """Two windows of 2 x 4 pixels, overlapping nowhere, hide a light half and a dark one."""

    def score(images: torch.Tensor) -> torch.Tensor:
        left, right = images[:, 0, :, :2].sum(dim=(1, 2)), images[:, 0, :, 2:].sum(dim=(1, 2))
        return torch.stack([left, -right], dim=1)

    image = torch.ones(3, 4, 4)
    image[:, :, 2:] = 2.0
    found = occlusion(score, image, torch.zeros_like(image), window=2, stride=2)
    assert found.shape == (2, 4, 4)
    # A window of 2 x 2 pixels takes 4 from the left sum, or gives 8 back to the negative right.
    assert torch.equal(found[0], torch.tensor([4.0, 4.0, 0.0, 0.0]).expand(4, 4))
    assert torch.equal(found[1], torch.tensor([0.0, 0.0, -8.0, -8.0]).expand(4, 4))


def test_overlapping_windows_are_averaged() -> None:
    image = torch.tensor([1.0, 0.0, 0.0]).expand(3, 3, 3)  # the first column is light

    def score(images: torch.Tensor) -> torch.Tensor:
        return images[:, 0].sum(dim=(1, 2))[:, None]

    found = occlusion(score, image, torch.zeros(3, 3, 3), window=2, stride=1)[0]
    # Columns 0 and 1 are under a window that takes 2; column 1 also under one that takes nothing.
    assert torch.equal(found, torch.tensor([2.0, 1.0, 0.0]).expand(3, 3))


@pytest.mark.parametrize(
    ("size", "cell", "count"),
    [(224, 28, 2 * (8**2 + 7**2 + 2)), (64, 8, 230), (336, 42, 230), (8, 1, 230), (12, 2, 126)],
)
def test_windows_follow_the_size_of_the_image(size: int, cell: int, count: int) -> None:
    shown = []

    def score(images: torch.Tensor) -> torch.Tensor:
        shown.append(len(images))
        return images.sum(dim=(1, 2, 3))[:, None]

    assert cell_of(size) == cell
    assert averaged_occlusion(score, torch.rand(3, size, size)).shape == (1, size, size)
    assert sum(shown) == occlusion_count(size) == count


def test_the_average_over_windows_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """One cell is the whole image: each window takes all of it, the wider one counts half."""
    monkeypatch.setattr(explanation, "CELLS", 1)
    image = torch.full((3, 4, 4), 0.5)

    def score(images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(1, 2, 3))[:, None]

    # Taken by the mean colour: 0.5 and half of it; by the blurred image, which is the same: 0.
    found = averaged_occlusion(score, image)
    assert torch.allclose(found, torch.tensor((0.5 + 0.25) / 4), atol=1e-6)


def test_what_raises_all_scores_speaks_for_none() -> None:
    logits = torch.tensor([[1.0, 2.0, 6.0]])
    expected = torch.tensor([[3.0, -1.0]])
    assert torch.equal(centred_scores(logits, (2, 1)), expected)
    assert torch.equal(centred_scores(logits + 7, (2, 1)), expected)


def test_blurring_keeps_light_and_takes_detail() -> None:
    stripes = torch.zeros(3, 32, 32)
    stripes[:, :, ::2] = 1.0
    soft = blurred(stripes)
    assert soft.shape == stripes.shape
    assert torch.allclose(soft, torch.full_like(soft, 0.5), atol=0.05)
    assert torch.allclose(blurred(torch.full((3, 9, 9), 0.3)), torch.tensor(0.3))


def test_the_image_is_shown_as_the_model_sees_it() -> None:
    preprocess = Preprocess(8, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(seen_image(preprocess(Image.fromarray(pixels)), preprocess), pixels)


def test_a_collage_speaks_for_each_class_where_it_shows_it(backbone: capt_core.Backbone) -> None:
    model = frozen(backbone)
    dotted, striped = (
        next(image for image in drawn(name) if answer(model, image) == name)
        for name in ("polka-dotted", "striped")
    )
    collage = np.concatenate([dotted[:, :32], striped[:, 32:]], axis=1)
    difference = explain(model, Image.fromarray(collage), ("polka-dotted", "striped"))
    left, right = np.split(difference.before.difference, 2, axis=1)
    assert left.mean() > right.mean()


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("name", method_names())
def test_every_method_is_explained(name: str, task: Task, photograph: Image.Image) -> None:
    model = fit_method(quick(name), begun(name, task))
    found = explain(model, photograph)
    row = model.predict(photograph, top=2).row(0, named=True)
    after = found.before if name == "clip" else found.after
    assert after is not None
    assert after.maps.shape == (2, 64, 64)
    assert np.isfinite(after.maps).all()
    assert (after.prediction, after.confidence) == pytest.approx(
        (row["prediction"], row["confidence"])
    )
    assert found.classes[0] == row["prediction"]
    expected = row["top_classes"][1]
    if found.before.prediction != row["prediction"]:
        expected = found.before.prediction
    assert found.classes[1] == expected
    assert found.before.name == method_label(model.fitted.start.method.name)


@pytest.mark.usefixtures("coarse")
@pytest.mark.usefixtures("coarse")
def test_confidences_are_those_of_predict(capt: TrainedModel, photograph: Image.Image) -> None:
    calibrated = TrainedModel(
        capt.fitted,
        capt.classes,
        capt.sees,
        capt.seed,
        capt.provenance,
        Calibration(3.0, None, 0.95, 40, 0.7),
    )
    row = calibrated.predict([photograph]).row(0, named=True)
    found = explain(calibrated, photograph)
    assert found.after is not None
    assert found.after.confidence == pytest.approx(row["confidence"], abs=1e-5)
    assert found.before.confidence == pytest.approx(row["base_confidence"], abs=1e-5)
    uncalibrated = explain(capt, photograph).after
    assert uncalibrated is not None
    assert uncalibrated.confidence > found.after.confidence + 0.05


def test_capt_is_compared_with_what_it_started_from(task: Task, photograph: Image.Image) -> None:
    base = fit_method(quick("coop"), task)
    model = fit_method(quick("capt"), replace(task, base_model=base.fitted))
    pixels = model.preprocess(photograph)[None]
    assert torch.equal(base_model(model)(pixels), base(pixels))
    assert explain(model, photograph).before.name == base.fitted.method.label


@pytest.mark.usefixtures("coarse")
def test_a_residual_network_is_explained(
    backbone: capt_core.Backbone, photograph: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = small_clip(64, layers=(1, 1, 1, 1), width=8)
    assert type(clip.visual).__name__ == "ModifiedResNet"
    model = frozen(replace(backbone, clip=clip), ("one", "two", "three"))
    monkeypatch.setattr(model.fitted, "class_texts", lambda _: torch.eye(3, 24))
    found = explain(model, photograph)
    assert found.before.maps.shape == (2, 64, 64)
    assert np.abs(found.before.maps).max() > 0


@pytest.mark.usefixtures("coarse")
def test_the_answer_does_not_depend_on_the_run(capt: TrainedModel, photograph: Image.Image) -> None:
    first, second = explain(capt, photograph), explain(capt, photograph)
    assert draw_explanation(first) == draw_explanation(second)
    assert draw_explanation(first, "svg") == draw_explanation(second, "svg")


@pytest.mark.usefixtures("coarse")
def test_classes_that_are_asked_for(capt: TrainedModel, photograph: Image.Image) -> None:
    names = capt.class_names
    found = explain(capt, photograph, (names[3], names[0]))
    assert found.classes == (names[3], names[0])
    swapped = explain(capt, photograph, (names[0], names[3]))
    assert np.array_equal(found.before.maps, swapped.before.maps[::-1])
    assert np.array_equal(found.before.difference, -swapped.before.difference)


def test_mistakes_are_one_line(
    capt: TrainedModel, backbone: capt_core.Backbone, photograph: Image.Image, tmp_path: Path
) -> None:
    name = capt.class_names[0]
    (tmp_path / "text.png").write_text("no image")
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: explain(capt, photograph, (name, name)), "two different class names"),
        (lambda: explain(capt, photograph, (name,)), "two different class names"),
        (lambda: explain(capt, photograph, "ab"), "two different class names"),
        (lambda: explain(capt, photograph, (name, name + "x")), f"one that it knows is {name!r}"),
        (lambda: explain(capt, tmp_path / "none.png"), "none.png: image missing; give another"),
        (lambda: explain(capt, tmp_path / "text.png"), "text.png: not a readable image"),
        (lambda: explain(frozen(backbone), photograph, parts=True), "only CAPT is made of parts"),
        (lambda: explain(frozen(backbone, ("one",)), photograph), "knows one class only"),
    ]
    for call, part in calls:
        assert part in refusal(call)


def test_parts_add_up_and_are_put_back(capt: TrainedModel, photograph: Image.Image) -> None:
    fitted = capt.fitted
    assert isinstance(fitted, FittedCapt)
    model, pixels = fitted.model, capt.preprocess(photograph)[None]
    whole, state = model(pixels), {k: v.clone() for k, v in model.state_dict().items()}

    def features(part: str | None) -> torch.Tensor:
        with switched_on(fitted, part):
            found: torch.Tensor = model(pixels)
        return found

    base = fitted.base.encode(pixels)
    assert parts_of(fitted) == (
        *("adapter_local", "adapter_global", "adapter", "experts"),
        *("pair_expert", "whitening"),
    )
    assert torch.allclose(features(None), base, atol=1e-5)
    for part in ("adapter_local", "adapter_global", "adapter", "experts"):
        assert not torch.allclose(features(part), base, atol=1e-4), part
        assert not torch.allclose(features(part), whole, atol=1e-4), part
    # What the adapter adds to the patches is what its two parts add.
    (adapter,) = model.adapters.values()
    block = model.base_tower().blocks[-1]
    tokens = torch.randn(1, 65, 128, generator=torch.Generator().manual_seed(1))

    def added(part: str | None) -> torch.Tensor:
        with switched_on(fitted, part):
            moved: torch.Tensor = adapter(tokens, torch.ones(1), block.ln_1, block.attn)
        return moved - tokens

    assert added(None).abs().max() == 0
    total = added("adapter_local") + added("adapter_global")
    assert torch.allclose(total, added("adapter"), atol=1e-5)
    assert torch.equal(model(pixels), whole)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


@pytest.mark.usefixtures("coarse")
def test_the_picture_has_a_row_for_each_model(capt: TrainedModel, photograph: Image.Image) -> None:
    found = explain(capt, photograph, parts=True)
    rows = ["CLIP (zero-shot)", "CAPT", *(part.name for part in found.parts)]
    assert [part.name for part in found.parts][-1] == "whitening alone"
    text = draw_explanation(found, "svg").decode()
    for name in rows:
        assert f">{name}<" in text
    plain = draw_explanation(replace(found, parts=()))
    heights = [
        Image.open(BytesIO(picture)).height
        for picture in (plain, draw_explanation(replace(found, parts=(), after=None)))
    ]
    assert heights[0] > 1.5 * heights[1]


def test_a_picture_of_nothing_and_of_odd_names() -> None:
    nothing = View("model", "$a^b$", 1.0, (1.0, 0.0), np.zeros((2, 8, 8), np.float32))
    found = Explanation(
        ("$a^b$", "x" * 300 + "\n" + "漢字"), np.zeros((8, 8, 3), np.uint8), nothing, None
    )
    warned: list[str] = []
    with reporting_to(Reporter(warn=warned.append)):
        assert draw_explanation(found).startswith(b"\x89PNG")
        assert b"$a^b$" in draw_explanation(found, "svg")
    assert warned == ["the picture's font lacks letters of a class name; an .svg file shows them"]


def frozen(
    backbone: capt_core.Backbone, names: tuple[str, ...] = tuple(CLASS_NAMES)
) -> TrainedModel:
    """Zero-shot CLIP."""
    origin = Provenance("proctex", "0" * 16, backbone.identity, "0" * 16)
    classes = Classes.named(names, "a photo of a {} texture.")
    return TrainedModel(Fitted(Clip(), backbone), classes, "", 1, origin)


def drawn(name: str) -> Iterator[NDArray[np.uint8]]:
    return (render_image(9, "test", CLASS_NAMES.index(name), index) for index in range(30))


def answer(model: TrainedModel, image: NDArray[np.uint8]) -> str:
    return str(model.predict(Image.fromarray(image))["prediction"][0])
