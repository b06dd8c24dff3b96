"""What is found beside a model."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from capt_core.artifacts.layout import Layout
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import PROMPTS, REPRESENTATIVES, SAMPLES
from capt_core.artifacts.tables import write_table
from capt_core.reporter import SILENT
from capt_core.serving.companions import (
    Companions,
    find_companions,
    known_pairs,
    layout_of,
    read_differences,
    shown_samples,
)
from tests.refusals import refusal
from tests.serving.conftest import png

ORIGIN = Provenance("proctex", "0123456789abcdef", "tiny-clip@0")


def prompt(
    of: str, other: str, kind: str, position: int, text: str, source: str
) -> dict[str, object]:
    ids = {"woven": 0, "cracked": 1, "dotted": 2}
    return {
        "class_id": ids[of],
        "class_name": of,
        "paired_class_id": ids[other],
        "paired_class": other,
        "kind": kind,
        "position": position,
        "prompt": text,
        "source": source,
    }


ROWS = [
    prompt("woven", "cracked", "commonality", 0, "both are dry", "store"),
    prompt("woven", "cracked", "difference", 1, "woven has threads", "store"),
    prompt("woven", "cracked", "difference", 0, "woven is soft", "store"),
    prompt("cracked", "woven", "difference", 0, "cracked has gaps", "store"),
    prompt("woven", "dotted", "difference", 0, "woven, not dotted", "template"),
]
TOLD = {
    ("woven", "cracked"): ["woven is soft", "woven has threads"],
    ("cracked", "woven"): ["cracked has gaps"],
}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Artifacts of two classes with four images each, one of which cannot be read."""
    layout = Layout(tmp_path / "artifacts", "proctex")
    names = ["woven"] * 4 + ["cracked"] * 4
    samples = [
        {
            "sample_id": index,
            "path": f"{name}/{index}.png",
            "class_id": index // 4,
            "class_name": name,
            "split": "test" if index == 0 else "train",
        }
        for index, name in enumerate(names)
    ]
    write_table(SAMPLES, SAMPLES.frame(samples), layout.samples, ORIGIN)
    seed = layout.seed(1)
    write_table(PROMPTS, PROMPTS.frame(ROWS), seed.prompts, ORIGIN)
    chosen = [
        {
            "sample_id": 9,
            "rank": rank,
            "class_id": 0,
            "class_name": "woven",
            "order": 1,
            "representative_id": image,
            "representative_path": f"woven/{image}.png",
            "cosine": 0.5,
            "source": "confused_class",
        }
        for rank, image in enumerate((3, 3, 2), start=1)
    ]
    write_table(REPRESENTATIVES, REPRESENTATIVES.frame(chosen), seed.representatives, ORIGIN)
    for row in samples[:-1]:
        path = layout.images / str(row["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png())
    return layout


def found(layout: Layout, model: Path | None = None, **options: Path) -> Companions:
    model = model or layout.seed(1).run("capt").model
    return find_companions(model, ORIGIN, 1, reporter=SILENT, **options)  # type: ignore[arg-type]


def test_the_most_often_chosen_training_images_come_first() -> None:
    samples = pl.DataFrame(
        {
            "sample_id": [0, 1, 2, 3, 4, 5],
            "class_id": [0, 0, 0, 0, 0, 1],
            "split": ["test", "train", "train", "train", "train", "train"],
        }
    )
    often = pl.DataFrame({"sample_id": [3, 4], "chosen": [1, 2]})
    shown = shown_samples(samples, often)
    # Class 0: image 4 was chosen twice, 3 once, then the first other one; 0 is a test image.
    assert shown["sample_id"].to_list() == [4, 3, 1, 5]
    assert shown["chosen"].to_list() == [2, 1, 0, 0]


def test_all_that_lies_beside_the_model_is_found(layout: Layout) -> None:
    companions = found(layout)
    assert companions.differences == TOLD
    assert [each.caption for each in companions.pictures["woven"]] == [
        "typical of its confusions",
        "typical of its confusions",
        "training image",
    ]
    assert len(companions.pictures["cracked"]) == 3
    assert list(companions.notes) == []
    assert known_pairs(companions.differences, ("woven", "cracked")) == 1
    assert known_pairs(companions.differences, ("woven", "dotted")) == 0


def test_a_moved_model_names_its_artifacts(layout: Layout, tmp_path: Path) -> None:
    moved = tmp_path / "model.safetensors"
    nothing = found(layout, moved)
    assert (nothing.differences, nothing.pictures) == ({}, {})
    assert "--artifacts" in nothing.notes[0]
    assert found(layout, moved, artifacts=layout.root).differences == TOLD
    assert "proctex" in refusal(found, layout, moved, artifacts=tmp_path)


def test_prompts_of_a_file(layout: Layout, tmp_path: Path) -> None:
    store = {
        "schema_version": 1,
        "dataset": "mine",
        "domain": "textures",
        "source": "me",
        "classes": {},
        "pairs": [
            {
                "classes": ["a", "b"],
                "reason": "",
                "commonality": ["both"],
                "difference": {"a": ["a is round"], "b": ["b is not"]},
            }
        ],
    }
    path = tmp_path / "store.json"
    path.write_text(json.dumps(store))
    expected = {("a", "b"): ["a is round"], ("b", "a"): ["b is not"]}
    assert read_differences(path) == expected
    assert found(layout, prompts=path).differences == expected
    assert "--prompts" in refusal(found, layout, prompts=tmp_path / "none.parquet")


def test_what_cannot_be_used_is_left_out_and_named(layout: Layout) -> None:
    (layout.images / "woven/3.png").write_bytes(b"no image")
    layout.seed(1).prompts.write_bytes(b"no table")
    companions = found(layout)
    assert companions.differences == {}
    assert len(companions.pictures["woven"]) == 2
    first, second = companions.notes
    assert "prompts.parquet" in first
    assert "1 images are not shown" in second
    assert "3.png" in second


def test_tables_of_another_data_set_are_left_out(layout: Layout) -> None:
    other = Provenance("proctex", "fedcba9876543210", "tiny-clip@0")
    model = layout.seed(1).run("capt").model
    companions = find_companions(model, other, 1, reporter=SILENT)
    assert (companions.differences, companions.pictures) == ({}, {})
    assert len(companions.notes) == 2


@pytest.mark.parametrize("dataset", ["../proctex", "..", "", "/etc"])
def test_a_model_file_cannot_lead_elsewhere(dataset: str, layout: Layout) -> None:
    origin = Provenance(dataset)
    assert layout_of(layout.seed(1).run("capt").model, origin, 1, layout.root) is None
