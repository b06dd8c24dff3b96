"""Layouts of other tools: each is named, and the command given makes a table that is read."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from capt_core.data import as_table
from tests.data.own_images import photo_bytes, read_mine, write_images
from tests.refusals import refusal

Advice = Callable[[str], None]
WHOLE: dict[str, object] = {"test_share": 0, "val_share": 0}


def rows(root: Path) -> list[tuple[str, str, str]]:
    data = read_mine(root, **WHOLE)
    return [(path, data.class_names[label], split) for path, label, split in data.samples.rows()]


def short(message: str, root: Path) -> bool:
    return len(message.replace(str(root), "")) < 460


def coco(files: list[str]) -> str:
    """Annotations: the first file a cat, the second a dog and a cat, the third two dogs."""
    boxes = [(1, 7), (2, 9), (2, 7), (3, 9), (3, 9)]
    return json.dumps(
        {
            "images": [{"id": at, "file_name": file} for at, file in enumerate(files, start=1)],
            "annotations": [{"image_id": image, "category_id": kind} for image, kind in boxes],
            "categories": [{"id": 7, "name": "cat, tabby"}, {"id": 9, "name": "dog"}],
        }
    )


@pytest.mark.parametrize(
    ("annotations", "folder", "listed", "mark"),
    [
        ("annotations/instances_train2017.json", "train2017/", "", ""),
        ("train/_annotations.coco.json", "train/", "", ""),
        ("result.json", "", "images/", "\ufeff"),
    ],
)
def test_coco(
    tmp_path: Path, run_advice: Advice, annotations: str, folder: str, listed: str, mark: str
) -> None:
    root = tmp_path / "my data"
    files = [f"{listed}{name}.png" for name in "abc"]
    write_images(root, [folder + file for file in files])
    (root / annotations).parent.mkdir(exist_ok=True)
    (root / annotations).write_text(mark + coco(files), encoding="utf-8")
    message = refusal(rows, root)
    assert f"{root}: COCO annotations ({annotations})" in message
    assert short(message, root)
    run_advice(message)
    assert rows(root) == [
        (folder + files[0], "cat, tabby", "train"),
        (folder + files[2], "dog", "train"),
    ]


@pytest.mark.parametrize("order", ["{kind}/{split}/{name}", "{split}/{kind}/{name}"])
def test_yolo(tmp_path: Path, run_advice: Advice, order: str) -> None:
    meant = {
        "train": {"a": "0 .1 .1", "b": "1 .2 .2\n1 .3 .3"},
        "val": {"c": "1 .1 .1", "d": "0\n1"},
    }
    for split, files in meant.items():
        for name, boxes in files.items():
            label = tmp_path / order.format(kind="labels", split=split, name=f"{name}.txt")
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(boxes)
            write_images(tmp_path, [order.format(kind="images", split=split, name=f"{name}.png")])
    (tmp_path / "data.yaml").write_text("names: {0: cat, 1: dog}\n")
    message = refusal(rows, tmp_path)
    assert "YOLO boxes" in message
    assert short(message, tmp_path)
    run_advice(message)
    expected = [("train", "a", "cat"), ("train", "b", "dog"), ("val", "c", "dog")]
    assert rows(tmp_path) == [
        (order.format(kind="images", split=split, name=f"{name}.png"), label, split)
        for split, name, label in expected
    ]


def test_pascal_voc(tmp_path: Path, run_advice: Advice) -> None:
    for name, kinds in {"a": ["cat"], "b": ["dog", "cat"], "c": ["dog", "dog"]}.items():
        write_images(tmp_path, [f"JPEGImages/{name}.png"])
        objects = "".join(f"<object><name>{kind}</name></object>" for kind in kinds)
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / f"Annotations/{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    message = refusal(rows, tmp_path)
    assert "Pascal VOC annotations" in message
    assert short(message, tmp_path)
    run_advice(message)
    expected = [("JPEGImages/a.png", "cat", "train"), ("JPEGImages/c.png", "dog", "train")]
    assert rows(tmp_path) == expected


@pytest.mark.parametrize(
    "labels",
    [
        {"classes": ["cat", "dog"], "labels": {"a": 0, "b": 1, "c": None}},
        {"classes": None, "labels": {"a": "cat", "b": "dog"}},
    ],
)
def test_fiftyone(tmp_path: Path, run_advice: Advice, labels: object) -> None:
    write_images(tmp_path, ["data/a.png", "data/b.png", "data/c.png"])
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    message = refusal(rows, tmp_path)
    assert "labels.json lists labels as FiftyOne exports them" in message
    assert short(message, tmp_path)
    run_advice(message)
    assert rows(tmp_path) == [("data/a.png", "cat", "train"), ("data/b.png", "dog", "train")]


@pytest.mark.parametrize(
    "document",
    [
        {"a.png": "cat", "b.png": "dog"},
        [{"path": "data/a.png", "label": "cat"}, {"path": "data/b.png", "label": "dog"}],
    ],
)
def test_labels_in_json(tmp_path: Path, run_advice: Advice, document: object) -> None:
    write_images(tmp_path, ["data/a.png", "data/b.png"])
    (tmp_path / "classes of it.json").write_text(json.dumps(document))
    message = refusal(rows, tmp_path)
    assert "classes of it.json lists" in message
    run_advice(message)
    assert rows(tmp_path) == [("data/a.png", "cat", "train"), ("data/b.png", "dog", "train")]


@pytest.mark.parametrize(("folder", "ending"), [("", ".cls"), ("shards/", ".txt")])
def test_web_dataset(tmp_path: Path, folder: str, ending: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    for shard, label in enumerate(("cat", "dog")):
        with tarfile.open(tmp_path / f"{folder}train-{shard:06d}.tar", "w") as archive:
            for key in (f"{shard}a", f"{shard}b"):
                image = photo_bytes(2 * shard + (key[1] == "b"))
                for name, content in ((".png", image), (ending, f"{label}\n".encode())):
                    member = tarfile.TarInfo(key + name)
                    member.size = len(content)
                    archive.addfile(member, BytesIO(content))
    assert rows(tmp_path) == [
        (f"{folder}train-000000.tar/0a.png", "cat", "train"),
        (f"{folder}train-000000.tar/0b.png", "cat", "train"),
        (f"{folder}train-000001.tar/1a.png", "dog", "train"),
        (f"{folder}train-000001.tar/1b.png", "dog", "train"),
    ]


def test_annotations_are_listed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ([], "usage: "),
        ([str(tmp_path / "none")], "not a folder"),
        (["~nobody-at-all/x"], "FOLDER: no such user's home folder"),
        (["x" * 300], "FOLDER: longer than a path can be"),
        ([str(tmp_path)], "no annotations of COCO, YOLO, Pascal VOC or FiftyOne were found"),
    ):
        assert as_table.main(arguments) == 2
        assert message in capsys.readouterr().err
    write_images(tmp_path, ["a.png", "b.png"])
    (tmp_path / "x.json").write_text(coco(["c.png", "a.png", "d.png"]).replace("9", "7"))
    assert as_table.main([str(tmp_path)]) == 0
    text = (tmp_path / "labels.csv").read_text()
    assert text == "path,label\nc.png,dog\na.png,dog\nd.png,dog\n"
    assert as_table.main([str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"x.json": coco(["a.png"]).replace("image_id", "imageid")}, "x.json: not COCO's keys"),
        ({"x.json": coco(["a.png"])}, "none gives an image exactly one class"),
        ({"JPEGImages/a.png": "", "Annotations/a.xml": "<a>"}, "a.xml: not readable as XML"),
        ({"images/a.png": "", "labels/a.txt": "0 1\n1 1"}, "none gives an image exactly one class"),
    ],
)
def test_annotations_that_cannot_be_listed(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    if "x.json" in files:
        (tmp_path / "x.json").write_text(files["x.json"].replace('"image_id": 1', '"image_id": 2'))
    assert message in refusal(as_table.write_labels, tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["labels.xlsx", "data/a.png"], "labels.xlsx is a spreadsheet; save it as CSV (labels.csv"),
        (["labels.ODS", "a.png"], "labels.ODS is a spreadsheet"),
        (["labels.csv.gz", "data/a.png"], "labels.csv.gz is a packed table; unpack it (labels.csv"),
        (["images.zip"], "images.zip is an archive; unpack it, then give data.root the folder"),
        (["part/images.tar.gz"], "part/images.tar.gz is an archive"),
        (["train.npz"], "train.npz holds arrays or records, not image files; save its images"),
        (["x/train.tfrecord-0", "x/data.mdb"], "x/data.mdb holds arrays or records"),
    ],
)
def test_what_is_no_list_and_no_image_is_named(
    tmp_path: Path, files: list[str], message: str
) -> None:
    write_images(tmp_path, files)
    assert f"{tmp_path}: {message}" in refusal(rows, tmp_path)


def test_a_text_list_beside_one_folder_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, ["data/a.png", "data/b.png"])
    (tmp_path / "labels.txt").write_text("a.png cat\nb.png dog\n")
    assert f"{tmp_path}: labels.txt lists images; save it as CSV" in refusal(rows, tmp_path)


def test_files_of_other_tools_beside_class_folders_are_passed_over(tmp_path: Path) -> None:
    paths = ["cat/a.png", "dog/b.png"]
    write_images(tmp_path, [*paths, "notes.xlsx", "images.zip", "features.npy"])
    (tmp_path / "classes.json").write_text('{"cat": 0}')
    assert rows(tmp_path) == [(path, path[:3], "train") for path in paths]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[" * 50_000, b'{"images": 3, "annotations": [], "categories": {}}', b"\xff"],
)
def test_json_of_any_content_beside_class_folders(tmp_path: Path, content: bytes) -> None:
    paths = ["cat/a.png", "dog/b.png"]
    write_images(tmp_path, paths)
    for name in ("notes.json", "data.yaml"):
        (tmp_path / name).write_bytes(content)
    assert rows(tmp_path) == [(path, path[:3], "train") for path in paths]
