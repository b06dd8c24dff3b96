"""Exported models give the model's scores, without this package, for any number of images."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from capt_core.evaluation.calibration import Calibration
from capt_core.export.formats import Format, export, format_of
from capt_core.export.image_scores import ImageScores, largest_difference
from capt_core.export.onnx_file import export_onnx
from capt_core.methods.fitting import fit_method
from capt_core.methods.method import Fitted
from capt_core.methods.model_file import load_model
from capt_core.methods.registry import method_names
from capt_core.methods.task import Task
from capt_core.methods.trained import TrainedModel
from tests.backbone.small_model import CONFIG, CPU
from tests.conftest import PROJECT
from tests.methods.toy_task import begun, quick, toy_task
from tests.processes import python
from tests.refusals import refusal

README = (PROJECT / "README.md").read_text(encoding="utf-8")
MANY = 70
"""More images than any method looks at at once."""


def photographs(folder: Path, count: int) -> list[Path]:
    """Pictures of several shapes and modes."""
    drawn = np.random.default_rng(3)
    paths = []
    for index in range(count):
        height, width = drawn.integers(70, 150, 2)
        pixels = drawn.integers(0, 256, (height, width, 3), dtype=np.uint8)
        paths.append(folder / f"{index}.png")
        Image.fromarray(pixels).convert(("RGB", "L", "P", "RGBA")[index % 4]).save(paths[-1])
    return paths


def many(model: TrainedModel) -> torch.Tensor:
    size = model.preprocess.size
    source = torch.Generator().manual_seed(4)
    return torch.randint(0, 256, (MANY, size, size, 3), dtype=torch.uint8, generator=source)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """Zero-shot CLIP on a small ResNet of open_clip's, with random weights."""
    import open_clip
    from safetensors.torch import save_file

    from capt_core.backbone.loading import load_backbone
    from capt_core.params import Backbone

    folder = tmp_path_factory.mktemp("resnet")
    vision = {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16, "image_size": 64}
    config = CONFIG | {"vision_cfg": vision}
    (folder / "capt-test-resnet.json").write_text(json.dumps(config), encoding="utf-8")
    open_clip.add_model_config(folder / "capt-test-resnet.json")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = open_clip.create_model("capt-test-resnet", load_weights=False)
        for name, value in clip.named_parameters():
            # The last scale of a residual branch is zero in a fresh model.
            value.data.add_(0.1 * torch.rand_like(value) if name.endswith("weight") else 0)
    weights = folder / "weights.safetensors"
    save_file(clip.state_dict(), weights)
    backbone = load_backbone(Backbone(name="capt-test-resnet", checkpoint=str(weights)), CPU)
    return fit_method(quick("clip"), toy_task(backbone, tmp_path_factory.mktemp("images")))


@pytest.fixture(scope="module")
def exported(resnet: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    assert export_onnx(resnet, path) < 1e-4
    return path


@pytest.mark.parametrize("form", [Format.TORCHSCRIPT, Format.SAFETENSORS])
@pytest.mark.parametrize("name", method_names())
def test_every_method_can_be_exported(name: str, form: Format, task: Task, tmp_path: Path) -> None:
    fit_method(quick(name), begun(name, task)).save(tmp_path / "fitted.safetensors")
    # From its file, as the command line has it: without the teacher of what distils.
    model = load_model(tmp_path / "fitted.safetensors", task.backbone)
    path = tmp_path / "model"
    assert export(model, path, form) < 1e-4
    if form is Format.TORCHSCRIPT:
        files = {"class_names": "", "method": "", "preprocess": ""}
        script = torch.jit.load(str(path), _extra_files=files)  # type: ignore
        scores, probabilities = script(many(model))
        wanted, confidences = ImageScores(model)(many(model))
        torch.testing.assert_close(scores, wanted, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(probabilities, confidences, rtol=0, atol=1e-4)
        assert json.loads(files["class_names"]) == list(model.class_names)
        assert str(PROJECT).encode() not in path.read_bytes()


@pytest.mark.parametrize("name", ["capt", "fudd"])
def test_onnx_scores_as_the_model_does(name: str, task: Task, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model, path = fit_method(quick(name), task), tmp_path / "model.onnx"
    assert export_onnx(model, path) < 1e-4
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = many(model)
    scores, probabilities = session.run(["scores", "probabilities"], {"images": given.numpy()})
    wanted, confidences = ImageScores(model)(given)
    torch.testing.assert_close(torch.from_numpy(scores), wanted, rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.from_numpy(probabilities), confidences, rtol=0, atol=1e-4)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["class_names"]) == list(model.class_names)
    assert (facts["method"], facts["sees"]) == (model.method, model.sees)
    assert json.loads(facts["preprocess"])["size"] == model.preprocess.size
    assert str(PROJECT).encode() not in path.read_bytes()


def test_equal_models_give_equal_bytes(
    resnet: TrainedModel, exported: Path, tmp_path: Path
) -> None:
    export_onnx(resnet, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == exported.read_bytes()


def test_the_lines_of_the_readme_need_no_package_of_this_project(
    resnet: TrainedModel, exported: Path, tmp_path: Path
) -> None:
    shutil.copy(exported, tmp_path / "model.onnx")
    lines = re.search(r"```python\n(import json, numpy, onnxruntime\n.*?)```", README, re.DOTALL)
    assert lines is not None
    program = f"{lines[1]}import sys; assert not {{'torch', 'capt_core'}} & set(sys.modules)"
    for path in photographs(tmp_path, 4):
        Image.open(path).save(tmp_path / "new.png")
        done = python("-c", program, cwd=tmp_path, code=tmp_path)
        assert done.returncode == 0, done.stderr
        name, _, confidence = done.stdout.strip().rpartition(" ")
        expected = resnet.predict([path])
        assert name == expected["prediction"][0]
        assert float(confidence) == pytest.approx(expected["confidence"][0], abs=1e-4)


class Branching(Fitted):
    """Looks at the values of an image to decide what to compute."""

    def adapt(self, features: torch.Tensor) -> torch.Tensor:
        return -features if bool(features[0, 0] > self.middle) else features

    middle = 0.0


def branching(task: Task) -> TrainedModel:
    model = fit_method(quick("clip"), task)
    fitted = Branching(model.fitted.method, task.backbone)
    first = model.fitted.image_features(ImageScores(model).examples().permute(0, 3, 1, 2).float())
    fitted.middle = float(first[:, 0].median())
    return TrainedModel(fitted, model.classes, model.sees, model.seed, model.provenance)


def test_what_cannot_be_exported_is_refused(task: Task, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "model"
    model = branching(task)
    message = refusal(export, model, path, Format.ONNX)
    assert "cannot be written as ONNX" in message
    assert not path.exists()


@pytest.mark.parametrize("form", [Format.TORCHSCRIPT, Format.SAFETENSORS])
def test_a_full_disk_is_told_in_one_line(form: Format, task: Task, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    model, path = fit_method(quick("clip"), task), tmp_path / f"model.{form}"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        message = refusal(export, model, path, form)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert message.startswith(f"{path}: cannot write")
    assert not list(tmp_path.glob("*model*"))


def test_other_scores_are_refused(task: Task) -> None:
    module = ImageScores(fit_method(quick("clip"), task))

    def other(off: float) -> Callable[[torch.Tensor], Any]:
        return lambda images: tuple(part + off for part in module(images))

    assert largest_difference(module, other(5e-5)) == pytest.approx(5e-5, rel=0.1)
    for wrong in (2e-4, float("nan")):
        assert "no file was written" in refusal(largest_difference, module, other(wrong))


def test_the_name_tells_the_format() -> None:
    assert format_of(Path("a/model.ONNX")) is Format.ONNX
    assert format_of(Path("model.pt")) is Format.TORCHSCRIPT
    for name in ("model", "model.bin", ".onnx"):
        assert "--format onnx | safetensors | torchscript" in refusal(format_of, Path(name))


def test_probabilities_are_those_of_the_fitted_temperature(task: Task, tmp_path: Path) -> None:
    model = fit_method(quick("clip"), task)
    model.calibration = Calibration(2.0, 0.5, 0.9, 8, 0.8)
    scores, probabilities = ImageScores(model)(many(model)[:4])
    torch.testing.assert_close(probabilities, (scores / 2).softmax(dim=-1))
    export(model, tmp_path / "model", Format.TORCHSCRIPT)
    files = {"calibration": ""}
    torch.jit.load(str(tmp_path / "model"), _extra_files=files)  # type: ignore
    assert json.loads(files["calibration"])["temperature"] == 2.0
    export(model, tmp_path / "model", Format.SAFETENSORS)
    assert load_model(tmp_path / "model").calibration == model.calibration
