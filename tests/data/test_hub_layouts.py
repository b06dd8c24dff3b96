"""Data sets as Hugging Face's Hub and library write them: what is read of each, and what is not."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capt_core.data.images import open_image
from capt_core.data.parquet_images import read_row
from capt_core.data.readers import read_split
from capt_core.data.registry import dataset_spec
from capt_core.params import Data
from tests.data.own_images import photo_bytes, read_mine, write_images
from tests.refusals import refusal

BYTES = [photo_bytes(row) for row in range(4)]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NUMBERS = [1, 0, 1, 0]
IMAGE = {"_type": "Image"}
NAMED = {"image": IMAGE, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
UNFIT = {"_type": "ClassLabel", "names": ["\ud800", "b"]}
WHOLE: dict[str, object] = {"test_share": 0, "val_share": 0}
CARD = """---
license: mit
dataset_info:
- config_name: other
  features: [{name: label, dtype: {class_label: {names: {'0': x, '1': y}}}}]
- config_name: data
  features:
  - name: image
    dtype: image
  - name: label
    dtype: {class_label: {names: {'0': cat, '1': dog}}}
---
# Cats and dogs
"""


def structs(
    contents: Sequence[bytes | None], names: Sequence[str | None] | None = None
) -> pa.Array:
    paths = names or [f"{row}.png" for row in range(len(contents))]
    rows = [{"bytes": part, "path": name} for part, name in zip(contents, paths, strict=True)]
    return pa.array(rows, STRUCT)


def write(path: Path, features: dict[str, Any] | None = NAMED, **columns: pa.Array) -> None:
    """A table of four images; columns replace the usual ones, an empty one takes its place away."""
    cells = {"image": structs(BYTES), "label": pa.array(NUMBERS), **columns}
    table = pa.table({name: cell for name, cell in cells.items() if len(cell)})
    if features is not None:
        table = table.replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".arrow":
        with pa.ipc.new_stream(str(path), table.schema) as stream:
            stream.write_table(table, max_chunksize=3)
    else:
        pq.write_table(table, path, row_group_size=3)


def rows(root: Path, **settings: object) -> list[tuple[str, str, str]]:
    data = read_mine(root, **{**WHOLE, **settings})
    return [(path, data.class_names[label], split) for path, label, split in data.samples.rows()]


def of_file(
    file: str, split: str = "train", labels: Sequence[str] = ("dog", "cat") * 2
) -> list[Any]:
    return [(f"{file}/{row:08d}", label, split) for row, label in enumerate(labels)]


@pytest.mark.parametrize(
    "files",
    [
        {"default/train/0000.parquet": "train", "default/test/0000.parquet": "test"},
        {"plain_text/train-00000-of-00001.parquet": "train", "plain_text/test.parquet": "test"},
        {"default/partial-train/0000.parquet": "train", "default/partial-test/0.parquet": "test"},
        {
            "data/train-00000-of-00002.parquet": "train",
            "data/train-00001-of-00002.parquet": "train",
        },
        {"train/0000.parquet": "train", "validation/0000.parquet": "val"},
        {"TRAIN.PARQUET": "train", "Test.Parquet": "test", "dev.parquet": "val"},
        {"0000.parquet": "train", "0001.parquet": "train"},
        {"train/data-00000-of-00001.arrow": "train", "test/data-00000-of-00001.arrow": "test"},
        {"data-00000-of-00002.arrow": "train", "data-00001-of-00002.arrow": "train"},
        {"pets/x/0.0.0/ab/pets-train.arrow": "train", "pets/x/0.0.0/ab/pets-test.arrow": "test"},
    ],
)
def test_what_the_hub_writes_is_read(tmp_path: Path, files: dict[str, str]) -> None:
    for file in files:
        write(tmp_path / file)
        (tmp_path / file).with_name("dataset_info.json").write_text("{}")
    (tmp_path / "README.md").write_text("# A data set")
    expected = [row for file, split in files.items() for row in of_file(file, split)]
    assert sorted(rows(tmp_path)) == sorted(expected)
    first = next(iter(files))
    assert [read_row(tmp_path / f"{first}/{row:08d}") for row in (3, 0)] == [BYTES[3], BYTES[0]]


@pytest.mark.parametrize("name", ["default/train/0000.parquet", "train/data-00000-of-00001.arrow"])
def test_tables_are_named_where_class_folders_were_asked_for(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    message = refusal(rows, tmp_path, layout="class_folders")
    assert (
        f"tables that hold images ({name}, ...); read them with --set data.layout=auto" in message
    )
    assert rows(tmp_path, layout="auto") == of_file(name)


def test_several_configs_are_named(tmp_path: Path) -> None:
    for config in ("fine", "coarse"):
        write(tmp_path / config / "train-00000-of-00001.parquet")
    message = refusal(rows, tmp_path)
    assert f"(coarse, fine); choose one with --set data.root={tmp_path}/coarse" in message
    assert rows(tmp_path / "coarse") == of_file("train-00000-of-00001.parquet")


def test_image_files_beside_tables_of_images_are_not_passed_over(tmp_path: Path) -> None:
    paths = write_images(tmp_path, ["cat/0.png", "dog/0.png"])
    write(paths / "export" / "all.parquet")
    message = refusal(rows, tmp_path)
    assert "--set" not in message.split("; ")[0]
    assert "data.layout=class_folders" in message
    assert rows(tmp_path, table="export/all.parquet") == of_file("export/all.parquet")


@pytest.mark.parametrize(
    ("columns", "settings", "labels"),
    [
        ({"label": pa.array([1.0, 0.0, 1.0, 0.0])}, {}, ["dog", "cat"] * 2),
        ({"label": pa.array(["1", "cat", " dog", "0"])}, {}, ["dog", "cat"] * 2),
        ({"label": pa.array([[1], [0], [1], [0]])}, {}, ["dog", "cat"] * 2),
        ({"label": pa.array(["dog", "cat"] * 2).dictionary_encode()}, {}, ["dog", "cat"] * 2),
        ({"label": pa.array(["dog", "cat"] * 2, pa.large_string())}, {}, ["dog", "cat"] * 2),
        ({"image": pa.array(BYTES)}, {}, ["dog", "cat"] * 2),
        ({"image": pa.array(BYTES, pa.large_binary())}, {}, ["dog", "cat"] * 2),
        ({"image": pa.array(BYTES).dictionary_encode()}, {}, ["dog", "cat"] * 2),
        ({"kind": pa.array(["x", "y"] * 2)}, {"label_column": "Kind"}, ["x", "y"] * 2),
    ],
)
def test_columns_of_other_types(
    tmp_path: Path, columns: dict[str, pa.Array], settings: dict[str, str], labels: list[str]
) -> None:
    write(tmp_path / "all.parquet", **columns)
    assert rows(tmp_path, **settings) == of_file("all.parquet", labels=labels)
    assert read_row(tmp_path / "all.parquet/00000003") == BYTES[3]


@pytest.mark.parametrize(
    ("columns", "labels"),
    [
        ({"label": pa.array([10.0, 5.0] * 2)}, ["10", "5"] * 2),
        ({"class_name": pa.array(["oak", "elm"] * 2)}, ["oak", "elm"] * 2),
        ({"label": pa.array([[7], [3], [7], [3]])}, ["7", "3"] * 2),
    ],
)
def test_labels_without_names(
    tmp_path: Path, columns: dict[str, pa.Array], labels: list[str]
) -> None:
    write(tmp_path / "all.parquet", None, **columns)
    assert rows(tmp_path) == of_file("all.parquet", labels=labels)


def test_a_setting_chooses_between_columns(tmp_path: Path) -> None:
    two = {
        "fine_label": NAMED["label"],
        "coarse_label": {"_type": "ClassLabel", "names": ["x", "y"]},
    }
    masks = structs([photo_bytes(row + 10) for row in range(4)])
    numbers = pa.array(NUMBERS)
    none = pa.array([], pa.int64())
    write(
        tmp_path / "t.parquet",
        two,
        label=none,
        fine_label=numbers,
        coarse_label=numbers,
        mask=masks,
    )
    message = refusal(rows, tmp_path)
    assert message.endswith(
        "columns image, mask hold images; choose one with --set data.image_column=image"
    )
    message = refusal(rows, tmp_path, image_column="mask")
    assert message.endswith(
        "coarse_label hold labels; choose one with --set data.label_column=fine_label"
    )
    found = rows(tmp_path, image_column="mask", label_column="coarse_label")
    assert found == of_file("t.parquet/mask", labels=["y", "x"] * 2)
    assert read_row(tmp_path / found[2][0]) == photo_bytes(12)
    assert "not the bytes of images" in refusal(
        rows, tmp_path, layout="image_table", image_column="fine_label"
    )


@pytest.mark.parametrize(
    ("file", "content", "note"),
    [
        ("README.md", CARD, "README.md"),
        ("README.md", f"\ufeff{CARD}", "README.md"),
        ("dataset_info.json", json.dumps({"features": NAMED}), "dataset_info.json"),
        ("dataset_infos.json", json.dumps({"data": {"features": NAMED}}), "dataset_infos.json"),
        ("data/dataset_info.json", json.dumps({"features": NAMED}), "data/dataset_info.json"),
    ],
)
def test_names_of_numbers_may_stand_beside_the_table(
    tmp_path: Path, file: str, content: str, note: str
) -> None:
    write(tmp_path / "data/train-00000-of-00001.parquet", None)
    (tmp_path / file).write_text(content, encoding="utf-8")
    assert rows(tmp_path) == of_file("data/train-00000-of-00001.parquet")
    assert f"names of the classes are taken from {tmp_path / note}" in read_mine(tmp_path).notes


@pytest.mark.parametrize(
    "card",
    [
        "---\n[",
        "---\ndataset_info: 3\n---\n",
        "---\ndataset_info: [1, {features: {a: b}}]\n---\n",
        "---\na: !!python/object/apply:os.system [exit]\n---\n",
        "[" * 20_000,
        json.dumps({"features": {"label": UNFIT}}),
    ],
)
def test_a_card_of_another_content_is_passed_over(tmp_path: Path, card: str) -> None:
    write(tmp_path / "train.parquet", None)
    (tmp_path / "README.md").write_text(card)
    (tmp_path / "dataset_info.json").write_text(card)
    assert rows(tmp_path) == of_file("train.parquet", labels=["1", "0"] * 2)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": pa.array([[0, 1], [0], [1], [0]])}, "row 0: 2 labels (multi-label); an image"),
        (
            {"label": pa.array([0.5, 0, 1, 0])},
            "row 0: label 0.5 is neither text nor a whole number",
        ),
        ({"label": pa.array([0, 1, 2, 0])}, "row 2: label 2 is out of range: 2 names"),
        ({"label": pa.array(["cat", "dog", "owl", "cat"])}, "label 'owl' is none of its 2 names"),
        ({"label": pa.array([0, None, 1, 0])}, "'t.parquet/00000001' has no label"),
        ({"label": pa.array([{"a": 1}] * 4)}, "row 0: label {'a': 1} is neither text nor"),
        ({"label": pa.array([], pa.int64())}, "no column label"),
        (
            {"image": pa.array([base64.b64encode(part).decode() for part in BYTES])},
            "row 1: column 'image' holds the image as text",
        ),
        (
            {"image": pa.array(["ftp://x.org/a.png"] * 4)},
            "ftp://x.org/a.png: an address that is not read from a list",
        ),
        ({"image": pa.array([[[1, 2], [3, 4]]] * 4)}, "column 'image' holds a list, not a path"),
        (
            {"image": structs([None] * 4, ["/root/0.png"] * 4)},
            "'/root/0.png' leads out of the image",
        ),
        ({"image": structs([None] * 4, [None] * 4)}, "row 1: an empty path"),
        (
            {"image": pa.array([], pa.binary()), "blob": pa.array(BYTES)},
            "its columns are label, blob; name it with --set data.image_column=blob",
        ),
        ({"image": pa.array([], pa.binary()), "audio": structs(BYTES)}, "no column path"),
    ],
)
def test_what_is_no_table_of_images_is_refused(
    tmp_path: Path, columns: dict[str, pa.Array], message: str
) -> None:
    write(tmp_path / "t.parquet", {**NAMED, "audio": {"_type": "Audio"}}, **columns)
    refused = refusal(rows, tmp_path)
    assert message in refused
    assert len(refused) - len(str(tmp_path)) < 300


def test_bytes_in_a_column_of_any_name_once_it_is_named(tmp_path: Path) -> None:
    write(tmp_path / "t.parquet", image=pa.array([], pa.binary()), blob=pa.array(BYTES))
    assert rows(tmp_path, image_column="blob") == of_file("t.parquet/blob")


def test_a_column_is_named_as_a_shell_takes_it(tmp_path: Path) -> None:
    none = pa.array([], pa.binary())
    long = {"x" * 5000: pa.array(NUMBERS)}
    write(tmp_path / "t.parquet", image=none, **{"my 'blob'": pa.array(BYTES)}, **long)
    refused = refusal(rows, tmp_path)
    assert len(refused) - len(str(tmp_path)) < 400
    advice = refused.split("name it with --set ")[1].partition(", or use")[0]
    (setting,) = shlex.split(advice)
    assert setting == "data.image_column=my 'blob'"
    assert rows(tmp_path, image_column="my 'blob'") == of_file("t.parquet/my 'blob'")


def test_nested_columns_are_read_after_the_command_that_is_given(
    tmp_path: Path, run_advice: Callable[[str], None]
) -> None:
    inside = [{"image": part, "label": label} for part, label in zip(BYTES, "abab", strict=True)]
    none = pa.array([], pa.int64())
    write(tmp_path / "t.parquet", None, image=none, label=none, sample=pa.array(inside))
    run_advice(refusal(rows, tmp_path))
    assert rows(tmp_path) == of_file("t.parquet", labels="abab")


def test_rows_that_only_name_files(tmp_path: Path) -> None:
    names = [f"img/{row}.png" for row in range(4)]
    write_images(tmp_path, names)
    write(tmp_path / "t.parquet", image=structs([None] * 4, names))
    expected = [
        (name, label, "train") for name, label in zip(names, ["dog", "cat"] * 2, strict=True)
    ]
    assert rows(tmp_path) == expected
    # Bytes in some rows: the others' files are looked for below the table's folder, and only there.
    mixed = [*names[:2], "../0.png", "/etc/hostname"]
    write(tmp_path / "t.parquet", image=structs([BYTES[3], None, None, None], mixed))
    found = [tmp_path / path for path, _, _ in rows(tmp_path)]
    assert read_row(found[0]) == BYTES[3]
    assert read_row(found[1]) == BYTES[1]
    for path in found[2:]:
        with pytest.raises(OSError, match="names a file elsewhere"):
            read_row(path)
        assert "not a readable image (holds no bytes" in refusal(open_image, path)


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
def test_metadata_beside_the_images_of_each_split(tmp_path: Path, name: str) -> None:
    meant = [("train/0.png", "cat"), ("train/1.png", "dog"), ("test/2.png", "cat")]
    write_images(tmp_path, [path for path, _ in meant])
    for split in ("train", "test"):
        listed = [(path.split("/")[1], label) for path, label in meant if path.startswith(split)]
        if name.endswith("csv"):
            text = "file_name,label\n" + "\n".join(map(",".join, listed))
        else:
            keys = ("file_name", "label")
            text = "\n".join(json.dumps(dict(zip(keys, row, strict=True))) for row in listed)
        if name.endswith("parquet"):
            columns = {key: [row[at] for row in listed] for at, key in enumerate(keys)}
            pq.write_table(pa.table(columns), tmp_path / split / name)
        else:
            (tmp_path / split / name).write_text(text)
    assert rows(tmp_path) == [(path, label, path.split("/")[0]) for path, label in meant]


def test_metadata_without_labels_leaves_the_class_folders(tmp_path: Path) -> None:
    paths = [f"{split}/{label}/0.png" for split in ("train", "test") for label in ("cat", "dog")]
    write_images(tmp_path, paths)
    (tmp_path / "train/metadata.csv").write_text(
        "file_name,text\ncat/0.png,a cat\ndog/0.png,a dog\n"
    )
    found = [(path, path.split("/")[1], path.split("/")[0]) for path in paths]
    assert rows(tmp_path) == found


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "data/train.parquet",
            b"version https://git-lfs.github.com/spec/v1\n",
            "a Git LFS pointer",
        ),
        ("x/train.parquet", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("train.parquet", b"", "not a readable Parquet file"),
        ("train.arrow", b"", "not a readable Arrow file"),
        ("train.arrow", b"ARROW1\0\0and no more", "not a readable Arrow file"),
        ("train.arrow", b"\xff\xff\xff\xff\x10\0\0\0 and no more", "not a readable Arrow file"),
    ],
)
def test_a_file_without_its_content_is_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    assert f"{tmp_path / name}: {message}" in refusal(rows, tmp_path)


def test_hugging_faces_metadata_may_be_damaged(tmp_path: Path) -> None:
    unfit = json.dumps({"info": {"features": {"label": UNFIT}}})
    for damage in ("[" * 5000, "[1]", '{"info": 3}', unfit):
        table = pa.table({"image": BYTES, "label": NUMBERS})
        table = table.replace_schema_metadata({"huggingface": damage})
        pq.write_table(table, tmp_path / "t.parquet")
        assert "its Hugging Face metadata is not readable" in refusal(rows, tmp_path)


def test_metadata_within_a_folder_that_wraps_the_splits(tmp_path: Path) -> None:
    for part in ("train", "test"):
        names = [f"{side}/{row}.png" for side in ("left", "right") for row in range(2)]
        write_images(tmp_path / "data" / part, names)
        lines = [f"{name},{label}" for name, label in zip(names, "abab", strict=True)]
        (tmp_path / "data" / part / "metadata.csv").write_text(
            "\n".join(["file_name,label", *lines])
        )
    message = refusal(read_mine, tmp_path)
    assert "data/test/metadata.csv, data/train/metadata.csv lists the images" in message
    assert "--set data.layout=table or --set data.layout=split_folders" in message
    assert read_mine(tmp_path, layout="table").class_names == ["a", "b"]


def test_the_root_of_one_config_keeps_the_names_of_the_card_above(tmp_path: Path) -> None:
    for config in ("other", "pets"):
        write(tmp_path / config / "train-00000-of-00001.parquet", None)
    (tmp_path / "README.md").write_text(CARD.replace("config_name: data", "config_name: pets"))
    assert f"--set data.root={tmp_path / 'other'}" in refusal(read_mine, tmp_path)
    assert read_mine(tmp_path / "pets").class_names == ["cat", "dog"]
    assert read_mine(tmp_path / "other").class_names == ["x", "y"]


def test_class_folders_are_advised_only_where_images_are(tmp_path: Path) -> None:
    for part in ("train", "extra"):
        write(tmp_path / "data" / f"{part}-00000-of-00001.parquet")
    message = refusal(read_mine, tmp_path)
    assert "--set data.table=data/train-00000-of-00001.parquet, or move" in message
    assert "data.layout" not in message
    assert len(read_mine(tmp_path, table="data/train-00000-of-00001.parquet").samples) == 4


def test_tables_beside_the_folder_data_are_named(tmp_path: Path) -> None:
    for folder in ("raw", "data"):
        write(tmp_path / folder / "train-00000-of-00001.parquet")
    data = read_mine(tmp_path, **WHOLE)
    assert data.samples["path"].str.starts_with("data/").all()
    left = "left out: raw/train-00000-of-00001.parquet (data.table or data.root names it)"
    assert left in data.notes


@pytest.mark.parametrize("card", [True, False])
def test_names_of_another_config_are_not_taken(tmp_path: Path, card: bool) -> None:
    write(tmp_path / "third" / "train-00000-of-00001.parquet", None)
    features = {
        name: {"features": {"label": {"_type": "ClassLabel", "names": [name, "b"]}}}
        for name in "xy"
    }
    name, text = ("README.md", CARD) if card else ("dataset_infos.json", json.dumps(features))
    (tmp_path / name).write_text(text)
    assert read_mine(tmp_path).class_names == ["0", "1"]


def test_parts_that_are_missing_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train-00000-of-00003.parquet")
    write(tmp_path / "data" / "test-00000-of-00001.parquet")
    notes = [note for note in read_mine(tmp_path).notes if "missing" in note]
    assert notes == [
        f"{tmp_path}/data/train-*: 1 of 3 files are here; the images in the others are missing"
    ]


def test_what_datasets_keeps_beside_a_saved_table_is_no_table(tmp_path: Path) -> None:
    write(tmp_path / "data-00000-of-00001.arrow")
    write(tmp_path / "cache-0123abc.arrow")
    assert rows(tmp_path) == of_file("data-00000-of-00001.arrow")


def test_splits_and_roots_of_a_hub_data_set(tmp_path: Path) -> None:
    write(tmp_path / "data/default/train/0000.parquet")
    spec = dataset_spec("mine")
    for root in (tmp_path, tmp_path / "data", tmp_path / "data/default"):
        data, images = read_split(spec, Data(root=str(root), test_share=0, val_share=0))
        assert (
            images / data.samples["path"][0]
        ).parent == tmp_path / "data/default/train/0000.parquet"
