"""The library as a user has it: the README's example, and what it promises beside it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
from PIL import Image

import capt_core
from capt_core.learning.checkpoint import Checkpoint
from tests.conftest import PROJECT
from tests.processes import python
from tests.refusals import refusal
from tests.toys import draw_photographs

CLASSES = ("banded", "striped", "dotted")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder per class, ten drawn images each."""
    folder = tmp_path_factory.mktemp("photographs")
    draw_photographs(folder, CLASSES)
    return folder


@pytest.fixture(scope="module")
def dataset(photographs: Path) -> capt_core.Dataset:
    return capt_core.open_folder(photographs)


@pytest.fixture(scope="module")
def backbone() -> capt_core.Backbone:
    return capt_core.load_backbone(device="cpu")


def readme_example() -> str:
    """The Python code under the README's heading "In Python"."""
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^## In Python\n.*?```python\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


def test_the_readmes_example_runs(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = readme_example()
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    monkeypatch.chdir(tmp_path)
    Path("PHOTOS").symlink_to(photographs)
    Path("new.png").write_bytes((photographs / "striped" / "photo 3.png").read_bytes())
    names: dict[str, object] = {}
    exec(code, names)
    table = names["table"]
    assert isinstance(table, pl.DataFrame)
    assert table["prediction"].is_in(CLASSES).all()
    assert Path("model.safetensors").is_file()


def test_importing_the_library_loads_nothing_heavy() -> None:
    program = (
        "import sys, capt_core; dir(capt_core);"
        "print(*sorted({'torch', 'polars', 'numpy', 'open_clip', 'pydantic'} & set(sys.modules)))"
    )
    done = python("-c", program)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_every_public_name_is_there_and_documented() -> None:
    for name in capt_core.__all__:
        value = getattr(capt_core, name)
        assert value.__doc__, name
    with pytest.raises(AttributeError, match="nothing"):
        _ = capt_core.nothing


def test_a_model_file_is_all_that_predicting_needs(
    dataset: capt_core.Dataset, backbone: capt_core.Backbone, tmp_path: Path
) -> None:
    model = capt_core.fit("capt", dataset, backbone, shots=4, settings={"train": {"epochs": 1}})
    model.save(tmp_path / "model.safetensors")
    loaded = capt_core.load_model(tmp_path / "model.safetensors", backbone)
    images = torch.stack(
        [backbone.preprocess(Image.open(path)) for path in dataset.paths(pl.Series([0, 5, 9]))]
    )
    assert torch.equal(loaded(images), model(images))
    assert loaded(images).shape == (3, len(CLASSES))
    assert loaded.class_names == tuple(sorted(CLASSES))
    assert loaded.method == "capt"
    assert str(tmp_path) not in (tmp_path / "model.safetensors").read_bytes().decode("latin-1")


def test_an_interrupted_fit_goes_on_from_its_work_folder(
    dataset: capt_core.Dataset, backbone: capt_core.Backbone, tmp_path: Path
) -> None:
    settings = {"epochs": 60, "batch_size": 4}  # checkpoints are written every 50 steps
    whole = capt_core.fit("coop", dataset, backbone, shots=4, settings=settings)

    class StoppedError(Exception):
        pass

    work = tmp_path / "work"
    saved = Checkpoint.save

    def stop_after(self: Checkpoint, *state: object) -> None:
        saved(self, *state)  # type: ignore[arg-type]
        raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "save", stop_after)
        with pytest.raises(StoppedError):
            capt_core.fit("coop", dataset, backbone, shots=4, settings=settings, work=work)
    assert list(work.rglob("*.safetensors"))
    resumed = capt_core.fit("coop", dataset, backbone, shots=4, settings=settings, work=work)
    assert torch.equal(resumed.fitted.context, whole.fitted.context)  # type: ignore[arg-type]
    assert not list(work.rglob("coop*.safetensors"))


def test_the_bank_holds_the_errors_and_pairs_follow(
    dataset: capt_core.Dataset, backbone: capt_core.Backbone
) -> None:
    model = capt_core.fit("clip", dataset, backbone)
    found = capt_core.build_bank(model, dataset)
    wrong = found.predictions.filter(~pl.col("correct"))
    assert set(found.bank["sample_id"]) == set(wrong["sample_id"])
    assert len(wrong) > 0
    assert found.statistics["count"].sum() == len(found.bank)
    mined = capt_core.mine_pairs(found, pairs=1)
    assert mined.pairs["rank"].unique().to_list() == [1]
    assert set(mined.class_pairs["class_name"]) == set(CLASSES)


def test_a_base_model_may_be_any_fitted_one(
    dataset: capt_core.Dataset, backbone: capt_core.Backbone
) -> None:
    quick = {"train": {"epochs": 1}}
    adapted = capt_core.fit("residual_adapter", dataset, backbone, settings={"epochs": 2})
    model = capt_core.fit("capt", dataset, backbone, base_model=adapted, settings=quick)
    assert model.fitted.facts()["base"]["method"] == "residual_adapter"
    # What the base model saw stands beside CAPT's results, too.
    without = {
        **quick,
        "losses": {"retention_weight": 0.0},
        "experts": {"granularities": ["sample"]},
    }
    bare = capt_core.fit("capt", dataset, backbone, base_model=adapted, settings=without)
    assert adapted.sees == bare.sees == "generic vocabulary (retention)"
    path = next(iter(dataset.paths(pl.Series([3]))))
    assert capt_core.predict(model, path)["path"].to_list() == [str(path)]


def test_mistakes_are_one_line(
    dataset: capt_core.Dataset, backbone: capt_core.Backbone, tmp_path: Path
) -> None:
    model = capt_core.fit("clip", dataset, backbone)
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: capt_core.fit("cop", dataset, backbone), "unknown method 'cop'; known: clip"),
        (
            lambda: capt_core.fit("coop", dataset, backbone, settings={"epochz": 1}),
            "methods.coop.epochz: unknown key; did you mean epochs?",
        ),
        (lambda: capt_core.load_model(tmp_path / "none.safetensors"), "missing"),
        (lambda: capt_core.open_folder(tmp_path / "nowhere"), "nowhere"),
        (lambda: capt_core.load_backbone("ViT-B-99"), "ViT-B-99"),
        (lambda: capt_core.predict(model, [tmp_path / "none.png"]), "or leave it out"),
        (lambda: capt_core.predict(model, "a.png", top=0), "top=0"),
        (lambda: capt_core.read_table(str(tmp_path / "none.parquet")), "none.parquet: missing"),
        (lambda: capt_core.fit("clip", dataset, backbone, shots=-1), "shots"),
        (lambda: capt_core.fit("clip", dataset, backbone, seed=2**32), "fit: seed: should be from"),
        (lambda: capt_core.build_bank(model, dataset, seed=-1), "build_bank: seed: should be"),
        (
            lambda: capt_core.fit("clip", dataset, backbone, settings=[1]),  # type: ignore[arg-type]
            "fit: settings: expected keys and values, found [1]",
        ),
        (lambda: capt_core.load_backbone(device="tpu"), "device"),  # type: ignore[arg-type]
        (
            lambda: capt_core.fit("capt", dataset, backbone, base_model="clip_prompts"),
            "base_model: clip_prompts needs what is mined",
        ),
    ]
    for call, part in calls:
        assert part in refusal(call)
