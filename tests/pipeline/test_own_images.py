"""Images of the user's own, from a folder or a table to the report."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import yaml

from capt_core.artifacts.layout import Layout
from capt_core.data.dataset import image_root
from capt_core.data.proctex import CLASS_NAMES
from tests.conftest import PROJECT
from tests.pipeline.commands import capt, command, contents, run_pipeline
from tests.refusals import refusal
from tests.toys import draw_photographs

QUICK = (
    "fewshot.shots=4",
    "methods.capt.train.epochs=1",
    "methods.capt.adapter.blocks=1",
    "methods.capt.train.batch_size=16",
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per class with ten images each, and a name for one of them."""
    root = tmp_path_factory.mktemp("photographs")
    draw_photographs(root, CLASS_NAMES[:6])
    (root / "classes.yaml").write_text(
        f"template: a photo of a {{}} surface\nnames: {{{CLASS_NAMES[0]}: my first class}}\n"
    )
    return root


def test_a_folder_of_photographs_reaches_the_report(photographs: Path, tmp_path: Path) -> None:
    run_pipeline(tmp_path, "mine", [f"data.root={photographs}", *QUICK])
    samples = pl.read_parquet(tmp_path / "mine/samples.parquet")
    sizes = dict(samples["split"].value_counts().iter_rows())
    assert sum(sizes.values()) == 60
    assert sizes["train"] > sizes["test"] > 0
    assert sizes["val"] > 0
    classes = pl.read_parquet(tmp_path / "mine/classes.parquet")
    assert "my first class" in classes["class_name"].to_list()
    texts = pl.read_parquet(tmp_path / "mine/text_features.parquet")["prompt"].to_list()
    assert "a photo of a my first class surface" in texts
    assert set(pl.read_parquet(tmp_path / "mine/seed1/prompts.parquet")["source"]) == {"template"}
    assert "mine" in (tmp_path / "report.html").read_text()
    # The photographs themselves stay where they are.
    copies = {path for path in contents(tmp_path) if path.endswith((".png", ".jpg"))}
    assert not copies


def test_three_lines_of_the_settings_are_enough(photographs: Path, tmp_path: Path) -> None:
    document = yaml.safe_load((PROJECT / "params.yaml").read_text())
    document["datasets"] = ["proctex", "mine"]
    document["per_dataset"]["mine"] = {"data": {"root": str(photographs)}, "methods": {}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(document))
    words = ["--dataset", "mine", "--params", str(tmp_path / "params.yaml")]
    done = command(["prepare", *words, "--artifacts", str(tmp_path / "a")])
    assert done.returncode == 0, done.stderr
    assert "note: drawn from the training images" in done.stdout
    capt("prepare", "mine", tmp_path / "b", [f"data.root={photographs}"])
    # The same command by hand gives the same bytes; few-shot lists of other seeds come on top.
    by_hand = contents(tmp_path / "b")
    assert by_hand.items() <= contents(tmp_path / "a").items()


def test_later_stages_know_a_prepared_data_set(photographs: Path, tmp_path: Path) -> None:
    capt("prepare", "mine", tmp_path, [f"data.root={photographs}"])
    assert "data.root is not set" in refusal(capt, "extract-features", "mine", tmp_path)
    assert image_root(Layout(tmp_path, "mine"), str(photographs)) == photographs


def test_a_name_too_long_for_the_model_is_refused(photographs: Path, tmp_path: Path) -> None:
    names = {CLASS_NAMES[1]: "very " * 60 + "long"}
    (tmp_path / "names.yaml").write_text(yaml.safe_dump({"names": names}))
    settings = [f"data.root={photographs}", f"data.classes={tmp_path}/names.yaml"]
    capt("prepare", "mine", tmp_path / "a", settings)
    assert "shorten it" in refusal(capt, "extract-features", "mine", tmp_path / "a", settings)
