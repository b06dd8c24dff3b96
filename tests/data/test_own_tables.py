"""The user's own images in tables: CSV, Parquet, images inside Parquet, a split file."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from capt_core.data import column_files, parquet_images
from capt_core.data.image_checks import check_image
from capt_core.data.images import open_image
from capt_core.data.readers import read_split
from capt_core.data.registry import dataset_spec
from capt_core.params import Data
from tests.data.own_images import (
    hugging_face_table,
    photo_bytes,
    read_mine,
    split_of,
    write_images,
)
from tests.refusals import refusal

PATHS = [f"images/{name}_{index}.png" for name in ("bolt", "screw") for index in range(4)]
LABELS = ["bolt"] * 4 + ["screw"] * 4
SPLITS = ["train", "Train", "valid", "test"] * 2
MEANT = dict(zip(PATHS, ["train", "train", "val", "test"] * 2, strict=True))


def table(**columns: list[str]) -> pl.DataFrame:
    return pl.DataFrame({"path": PATHS, "label": LABELS, **columns})


@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv", "labels.parquet"])
def test_a_table_beside_the_images(tmp_path: Path, name: str) -> None:
    write_images(tmp_path, PATHS)
    frame = table(split=SPLITS)
    if name.endswith(".parquet"):
        frame.write_parquet(tmp_path / name)
    else:
        frame.write_csv(tmp_path / name, separator="\t" if name.endswith("tsv") else ",")
    for root in (tmp_path, tmp_path / name):
        data = read_mine(root)
        assert data.class_names == ["bolt", "screw"]
        assert split_of(data) == MEANT
    spec = dataset_spec("mine")
    assert read_split(spec, Data(root=str(tmp_path / name)))[1] == tmp_path


def test_other_column_names_absolute_paths_and_numbers(tmp_path: Path) -> None:
    write_images(tmp_path, PATHS)
    frame = pl.DataFrame(
        {
            "File_Name": [str(tmp_path / PATHS[0]), f"./{PATHS[1]}", *PATHS[2:]],
            "Class": [10] * 4 + [9] * 4,
        }
    )
    frame.write_csv(tmp_path / "labels.csv")
    data = read_mine(tmp_path)
    assert data.class_names == ["9", "10"]
    assert set(data.samples["path"]) == set(PATHS)


def test_a_table_as_spreadsheets_save_it(tmp_path: Path) -> None:
    lines = ["Path;Label", *(f"{path};{label}" for path, label in zip(PATHS, LABELS, strict=True))]
    (tmp_path / "labels.csv").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    assert set(split_of(read_mine(tmp_path))) == set(PATHS)


def test_a_table_from_windows(tmp_path: Path) -> None:
    write_images(tmp_path, ["img/a 1.png", "img/b.png", "odd\\name.png"])
    names = ["img\\a 1.png", "img\\b.png", "odd\\name.png"]
    table(path=names, label=["x", "x", "x"]).write_csv(tmp_path / "t.csv")
    samples = read_mine(tmp_path).samples
    assert sorted(samples["path"]) == ["img/a 1.png", "img/b.png", "odd\\name.png"]
    (tmp_path / "t.csv").write_bytes("path,label\nimg/a 1.png,\xe9crou".encode("latin-1"))
    assert "save it as UTF-8" in refusal(read_mine, tmp_path)


@pytest.mark.parametrize("again", ["img//a.png", "img/./a.png", "./img/a.png"])
def test_one_file_spelled_twice_is_listed_twice(tmp_path: Path, again: str) -> None:
    write_images(tmp_path, ["img/a.png", "img/b.png"])
    names = ["img/a.png", "img/b.png", again]
    table(path=names, label=["x", "x", "x"]).write_csv(tmp_path / "t.csv")
    assert "'img/a.png' is listed a second time" in refusal(read_mine, tmp_path)


@pytest.mark.parametrize(
    ("file", "prefix"),
    [
        ("data/labels.csv", "images/"),
        ("labels.csv", ""),
        ("images/labels.csv", ""),
        ("lists/labels.csv", "../images/"),
        ("lists/labels.csv", "images/"),
        ("lists/labels.csv", ""),
    ],
)
def test_paths_relative_to_the_root_or_to_an_image_folder(
    tmp_path: Path, file: str, prefix: str
) -> None:
    write_images(tmp_path, PATHS)
    write_images(tmp_path, [path.replace("images/", "overlays/") for path in PATHS])
    names = [prefix + path.removeprefix("images/") for path in PATHS]
    (tmp_path / file).parent.mkdir(exist_ok=True)
    pl.DataFrame({"path": names, "label": LABELS}).write_csv(tmp_path / file)
    data = read_mine(tmp_path, table=file)
    assert sorted(split_of(data)) == PATHS
    moved = any("are relative to" in note for note in data.notes)
    assert moved == (file != "images/labels.csv" and not prefix.startswith("../"))


def test_paths_that_two_folders_hold_are_not_guessed(tmp_path: Path) -> None:
    for folder in ("large", "small"):
        write_images(tmp_path, [path.replace("images", folder) for path in PATHS])
    names = [path.removeprefix("images/") for path in PATHS]
    pl.DataFrame({"path": names, "label": LABELS}).write_csv(tmp_path / "labels.csv")
    assert sorted(split_of(read_mine(tmp_path, table="labels.csv"))) == names
    (tmp_path / "labels.csv").rename(tmp_path / "train.csv")
    (tmp_path / "large").rename(tmp_path / "train_images")
    found = split_of(read_mine(tmp_path, table="train.csv"))
    assert sorted(found) == [f"train_images/{name}" for name in names]


def test_a_table_in_a_folder_that_is_not_looked_into_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, PATHS)
    (tmp_path / "my lists").mkdir()
    table().write_csv(tmp_path / "my lists" / "labels.csv")
    assert "; to read a table, --set 'data.table=my lists/labels.csv'" in refusal(
        read_mine, tmp_path
    )
    assert sorted(split_of(read_mine(tmp_path, table="my lists/labels.csv"))) == PATHS


@pytest.mark.parametrize("header", ["Image Path,Class-Name", "imagePath,LABELS", "img,label_text"])
def test_columns_are_known_whatever_separates_their_words(tmp_path: Path, header: str) -> None:
    write_images(tmp_path, PATHS)
    lines = [f"{path},{label}" for path, label in zip(PATHS, LABELS, strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join([header, *lines]))
    assert read_mine(tmp_path).class_names == ["bolt", "screw"]


def test_a_column_that_may_say_something_of_splits_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, PATHS)
    table(is_train=["1", "0"] * 4).write_csv(tmp_path / "labels.csv")
    note = "is_train: not read; splits are read from a column split"
    assert note in read_mine(tmp_path).notes
    table(is_train=["1", "0"] * 4, split=SPLITS).write_csv(tmp_path / "labels.csv")
    assert note not in read_mine(tmp_path).notes


def test_the_advice_about_a_table_beside_wrapped_class_folders_holds(tmp_path: Path) -> None:
    paths = [f"{name}/{row}.png" for name in "ab" for row in range(4)]
    write_images(tmp_path / "set", paths)
    lines = [f"{path},{'xy'[row % 2]}" for row, path in enumerate(paths)]
    (tmp_path / "set" / "labels.csv").write_text("\n".join(["path,label", *lines]))
    message = refusal(read_mine, tmp_path)
    assert "--set data.layout=table or --set data.layout=class_folders" in message
    assert read_mine(tmp_path, layout="table").class_names == ["x", "y"]
    assert read_mine(tmp_path, layout="class_folders").class_names == ["a", "b"]


def test_the_column_that_holds_paths_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, PATHS)
    table().rename({"path": "which one"}).write_csv(tmp_path / "labels.csv")
    assert "--set 'data.image_column=which one'" in refusal(read_mine, tmp_path)
    assert len(read_mine(tmp_path, image_column="which one").samples) == 8


def test_minus_one_beside_numbers_from_nought_is_no_class(tmp_path: Path) -> None:
    write_images(tmp_path, PATHS)
    numbers = ["0"] * 3 + ["1"] * 3 + ["-1"] * 2
    table().with_columns(label=pl.Series(numbers)).write_csv(tmp_path / "labels.csv")
    assert "labels.csv: line 8: label -1, as others begin at 0, is none" in refusal(
        read_mine, tmp_path
    )
    assert read_mine(tmp_path, on_bad_image="quarantine").class_names == ["0", "1"]
    signs = pl.Series(["1"] * 4 + ["-1"] * 4)
    table().with_columns(label=signs).write_csv(tmp_path / "labels.csv")
    assert read_mine(tmp_path).class_names == ["-1", "1"]


def test_tables_named_for_splits(tmp_path: Path) -> None:
    write_images(tmp_path, PATHS)
    frame = table().with_columns(part=pl.Series(SPLITS).str.to_lowercase())
    for (part,), rows in frame.group_by("part"):
        rows.drop("part").write_csv(tmp_path / f"{part}.csv")
    assert split_of(read_mine(tmp_path)) == MEANT
    (tmp_path / "notes.csv").write_text("x\n1\n")
    assert "left out: notes.csv (no list of images and labels)" in read_mine(tmp_path).notes
    (tmp_path / "notes.csv").write_text("path,label\na.png,a\n")
    assert "choose one with --set data.table=train.csv, " in refusal(read_mine, tmp_path)
    assert set(split_of(read_mine(tmp_path, table="train.csv"))) == {
        path for path, split in MEANT.items() if split == "train"
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\na.png,x\n", "no column path (or file, filename"),
        ("path,colour\na.png,x\n", "no column label (or class"),
        ("path,label,split\na.png,x,train\nb.png,x,oops\n", "line 3: column split holds 'oops'"),
        ("path,label\na.png,x\na.png,y\n", "line 3: 'a.png' is listed a second time"),
        ("path,label\n../a.png,x\nb.png,x\n", "'../a.png' leads out of the image folder"),
        ("path,label\n/etc/a.png,x\nb.png,x\n", "'/etc/a.png' leads out of the image folder"),
        ("path,label\n,x\nb.png,x\n", "line 2: an empty path"),
        ("path,label\na.png,\nb.png,x\n", "line 2: 'a.png' has no label"),
        ("path,label,split\na.png,x,test\n", "no training images"),
        ("path,label\n", "a table without rows"),
        ("", "an empty table; expected a header"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    refused = refusal(read_mine, tmp_path)
    assert message in refused
    assert "labels.csv" in refused


def test_rows_can_be_left_out(tmp_path: Path) -> None:
    rows = ["a.png,x", "b.png,x", "a.png,y", "../c.png,x", "d.png,", "e.png,x"]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]))
    data = read_mine(tmp_path, on_bad_image="quarantine")
    assert set(data.samples["path"]) == {"a.png", "b.png", "e.png"}
    assert data.rejected["path"].to_list() == ["a.png", "../c.png", "d.png"]


def test_a_table_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "labels.csv").write_text("path,label\na.png,x\n")
    refused = refusal(read_mine, tmp_path / "mine", table=str(tmp_path / "labels.csv"))
    assert "set data.root to a folder above both" in refused


def test_images_inside_parquet(tmp_path: Path) -> None:
    names = ["screw", "bolt"]
    hugging_face_table(tmp_path / "data/train-00000-of-00002.parquet", [0, 1, 0, 1, 1], names)
    hugging_face_table(tmp_path / "data/train-00001-of-00002.parquet", [1, 0], names)
    hugging_face_table(tmp_path / "data/test-00000-of-00001.parquet", [0, 1], names)
    data, root = read_split(dataset_spec("mine"), Data(root=str(tmp_path), val_share=0))
    assert data.class_names == names  # the order of the metadata
    assert data.samples.filter(split="test")["path"].to_list() == [
        "data/test-00000-of-00001.parquet/00000000",
        "data/test-00000-of-00001.parquet/00000001",
    ]
    train = data.samples.filter(split="train")
    assert train["class_id"].to_list() == [0, 1, 0, 1, 1, 1, 0]
    # Any order of reading gives each row's own image.
    paths = [root / path for path in train["path"]]
    for row in (4, 0, 3, 1, 2):
        check = check_image(paths[row], "decode")
        assert check.problem is None
        expected = tmp_path / "image.png"
        expected.write_bytes(photo_bytes(row))
        assert open_image(paths[row]).tobytes() == Image.open(expected).tobytes()
        assert check.digest == check_image(expected, "decode").digest
    assert check_image(paths[0].with_name("00000099"), "decode").problem == "missing"


def test_text_labels_bare_bytes_and_a_split_column(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "img": [photo_bytes(row) for row in range(4)],
            "label": ["b", "a", "b", "a"],
            "split": ["train", "train", "test", "validation"],
        }
    )
    frame.write_parquet(tmp_path / "all.parquet")
    data = read_mine(tmp_path / "all.parquet")
    assert data.class_names == ["a", "b"]
    assert list(split_of(data).values()) == ["train", "train", "val", "test"]


def test_labels_that_are_out_of_range_or_missing(tmp_path: Path) -> None:
    hugging_face_table(tmp_path / "all.parquet", [0, 1, 2, -1, 0, 1], ["a", "b"])
    assert "row 2: label 2 is out of range: 2 names" in refusal(read_mine, tmp_path)
    data = read_mine(tmp_path, on_bad_image="quarantine")
    assert len(data.samples) == 4
    assert data.rejected["reason"].to_list() == [
        "label 2 is out of range: 2 names",
        "'all.parquet/00000003' has no label",
    ]


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "all.parquet").write_bytes(b"PAR1 and no more")
    assert f"{tmp_path}/all.parquet: not a readable Parquet file" in refusal(read_mine, tmp_path)


def test_a_row_group_too_large_to_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = hugging_face_table(tmp_path / "all.parquet", [0, 1], ["a", "b"])
    monkeypatch.setattr(column_files, "LARGEST_GROUP", 100)
    assert "row_group_size=100" in refusal(check_image, path / "00000000", "decode")


def test_few_row_groups_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hugging_face_table(tmp_path / "all.parquet", [0] * 12, ["a"])
    monkeypatch.setattr(parquet_images, "KEPT_BYTES", 2000)
    for row in (0, 11, 3, 7, 0):
        assert parquet_images.read_row(path / f"{row:08d}") == photo_bytes(row)
        groups = parquet_images._READER._groups
        assert len(groups) == 1 or sum(group.nbytes for group in groups.values()) <= 2000


@pytest.mark.parametrize("below", ["", "pictures/"])
def test_a_split_file_of_the_fields_kind(tmp_path: Path, below: str) -> None:
    write_images(tmp_path, [f"{below}{path}" for path in PATHS])
    rows = [[path, int(label == "screw"), label] for path, label in zip(PATHS, LABELS, strict=True)]
    split = {"train": rows[::2], "val": [], "test": rows[1::2]}
    (tmp_path / "split_mine.json").write_text(json.dumps(split))
    data = read_mine(tmp_path)
    assert data.class_names == ["bolt", "screw"]
    assert set(data.samples["path"]) == {f"{below}{path}" for path in PATHS}
    for path in tmp_path.rglob("*.png"):
        path.unlink()
    assert "none of its first images" in refusal(read_mine, tmp_path)
