"""Which reading of the user's folders is taken, and that the line about it names the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from capt_core.data.readers.folder_names import split_word
from tests.data.own_images import counts, read_mine, split_of, write_images
from tests.refusals import refusal

CLASSES = ("cat", "dog", "owl")


def sorted_into(folder: str, count: int = 4) -> list[str]:
    prefix = f"{folder}/" if folder else ""
    return [f"{prefix}{name}/{index}.png" for name in CLASSES for index in range(count)]


def flat(folder: str, count: int = 5) -> list[str]:
    return [f"{folder}/{index}.png" for index in range(count)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Train", ("train", "")),
        ("TESTING", ("test", "")),
        ("val2017", ("val", "")),
        ("TrainImages", ("train", "")),
        ("test-set", ("test", "")),
        ("testset", ("test", "")),
        ("trainval", ("train", "")),
        ("train_val", ("train", "")),
        ("seg_train", ("train", "seg")),
        ("train_test", None),
        ("trained", None),
        ("latest", None),
        ("cat", None),
    ],
)
def test_split_names(name: str, expected: tuple[str, str] | None) -> None:
    assert split_word(name) == expected


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("Training", "Testing"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("train_images", "test_images"),
        ("images/train", "images/test"),
        ("trainval", "test"),
        ("training_set/training_set", "test_set/test_set"),
        ("archive/train", "archive/test1"),
    ],
)
@pytest.mark.parametrize("third", ["predict", "extra/extra", "zebra", "@eaDir"])
def test_a_third_folder_leaves_the_splits_what_they_are(
    tmp_path: Path, train: str, test: str, third: str
) -> None:
    top = Path(train).parts[0]
    beside = Path(top if top in ("images", "archive") else "", third)
    paths = [*sorted_into(train), *sorted_into(test), *flat(beside.as_posix())]
    data = read_mine(write_images(tmp_path, paths), val_share=0)
    assert data.class_names == list(CLASSES)
    found = split_of(data)
    assert set(found) == {*sorted_into(train), *sorted_into(test)}
    assert {path for path, split in found.items() if split == "test"} == set(sorted_into(test))
    notes = " ".join(data.notes)
    assert third.split("/")[0] in notes
    assert "left out" in notes


READ = [
    # paths, classes, what the notes say
    ([*sorted_into("train"), *flat("test")], CLASSES, "left out: test (5 images)"),
    ([*sorted_into("train"), *flat("test/test")], CLASSES, "left out: test (5 images)"),
    ([*sorted_into("train"), *flat("unlabeled")], CLASSES, "left out: unlabeled (5 images)"),
    ([*sorted_into(""), *flat("test")], CLASSES, "left out: test (5 images)"),
    ([*sorted_into(""), "1.png"], CLASSES, "left out: 1 image beside the folders"),
    ([*sorted_into("photos")], CLASSES, "read as class_folders: the 3 folders in"),
    ([*sorted_into("images"), *sorted_into("masks")], CLASSES, "left out: masks (12 images)"),
    ([*flat("bus"), *flat("car"), *flat("train")], ("bus", "car", "train"), "train: read as a"),
    ([*sorted_into(""), *flat("extra")], ("cat", "dog", "extra", "owl"), "mv "),
    ([*sorted_into("a"), *sorted_into("b")], ("a", "b"), "6 folders within class folders"),
    (
        [*sorted_into("train"), "test/Cat/1.png", "test/dog/1.png", "test/owl/1.png"],
        CLASSES,
        "1 class folders are spelled otherwise",
    ),
    ([*sorted_into("train"), "test/cat/1.png"], CLASSES, "2 of 3 classes have no test images"),
]


@pytest.mark.parametrize(("paths", "classes", "line"), READ)
def test_the_reading_taken_is_said(
    tmp_path: Path, paths: list[str], classes: tuple[str, ...], line: str
) -> None:
    data = read_mine(write_images(tmp_path, paths))
    assert tuple(data.class_names) == classes
    assert line in " ".join(data.notes)
    assert all(len(note) < 400 for note in data.notes)


@pytest.mark.parametrize(
    ("paths", "advice"),
    [
        ([*sorted_into("train"), *flat("bus")], "--set data.layout=split_folders reads train"),
        ([*sorted_into("train"), *sorted_into("bus")], "--set data.layout=split_folders"),
        ([*flat("train"), *flat("test"), *flat("predict")], "hold no class folders"),
        ([*sorted_into("val"), *sorted_into("test")], "no folder train"),
        ([*sorted_into(""), *sorted_into("val")], "no folder train"),
        ([*sorted_into("trainval"), *sorted_into("val")], "named for the validation images too"),
        ([f"{name}/{part}/1.png" for name in CLASSES for part in ("train", "test")], "data.root="),
        ([*flat("images"), *flat("masks")], "no names of classes"),
        ([*flat("valid"), *flat("invalid")], "may be a split or a class"),
    ],
)
def test_what_may_be_read_two_ways_asks_for_the_layout(
    tmp_path: Path, paths: list[str], advice: str
) -> None:
    message = refusal(read_mine, write_images(tmp_path, paths))
    assert advice in message
    assert "data.layout=class_folders" in message or "begin with _" in message


def test_the_layouts_that_advice_names_are_read(tmp_path: Path) -> None:
    write_images(tmp_path, [*sorted_into("train"), *flat("bus")])
    assert read_mine(tmp_path, layout="split_folders").class_names == list(CLASSES)
    assert read_mine(tmp_path, layout="class_folders").class_names == ["bus", "train"]


def rows(label: str | None = None, only: int | None = None) -> str:
    paths = sorted_into("")[:only]
    return "path,label\n" + "".join(
        f"{path},{label or path.split('/')[0]}{'' if label is None else index % 2}\n"
        for index, path in enumerate(paths)
    )


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("a,b\n1,2\n", "left out: notes.csv (no list of images and labels)"),
        ("", "left out: notes.csv (no list of images and labels)"),
        (rows("sharp", 5), "which lists 5 of the 12 images in the class folders"),
        (rows(only=5), "which lists 5 of the 12 images in the class folders"),
        (rows(), "read as table: notes.csv, which agrees with the class folders"),
    ],
)
def test_a_table_beside_class_folders(tmp_path: Path, table: str, line: str) -> None:
    write_images(tmp_path, sorted_into(""))
    (tmp_path / "notes.csv").write_text(table)
    data = read_mine(tmp_path)
    assert data.class_names == list(CLASSES)
    assert len(data.samples) == 12
    assert line in " ".join(data.notes)


def test_a_table_that_contradicts_the_folders_asks_for_the_layout(tmp_path: Path) -> None:
    write_images(tmp_path, sorted_into(""))
    (tmp_path / "notes.csv").write_text(rows("sharp"))
    message = refusal(read_mine, tmp_path)
    assert "--set data.layout=table or --set data.layout=class_folders" in message
    assert read_mine(tmp_path, layout="table").class_names == ["sharp0", "sharp1"]
    assert read_mine(tmp_path, layout="class_folders").class_names == list(CLASSES)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_split_file_beside_class_folders_is_read(tmp_path: Path, mark: str) -> None:
    write_images(tmp_path, sorted_into(""))
    entries = [[path, CLASSES.index(path[:3]), f"big {path[:3]}"] for path in sorted_into("")]
    split = {"train": entries[::2], "val": [], "test": entries[1::2]}
    (tmp_path / "split_mine.json").write_text(mark + json.dumps(split), encoding="utf-8")
    data = read_mine(tmp_path)
    assert data.class_names == ["big cat", "big dog", "big owl"]
    assert split_of(data) == {
        path: "test" if at % 2 else "train" for at, path in enumerate(sorted_into(""))
    }


def test_a_table_does_not_undo_the_splits_of_folders(tmp_path: Path) -> None:
    paths = [*sorted_into("train"), *sorted_into("test")]
    write_images(tmp_path, paths)
    lines = [f"{path},{path.split('/')[1]}\n" for path in paths]
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(lines))
    data = read_mine(tmp_path, val_share=0)
    assert {path.split("/")[0] for path, split in split_of(data).items() if split == "test"} == {
        "test"
    }
    assert "splits are the first folders of the paths" in " ".join(data.notes)


def test_folders_that_a_table_does_not_list_are_named(tmp_path: Path) -> None:
    write_images(tmp_path, [*flat("train", 6), *flat("test")])
    lines = [f"{path},{'a' if index % 2 else 'b'}\n" for index, path in enumerate(flat("train", 6))]
    (tmp_path / "train.csv").write_text("path,label\n" + "".join(lines))
    data = read_mine(tmp_path)
    assert len(data.samples) == 6
    assert "left out: test (5 images), of which the table lists nothing" in data.notes


SYSTEM = (
    *("@eaDir", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information"),
    *("lost+found", "__MACOSX", ".thumbnails", ".ipynb_checkpoints", ".git", "_unlabeled"),
)


def test_folders_of_the_system_are_no_classes_at_any_depth(tmp_path: Path) -> None:
    paths = [*sorted_into(""), *(path for name in SYSTEM for path in flat(name, 1))]
    paths += [f"cat/{name}/1.png" for name in SYSTEM] + ["cat/._0.png"]
    write_images(tmp_path, paths)
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini"):
        (tmp_path / "dog" / name).write_bytes(b"")
    data = read_mine(tmp_path)
    assert set(split_of(data)) == set(sorted_into(""))
    (note,) = [note for note in data.notes if note.startswith("left out")]
    assert note.startswith("left out: 22 folders of the system or of tools (")
    assert note.endswith("and 1 hidden files (._0.png)")


def test_folders_left_out_for_their_names_are_named_where_nothing_remains(tmp_path: Path) -> None:
    message = refusal(read_mine, write_images(tmp_path, [*flat("_cat"), *flat("@dog")]))
    assert "@dog, _cat: folders of the system and of tools are left out" in message


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("cat", "cat "), "both called 'cat'"),
        (("Ka\u0308fer", "K\u00e4fer"), "both called 'K\u00e4fer'"),
        (("\u200b", "dog"), "empty name"),
        (("001.Cat", "002.Cat"), "both called"),
    ],
)
def test_names_that_fall_together_are_refused(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    paths = [path for name in names for path in flat(name, 3)]
    assert message in refusal(read_mine, write_images(tmp_path, paths))


def test_one_class_in_two_unicode_forms_across_splits(tmp_path: Path) -> None:
    write_images(tmp_path, [*flat("train/Ka\u0308fer"), *flat("test/K\u00e4fer"), *flat("train/a")])
    data = read_mine(tmp_path, val_share=0)
    assert counts(data)["K\u00e4fer", "train"] == counts(data)["K\u00e4fer", "test"] == 5


def test_lists_and_files_in_other_unicode_forms(tmp_path: Path) -> None:
    on_disk = [f"img/Ka\u0308fer_{index}.png" for index in range(3)]
    write_images(tmp_path, [*on_disk, *flat("img", 3)])
    lines = [f"img/K\u00e4fer_{index}.png,K\u00e4fer\n" for index in range(3)]
    lines += [f"img/{index}.png,dog\n" for index in range(3)]
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(lines), encoding="utf-8")
    assert set(on_disk) < set(split_of(read_mine(tmp_path)))
    (tmp_path / "labels.csv").write_text(
        "path,label\n" + "".join(lines) + "img/Ka\u0308fer_0.png,K\u00e4fer\n", encoding="utf-8"
    )
    assert "line 8: 'img/Ka\u0308fer_0.png' is listed a second" in refusal(read_mine, tmp_path)


def test_a_list_of_either_unicode_form_has_one_class_and_one_draw(tmp_path: Path) -> None:
    write_images(tmp_path, [f"img/K\u00e4fer/{index}.png" for index in range(6)])
    write_images(tmp_path, flat("img/dog", 6))
    forms = ("K\u00e4fer", "Ka\u0308fer")
    lines = [f"img/K\u00e4fer/{index}.png,{forms[index % 2]}\n" for index in range(6)]
    lines += [f"img/dog/{index}.png,dog\n" for index in range(6)]
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(lines), encoding="utf-8")
    data = read_mine(tmp_path)
    assert data.class_names == [forms[0], "dog"] or data.class_names == ["dog", forms[0]]
    twice = "".join([*lines, *(line.replace(*forms) for line in lines[:6])])
    (tmp_path / "labels.csv").write_text("path,label\n" + twice, encoding="utf-8")
    assert split_of(read_mine(tmp_path, on_bad_image="quarantine")) == split_of(data)


def test_a_class_file_names_folders_in_either_unicode_form(tmp_path: Path) -> None:
    write_images(tmp_path, [*flat("Ka\u0308fer"), *flat("dog")])
    (tmp_path / "classes.yaml").write_text("names: {K\u00e4fer: beetle}", encoding="utf-8")
    assert read_mine(tmp_path).class_names == ["beetle", "dog"]
    (tmp_path / "classes.yaml").write_text(
        "names:\n  K\u00e4fer: a\n  Ka\u0308fer: b\n", encoding="utf-8"
    )
    assert "stands there twice" in refusal(read_mine, tmp_path)


def test_numbers_as_names_are_noted_with_the_file_that_names_them(tmp_path: Path) -> None:
    write_images(tmp_path, [path for name in ("0", "1", "n01440764") for path in flat(name)])
    (note,) = [note for note in read_mine(tmp_path).notes if "numbers or ids" in note]
    assert note.startswith("3 of 3 class names are numbers or ids (0, 1, n01440764)")
    assert f'{tmp_path / "classes.yaml"}, a line each: names: {{"0": NAME, ...}}' in note
    (tmp_path / "classes.yaml").write_text('names: {"0": cat, "1": dog, n01440764: tench}')
    assert not any("numbers or ids" in note for note in read_mine(tmp_path).notes)


def test_a_wrapped_data_set_beside_a_test_folder_is_named(tmp_path: Path) -> None:
    images = [f"photos/photos/{part}/{n}/1.png" for part in ("train", "valid") for n in "ab"]
    write_images(tmp_path, [*images, "test/test/1.png"])
    assert f"--set data.root={tmp_path}/photos/photos reads it alone" in refusal(
        read_mine, tmp_path
    )
