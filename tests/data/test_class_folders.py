"""ImageNet and its variants: class order, names, subsets, and a listing that is always the same."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from capt_core.data.dataset import Dataset
from capt_core.data.preparation import draw_list
from capt_core.data.readers import read_split
from capt_core.data.registry import dataset_spec
from capt_core.data.splits import SplitData
from capt_core.params import Data
from tests.refusals import refusal

WNIDS = ("n01440764", "n03773504", "n04008634", "n04355933", "n04356056")
NAMES = "\n".join(
    f"{wnid} {name}"
    for wnid, name in zip(
        WNIDS, ("tench", "missile", "missile", "sunglasses", "sunglasses"), strict=True
    )
)


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")


def imagenet(root: Path, order: tuple[str, ...] = WNIDS[::-1]) -> Path:
    """ImageNet with five classes, whose folders are made in some order."""
    for wnid in order:
        for image in ("10", "2", "1"):
            touch(root / "imagenet/images/train" / wnid, f"{wnid}_{image}.JPEG")
        touch(root / "imagenet/images/val" / wnid, f"ILSVRC2012_val_{wnid[-3:]}.JPEG")
    (root / "imagenet" / "classnames.txt").write_text(NAMES)
    return root


def read(name: str, root: Path) -> SplitData:
    return read_split(dataset_spec(name), Data(root=str(root)))[0]


def test_imagenet_is_listed_by_class_and_name(tmp_path: Path) -> None:
    data = read("imagenet", imagenet(tmp_path))
    assert data.samples.head(4).rows() == [
        # Code points, not numbers: the order is the same on every file system.
        ("train/n01440764/n01440764_1.JPEG", 0, "train"),
        ("train/n01440764/n01440764_10.JPEG", 0, "train"),
        ("train/n01440764/n01440764_2.JPEG", 0, "train"),
        ("train/n03773504/n03773504_1.JPEG", 1, "train"),
    ]
    assert dict(data.samples["split"].value_counts().iter_rows()) == {"train": 15, "test": 5}
    assert data.samples["path"][-1] == "val/n04356056/ILSVRC2012_val_056.JPEG"
    assert data.notes == ("5 classes; the full data set has 1000",)


def test_names_that_two_classes_share_are_told_apart(tmp_path: Path) -> None:
    names = ["tench", "missile", "projectile", "sunglass", "sunglasses"]
    assert read("imagenet", imagenet(tmp_path)).class_names == names
    # A list that already tells them apart is taken as it is.
    changed = NAMES.replace("n04008634 missile", "n04008634 rocket")
    (tmp_path / "imagenet" / "classnames.txt").write_text(changed)
    assert read("imagenet", tmp_path).class_names[2] == "rocket"


def test_few_shot_lists_of_imagenet_repeat(tmp_path: Path) -> None:
    data = read("imagenet", imagenet(tmp_path))
    frame = data.samples.with_row_index("sample_id").cast({"sample_id": pl.Int64})
    dataset = Dataset("imagenet", frame, pl.DataFrame(), "")
    drawn = draw_list(dataset, 1, 1)
    # random.Random(1) picks 0, 2, 0, 1, 0 of three images five times over.
    assert [path.rpartition("_")[2] for path in drawn["path"]] == [
        f"{('1', '10', '2')[index]}.JPEG" for index in (0, 2, 0, 1, 0)
    ]
    assert set(drawn["split"]) == {"train"}  # ImageNet's protocol draws no validation images


def test_the_order_of_creation_does_not_matter(tmp_path: Path) -> None:
    one = read("imagenet", imagenet(tmp_path / "one"))
    two = read("imagenet", imagenet(tmp_path / "two", WNIDS))
    assert one.samples.equals(two.samples)


def test_imagenet_v2_folders_are_numbers(tmp_path: Path) -> None:
    spec = dataset_spec("imagenet_v2")
    images = tmp_path / spec.folder / spec.images
    touch(images, "10/b.jpeg", "2/a.jpeg", "0/c.jpeg")
    (tmp_path / spec.folder / "classnames.txt").write_text(
        "\n".join(f"n{number:08d} name {number}" for number in range(11))
    )
    data = read("imagenet_v2", tmp_path)
    assert data.class_names == ["name 0", "name 2", "name 10"]
    assert data.samples.rows() == [
        ("0/c.jpeg", 0, "test"),
        ("2/a.jpeg", 1, "test"),
        ("10/b.jpeg", 2, "test"),
    ]
    touch(images, "n01440764/d.jpeg")
    assert "expected folders named 0, 1, 2" in refusal(read, "imagenet_v2", tmp_path)


@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_r", "imagenet_sketch"])
def test_a_variant_has_the_classes_it_has(tmp_path: Path, name: str) -> None:
    spec = dataset_spec(name)
    images = tmp_path / spec.folder / spec.images
    touch(images, "README.txt", *(f"{WNIDS[index]}/a.jpg" for index in (4, 3, 2)))
    imagenet(tmp_path)  # its list of names serves the variants as well
    data = read(name, tmp_path)
    # The other missile is not among these classes, both kinds of sunglasses are.
    assert data.class_names == ["missile", "sunglass", "sunglasses"]
    assert data.samples.rows() == [
        (f"{WNIDS[index]}/a.jpg", class_id, "test") for class_id, index in enumerate((2, 3, 4))
    ]


def test_what_is_missing_or_not_sorted_is_named(tmp_path: Path) -> None:
    root = imagenet(tmp_path)
    (root / "imagenet" / "classnames.txt").write_text("n01440764 tench\n")
    assert "no name for the class folder 'n03773504' (4 such folders)" in refusal(
        read, "imagenet", root
    )
    (root / "imagenet" / "classnames.txt").unlink()
    assert "looked for the class names" in refusal(read, "imagenet", root)
    val = root / "imagenet/images/val"
    for folder in list(val.iterdir()):
        for image in folder.iterdir():
            image.rename(val / image.name)
        folder.rmdir()
    assert f"{val}: no class folders" in refusal(read, "imagenet", root)
    val.rename(root / "imagenet/val")
    assert f"looked for the test folder {val}" in refusal(read, "imagenet", root)
