"""Data sets opened in memory, as library users open them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from capt_core.data.dataset import Dataset
from capt_core.data.folder import open_dataset, open_folder
from capt_core.data.images import open_image
from capt_core.data.preparation import draw_list
from capt_core.errors import CaptError
from tests.data.own_images import class_folders
from tests.refusals import refusal


def opened(root: Path | str, **changes: Any) -> Dataset:
    options = {"val_share": 0.2, "test_share": 0.4, "on_bad_image": "error", **changes}
    return open_folder(root, **options)


def test_a_folder_is_opened_and_nothing_is_written(tmp_path: Path) -> None:
    root = class_folders(tmp_path, oak_leaf=16, moss=14)
    before = sorted(root.rglob("*"))
    dataset = opened(root)
    assert sorted(root.rglob("*")) == before
    assert dataset.classes["group"].to_list() == ["base", "base"]
    assert dataset.prompts == ["a photo of a moss.", "a photo of a oak leaf."]
    sizes = dataset.samples.group_by("class_name", "split").len()
    assert len(sizes) == 6  # every class has images in every split
    assert [open_image(path).size for path in dataset.paths(dataset.samples["sample_id"])] == [
        (8, 8)
    ] * 30
    assert draw_list(dataset, 2, 1)["split"].to_list() == ["train"] * 4 + ["val"] * 4
    assert opened(root).samples.equals(dataset.samples)
    assert opened(root, seed=1).fingerprint != dataset.fingerprint


def test_names_templates_and_base_classes(tmp_path: Path) -> None:
    root = class_folders(tmp_path, a=4, b=4, c=4)
    (root / "classes.yaml").write_text(
        "template: 'a leaf of {}'\nnames: {a: oak, b: beech, c: elm}\n"
    )
    dataset = opened(str(root), name="leaves", base_classes=["beech", "elm"])
    assert dataset.name == "leaves"
    assert dataset.prompts == ["a leaf of oak", "a leaf of beech", "a leaf of elm"]
    assert dataset.classes["group"].to_list() == ["novel", "base", "base"]
    assert opened(root, template="{}, a tree").prompts == [
        "oak, a tree",
        "beech, a tree",
        "elm, a tree",
    ]
    with pytest.raises(CaptError, match="no class is called 'beach'; did you mean 'beech'"):
        opened(root, base_classes=["beach"])
    assert "base_classes" in refusal(opened, root, base_classes=[0])
    assert "exactly one" in refusal(opened, root, template="a tree")
    assert "test_share" in refusal(opened, root, test_share=1.5)


def test_arguments_choose_what_messages_advise(tmp_path: Path) -> None:
    root = class_folders(tmp_path, a=5, b=5)
    lines = [f"{side}/{row:03d}.png,{row % 2},{side}" for side in "ab" for row in range(5)]
    (root / "list.csv").write_text("\n".join(["which,number,side", *lines]))
    chosen = {"layout": "table", "table": "list.csv", "image_column": "which"}
    assert opened(root, **chosen, label_column="number").class_names == ["0", "1"]
    assert opened(root, **chosen, label_column="side").class_names == ["a", "b"]
    assert "layout" in refusal(opened, root, layout="folders")


def test_a_bad_image_is_named_or_left_out(tmp_path: Path) -> None:
    root = class_folders(tmp_path, a=5, b=5)
    bad = root / "b" / "002.png"
    bad.write_bytes(bad.read_bytes()[:40])
    with pytest.raises(CaptError, match=r"b/002\.png: unreadable: .*; replace the file, or"):
        opened(root)
    with pytest.warns(UserWarning, match=r"1 images are left out \(b/002\.png: unreadable"):
        dataset = opened(root, on_bad_image="quarantine")
    assert len(dataset.samples) == 9


def test_benchmarks_are_opened_by_name(tmp_path: Path) -> None:
    assert "give the argument folder" in refusal(open_dataset, "proctex")
    assert "dtd: give the argument root, the folder that holds dtd/" in refusal(open_dataset, "dtd")
    dataset = open_dataset("proctex", folder=tmp_path, images=(1, 1, 1))
    assert len(dataset.samples) == 90
    assert len(dataset.class_ids("base")) == len(dataset.class_ids("novel")) == 15
    paths = dataset.paths(dataset.samples["sample_id"])
    drawn = paths[0].stat().st_mtime_ns
    again = open_dataset("proctex", folder=tmp_path, images=(1, 1, 1))
    assert again.fingerprint == dataset.fingerprint
    assert paths[0].stat().st_mtime_ns == drawn
    other = open_dataset("proctex", folder=tmp_path, images=(1, 1, 1), seed=1)
    assert other.fingerprint != dataset.fingerprint
    assert "did you mean 'dtd'" in refusal(open_dataset, "dtt")
    assert "data.root" in refusal(open_dataset, "dtd", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"seed": 2**32}, "open_folder: seed: should be from 0 to 4294967295"),
        ({"seed": 0.5}, "open_folder: seed: should be a whole number, found 0.5"),
        ({"val_share": float("nan")}, "val_share"),
        ({"on_bad_image": "x" * 5000}, "on_bad_image"),
        ({"name": "a\0b", "root": "a\0b"}, "open_folder: root: no path holds the character"),
        ({"root": "x" * 5000}, "longer than a path can be"),
        ({"root": "~no-such-user-here"}, "no such user"),
    ],
)
def test_arguments_that_cannot_be_are_named(
    tmp_path: Path, changes: dict[str, Any], part: str
) -> None:
    class_folders(tmp_path, a=2, b=2)
    message = refusal(opened, **{"root": tmp_path, **changes})
    assert part in message
    assert len(message) < 400


def test_textures_need_sound_numbers(tmp_path: Path) -> None:
    for changes, part in (
        ({"seed": -1}, "proctex: seed: should be from 0"),
        ({"images": (1, 1)}, "proctex: images: expected three numbers, found (1, 1)"),
        ({"images": (0, 1, 1)}, "proctex: proctex_train: should be greater than or equal to 1"),
        ({"images": (1, 10**4000, 1)}, "proctex: proctex_val"),
        ({"folder": "a\0b"}, "proctex: folder: no path holds"),
    ):
        given: dict[str, Any] = {"folder": tmp_path, "images": (1, 1, 1), **changes}
        message = refusal(open_dataset, "proctex", **given)
        assert part in message
        assert len(message) < 400
    assert not list(tmp_path.iterdir())
