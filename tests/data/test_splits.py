"""Split files: what is read from sound ones and how damaged ones are refused."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from capt_core.data.protocol import halves
from capt_core.data.readers import read_split
from capt_core.data.registry import DatasetSpec, dataset_spec
from capt_core.data.splits import prompt_name
from capt_core.params import Data
from tests.refusals import refusal

DTD = dataset_spec("dtd")


def sound() -> dict[str, Any]:
    return {
        "train": [["b/1.jpg", 1, "blotchy"], ["a/1.jpg", 0, "banded"], ["a/2.jpg", 0, "banded"]],
        "val": [["a/3.jpg", 0, "banded"]],
        "test": [["b/4.jpg", 1, "blotchy"], ["a/4.jpg", 0, "banded"]],
    }


def train(*rows: tuple[str, int, str]) -> dict[str, list[tuple[str, int, str]]]:
    """A split of training images alone."""
    return {"train": list(rows), "val": [], "test": []}


def lay_out(root: Path, document: object, spec: DatasetSpec = DTD) -> Path:
    """Write a data set's folders and its split file; returns the split file."""
    (root / spec.folder / spec.images).mkdir(parents=True, exist_ok=True)
    path = root / spec.folder / str(spec.split)
    if not isinstance(document, bytes):
        document = (document if isinstance(document, str) else json.dumps(document)).encode()
    path.write_bytes(document)
    return path


def split_refusal(root: str | Path | None, spec: DatasetSpec = DTD) -> str:
    return refusal(read_split, spec, Data(root=None if root is None else str(root)))


def test_samples_keep_the_order_of_the_file(tmp_path: Path) -> None:
    lay_out(tmp_path, sound())
    data, images = read_split(DTD, Data(root=str(tmp_path)))
    assert data.class_names == ["banded", "blotchy"]
    assert images == tmp_path / "dtd" / "images"
    assert data.samples.rows() == [
        ("b/1.jpg", 1, "train"),
        ("a/1.jpg", 0, "train"),
        ("a/2.jpg", 0, "train"),
        ("a/3.jpg", 0, "val"),
        ("b/4.jpg", 1, "test"),
        ("a/4.jpg", 0, "test"),
    ]


def test_the_root_may_name_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path / "data", sound())
    monkeypatch.setenv("HOME", str(tmp_path))
    data, _ = read_split(DTD, Data(root="~/data"))
    assert len(data.samples) == 6


# Start of the file's MD5; base and novel test images (method facts 4.3); label, path and class of
# the first one.
SPLIT_FILES = """
caltech101 385cabeb25eb 1549 916 0 Faces/image_0426.jpg face
dtd 02ff57f1bbd0 864 828 0 banded/banded_0060.jpg banded
eurosat 989e1eca757d 4200 3900 0 AnnualCrop/AnnualCrop_1048.jpg Annual Crop Land
flowers102 cfeaf0508c39 1053 1410 76 image_00172.jpg passion flower
oxford_pets fadad0caba06 1881 1788 0 Abyssinian_201.jpg abyssinian
stanford_cars 91255fab2e15 4002 4039 180 cars_test/00001.jpg 2007 Suzuki Aerio Sedan
ucf101 3a70ae2e4303 1934 1849 0 Apply_Eye_Makeup/v_ApplyEyeMakeup_g01_c01.jpg Apply_Eye_Makeup
"""


@pytest.mark.parametrize("facts", SPLIT_FILES.strip().splitlines(), ids=lambda f: f.split()[0])
def test_the_fields_split_files(shared: Path, tmp_path: Path, facts: str) -> None:
    name, md5, base, novel, label, path, class_name = facts.split(maxsplit=6)
    spec = dataset_spec(name)
    content = (shared / "data" / "splits" / str(spec.split)).read_bytes()
    assert hashlib.md5(content).hexdigest().startswith(md5)
    lay_out(tmp_path, content.decode(), spec)
    data, _ = read_split(spec, Data(root=str(tmp_path)))
    test = data.samples.filter(split="test").rows()
    assert test[0] == (path, int(label), "test")
    assert data.class_names[int(label)] == class_name
    groups = halves(len(data.class_names))
    counts = Counter(groups[class_id] for _, class_id, _ in test)
    assert (counts["base"], counts["novel"]) == (int(base), int(novel))


def test_the_first_half_rounded_up_is_base() -> None:
    for classes, base in ((1000, 500), (37, 19), (397, 199), (47, 24), (10, 5), (3, 2), (1, 1)):
        assert halves(classes) == ["base"] * base + ["novel"] * (classes - base)


def damaged(split: str, row: int, entry: object) -> dict[str, Any]:
    document = sound()
    document[split][row] = entry
    return document


@pytest.mark.parametrize(
    ("document", "where", "what"),
    [
        (damaged("train", 1, ["a.jpg", 0]), "train[1]", "expected [path, label, class name]"),
        (damaged("val", 0, "a.jpg 0 banded"), "val[0]", "expected [path, label, class name]"),
        (damaged("test", 1, ["a.jpg", "0", "banded"]), "test[1]", "expected [path, label"),
        (damaged("test", 1, ["a.jpg", 0.0, "banded"]), "test[1]", "expected [path, label"),
        (damaged("test", 1, ["a.jpg", True, "banded"]), "test[1]", "expected [path, label"),
        (damaged("test", 1, [7, 0, "banded"]), "test[1]", "expected [path, label"),
        (damaged("test", 1, ["a.jpg", 0, None]), "test[1]", "expected [path, label"),
        (damaged("test", 1, None), "test[1]", "found None"),
        (damaged("test", 1, {"path": "a.jpg"}), "test[1]", "expected [path, label"),
        (damaged("train", 2, ["a/2.jpg", 0, "braided"]), "train[2]", "'banded' before"),
        # This image would count as wrong whatever is predicted.
        (damaged("val", 0, ["b/9.jpg", 0, "blotchy"]), "val[0]", "blotchy"),
        (damaged("test", 0, ["b/9.jpg", 0, "blotchy"]), "test[0]", "blotchy"),
        (damaged("val", 0, ["c.jpg", 2, "braided"]), "val[0]", "label 2 (braided) has no training"),
        (damaged("test", 0, ["c.jpg", -1, "x"]), "test[0]", "label -1 (x) has no training"),
        (damaged("train", 0, ["c.jpg", 2, "braided"]), "test[0]", "label 1 (blotchy) has no train"),
    ],
)
def test_a_damaged_row_is_named(tmp_path: Path, document: object, where: str, what: str) -> None:
    path = lay_out(tmp_path, document)
    message = split_refusal(tmp_path)
    assert message.startswith(f"{path}: {where}")
    assert what in message


@pytest.mark.parametrize(
    ("split", "row", "path", "what"),
    [
        ("test", 0, "a/1.jpg", "'a/1.jpg' is listed a second time (first as train[1])"),
        ("test", 0, "a//1.jpg", "'a//1.jpg' is listed a second time (first as train[1])"),
        ("test", 0, "./a/1.jpg", "'./a/1.jpg' is listed a second time (first as train[1])"),
        ("train", 2, "a/1.jpg", "'a/1.jpg' is listed a second time (first as train[1])"),
        ("val", 0, "a/../../b.jpg", "the path 'a/../../b.jpg' leads out of the image folder"),
        ("val", 0, "/etc/passwd", "the path '/etc/passwd' leads out of the image folder"),
        ("val", 0, "", "an empty path"),
        ("val", 0, "a\0.jpg", "a path with a NUL character"),
        ("val", 0, "\ud800.jpg", "is not valid UTF-8"),
    ],
)
def test_a_path_that_cannot_be_is_refused_or_left_out(
    tmp_path: Path, split: str, row: int, path: str, what: str
) -> None:
    document = sound()
    document[split][row][0] = path
    file = lay_out(tmp_path, document)
    message = split_refusal(tmp_path)
    assert message.startswith(f"{file}: {split}[{row}]: ")
    assert what in message
    data, _ = read_split(DTD, Data(root=str(tmp_path), on_bad_image="quarantine"))
    assert len(data.samples) == 5
    assert data.rejected["split"].to_list() == [split]
    assert data.rejected["reason"][0] in message


@pytest.mark.parametrize(
    ("document", "what"),
    [
        *(({**sound(), split: None}, split) for split in ("train", "val", "test")),
        *(({**sound(), "val": value}, "val") for value in (3, True)),
        (b"\xff\xfe{}", "not UTF-8 text"),
        ("", "not valid JSON"),
        ('{"train": [', "not valid JSON"),
        ("[]", "expected the keys train, val and test"),
        ('{"train": [], "val": []}', "expected the keys train, val and test"),
        ('{"train": [], "val": [], "test": []}', "no classes found"),
        (train(("a.jpg", 0, "a"), ("c.jpg", 2, "c")), "run from 0 without gaps; 1 is missing"),
        (train(("a.jpg", 1, "a"), ("c.jpg", 2, "c")), "0 is missing"),
        (train(("a.jpg", -1, "a"), ("c.jpg", 0, "c")), "label -1 (a) is less"),
        (train(("a.jpg", 0, " ")), "class 0 has an empty name"),
        (train(("a.jpg", 0, "a b"), ("b.jpg", 1, "a b")), "classes 0 and 1 are both called 'a b'"),
        (train(("a.jpg", 0, "a_b"), ("b.jpg", 1, "a b")), "classes 0 and 1 are both called"),
        (train(("a.jpg", 0, "Tabby"), ("b.jpg", 1, "tabby")), "classes 0 and 1 are both called"),
    ],
)
def test_a_damaged_split_is_named(tmp_path: Path, document: object, what: str) -> None:
    path = lay_out(tmp_path, document)
    message = split_refusal(tmp_path)
    assert str(path) in message
    assert what in message


def test_no_root_says_what_to_set() -> None:
    message = split_refusal(None)
    assert "data.root is not set; give root=DIR" in message
    assert "dtd/" in message


def test_a_root_that_is_no_folder_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path / 'nowhere'} is not a folder" in split_refusal(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    assert "is not a folder" in split_refusal(tmp_path / "file")


def test_a_root_without_the_data_set_is_named(tmp_path: Path) -> None:
    message = split_refusal(tmp_path)
    assert str(tmp_path / "dtd") in message
    assert "the folder that holds dtd/" in message


def test_a_root_that_is_the_data_set_itself_is_corrected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path, sound())
    assert split_refusal(tmp_path / "dtd").endswith(f"use its parent: {tmp_path}")
    monkeypatch.chdir(tmp_path / "dtd")
    (hint,) = re.findall(r"use its parent: (.*)$", split_refusal("."))
    assert Path(hint).resolve() == tmp_path.resolve()
    # Under another name its parent would not do either; doctor prints the command that helps.
    (tmp_path / "dtd").rename(tmp_path / "textures")
    assert "capt-stage doctor --dataset dtd" in split_refusal(tmp_path / "textures")


def test_a_missing_part_of_the_layout_is_named(tmp_path: Path) -> None:
    split = lay_out(tmp_path, sound())
    (tmp_path / "dtd" / "images").rmdir()
    assert f"the image folder {tmp_path / 'dtd' / 'images'}" in split_refusal(tmp_path)
    split.unlink()
    assert f"the split file {split}" in split_refusal(tmp_path)


AIRCRAFT = dataset_spec("fgvc_aircraft")


def lay_out_aircraft(root: Path, **lists: str) -> Path:
    """FGVC-Aircraft with two variants; `lists` replaces files by name (without .txt)."""
    folder = root / "fgvc_aircraft"
    (folder / "images").mkdir(parents=True)
    files = {
        "variants": "Boeing 747-100\nA300B4\n",
        "images_variant_train": "0000001 A300B4\n0000002 Boeing 747-100\n",
        "images_variant_val": "0000003 Boeing 747-100\n",
        "images_variant_test": "0000004 A300B4\n",
        **lists,
    }
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_aircraft_lists_follow_the_order_of_the_variants(tmp_path: Path, mark: str) -> None:
    folder = lay_out_aircraft(tmp_path, variants=f"{mark}Boeing 747-100\nA300B4\n")
    data, images = read_split(AIRCRAFT, Data(root=str(tmp_path)))
    assert images == folder / "images"
    assert data.class_names == ["Boeing 747-100", "A300B4"]
    assert data.samples.rows() == [
        ("0000001.jpg", 1, "train"),
        ("0000002.jpg", 0, "train"),
        ("0000003.jpg", 0, "val"),
        ("0000004.jpg", 1, "test"),
    ]


@pytest.mark.parametrize(
    ("lists", "what"),
    [
        (
            {"images_variant_val": "0000003 Concorde\n"},
            "images_variant_val.txt: line 1: 'Concorde'",
        ),
        ({"images_variant_test": "0000004 A300B4\n\n"}, "images_variant_test.txt: line 2: ''"),
        ({"images_variant_train": "0000001 A300B4\n"}, "class 0 (Boeing 747-100) has no training"),
        ({"variants": "A300B4\nA300B4\nBoeing 747-100\n"}, "classes 0 and 1 are both called"),
        ({"variants": "", "images_variant_train": ""}, "is not in variants.txt"),
    ],
)
def test_damaged_aircraft_lists_are_named(tmp_path: Path, lists: dict[str, str], what: str) -> None:
    lay_out_aircraft(tmp_path, **lists)
    assert what in split_refusal(tmp_path, AIRCRAFT)


def test_a_missing_aircraft_list_is_named(tmp_path: Path) -> None:
    folder = lay_out_aircraft(tmp_path)
    (folder / "images_variant_val.txt").unlink()
    assert f"{folder / 'images_variant_val.txt'}: cannot be read (No such file" in split_refusal(
        tmp_path, AIRCRAFT
    )


def test_underscores_become_spaces_in_prompts() -> None:
    assert prompt_name("Apply_Eye_Makeup") == "Apply Eye Makeup"
    assert prompt_name("Annual Crop Land") == "Annual Crop Land"
