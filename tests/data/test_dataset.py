"""A prepared data set: what belongs together, and what its fingerprint follows."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from capt_core.artifacts.layout import Layout
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import CLASSES, FEWSHOT, SAMPLES
from capt_core.artifacts.tables import write_table
from capt_core.data.dataset import Dataset, fingerprint, image_root, load_dataset, load_fewshot
from capt_core.data.preparation import changes
from capt_core.errors import CaptError
from tests.refusals import refusal
from tests.toys import toy_dataset


def write(dataset: Dataset, artifacts: Path) -> Layout:
    layout = Layout(artifacts, dataset.name)
    write_table(SAMPLES, dataset.samples, layout.samples, dataset.provenance())
    write_table(CLASSES, dataset.classes, layout.classes, dataset.provenance())
    return layout


def test_what_prepare_wrote_comes_back(tmp_path: Path) -> None:
    dataset = toy_dataset([0, 1, 2, 1], 3)
    found = load_dataset(write(dataset, tmp_path))
    assert found.samples.equals(dataset.samples)
    assert found.classes.equals(dataset.classes)
    assert (found.name, found.fingerprint) == (dataset.name, dataset.fingerprint)


def test_tables_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    dataset = toy_dataset([0, 1], 2)
    layout = write(dataset, tmp_path)
    write_table(CLASSES, dataset.classes, layout.classes, Provenance(dataset.name, "other"))
    with pytest.raises(CaptError, match="not written together with samples") as caught:
        load_dataset(layout)
    assert "capt-stage prepare --dataset proctex" in str(caught.value)


def test_a_data_set_that_is_not_prepared_says_what_to_run(tmp_path: Path) -> None:
    assert "run: capt-stage prepare --dataset dtd" in refusal(load_dataset, Layout(tmp_path, "dtd"))


def test_a_few_shot_list_of_other_images_is_refused(tmp_path: Path) -> None:
    dataset = toy_dataset([0, 1], 2)
    layout = write(dataset, tmp_path)
    frame = pl.DataFrame(
        {"position": [0], "sample_id": [1], "path": ["x"], "class_id": [1], "split": ["train"]}
    )
    write_table(FEWSHOT, frame, layout.fewshot(4, 1), dataset.provenance())
    assert load_fewshot(layout, dataset, 4, 1).equals(frame)
    write_table(FEWSHOT, frame, layout.fewshot(4, 1), Provenance(dataset.name, "other"))
    assert "other images or classes" in refusal(load_fewshot, layout, dataset, 4, 1)
    assert "shots8-seed1.parquet: missing" in refusal(load_fewshot, layout, dataset, 8, 1)


def test_what_changed_is_counted() -> None:
    def table(rows: str) -> pl.DataFrame:
        columns = ["path", "split", "class_name"]
        return pl.DataFrame([row.split() for row in rows.split(",")], columns, orient="row")

    before = table("a train cat,b test cat,c train dog")
    assert changes(before, before) is None
    assert changes(before, table("a train cat,b train cat,d train dog")) == (
        "since the last prepare: 1 added, 1 removed, 1 moved to another split, 0 in a class "
        "renamed (2 images are in both)"
    )
    assert "2 in a class renamed" in str(
        changes(before, table("a train kitty,b test kitty,c train dog"))
    )
    assert "1 in another class" in str(changes(before, table("a train dog,b test cat,c train dog")))


def test_paths_follow_the_ids() -> None:
    dataset = toy_dataset([2, 0, 1], 3)
    paths = dataset.paths(pl.Series([2, 0]), Path("/images"))
    assert list(paths) == [Path("/images/c1/2.png"), Path("/images/c2/0.png")]
    assert (len(paths), paths[1], list(paths[:1])) == (2, list(paths)[1], list(paths)[:1])
    assert dataset.class_ids("base") == [0, 1]
    assert dataset.class_ids("novel") == [2]


def test_prompts_speak_the_names() -> None:
    classes = pl.DataFrame(
        {
            "class_id": [0, 1],
            "class_name": ["polka_dotted", "grid"],
            "group": ["base", "novel"],
            "template": ["{} texture.", "a photo of a {}."],
        }
    )
    dataset = Dataset("dtd", toy_dataset([0], 2).samples, classes, "")
    assert dataset.prompts == ["polka dotted texture.", "a photo of a grid."]


def test_the_fingerprint_follows_samples_classes_and_images() -> None:
    dataset = toy_dataset([0, 1, 1], 2)
    other = toy_dataset([0, 1, 0], 2)
    renamed = dataset.classes.with_columns(class_name=pl.Series(["c0", "stripes"]))
    prints = [
        fingerprint(dataset.samples, dataset.classes, "a"),
        fingerprint(other.samples, dataset.classes, "a"),
        fingerprint(dataset.samples, renamed, "a"),
        fingerprint(dataset.samples, dataset.classes, "b"),
    ]
    assert len(set(prints)) == len(prints)
    assert prints[0] == fingerprint(dataset.samples, dataset.classes, "a")
    assert len(prints[0]) == 16


def test_drawn_images_lie_with_the_artifacts(tmp_path: Path) -> None:
    assert image_root(Layout(tmp_path, "proctex"), None) == tmp_path / "proctex" / "images"
    (tmp_path / "dtd" / "images").mkdir(parents=True)
    (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").write_text("{}")
    assert image_root(Layout(tmp_path / "a", "dtd"), str(tmp_path)) == tmp_path / "dtd" / "images"
    assert "data.root is not set" in refusal(image_root, Layout(tmp_path, "dtd"), None)
