"""The user's own images in folders: layouts found, splits drawn, classes named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capt_core.data.drawing import cuts, draw_splits, place_of
from capt_core.data.readers.listing import listing_rows, sorted_labels
from tests.data.own_images import class_folders, read_mine, split_of, write_images
from tests.refusals import refusal


def test_a_folder_per_class_is_split_by_shares(tmp_path: Path) -> None:
    data = read_mine(class_folders(tmp_path, screw=30, bolt=40))
    assert data.class_names == ["bolt", "screw"]
    # Places below 0.3 to test, from 0.8 on to validation.
    for path, split in split_of(data).items():
        place = place_of(path, 0)
        assert split == ("test" if place < 0.3 else "val" if place >= 0.8 else "train")
    assert "data.split_seed=0" in " ".join(data.notes)
    order = data.samples["split"].to_list()
    assert order == sorted(order, key=["train", "val", "test"].index)


def test_the_seed_decides_the_draw_and_classes_do_not_influence_each_other(tmp_path: Path) -> None:
    one = split_of(read_mine(class_folders(tmp_path / "one", bolt=20, screw=20)))
    assert one == split_of(read_mine(tmp_path / "one"))
    assert one != split_of(read_mine(tmp_path / "one", split_seed=1))
    more = split_of(read_mine(class_folders(tmp_path / "two", bolt=20, nail=7, screw=20)))
    assert one == {path: split for path, split in more.items() if not path.startswith("nail")}


@pytest.mark.parametrize(
    ("places", "test_share", "val_share", "expected"),
    [
        ([0.1, 0.2, 0.35, 0.6, 0.9], 0.3, 0.2, (2, 4)),
        ([0.4, 0.5, 0.6, 0.7], 0.3, 0.2, (1, 3)),  # nobody's place is in test or val
        ([0.1, 0.2, 0.25], 0.3, 0.2, (1, 2)),  # everybody's is in test
        ([0.8, 0.9, 0.95], 0.3, 0.2, (1, 2)),  # everybody's is in val
        ([0.1, 0.2], 0.3, 0.2, (1, 2)),  # two images: test before val
        ([0.1], 0.3, 0.2, (0, 1)),  # one image: training
        ([0.1, 0.6, 0.7], 0.0, 0.2, (0, 2)),
        ([0.6, 0.7, 0.9], 0.3, 0.0, (1, 3)),
        ([], 0.3, 0.2, (0, 0)),
    ],
)
def test_cuts_worked_by_hand(
    places: list[float], test_share: float, val_share: float, expected: tuple[int, int]
) -> None:
    assert cuts(places, test_share, val_share) == expected


def drawn_split(paths: list[str]) -> dict[str, str]:
    rows = listing_rows(paths, ["c"] * len(paths), [None] * len(paths))
    drawn = draw_splits(rows, {"test": 0.3, "val": 0.2}, seed=0)
    return dict(drawn.select("path", "split").iter_rows())


@given(st.integers(25, 60), st.sets(st.integers(100, 10_000), max_size=30))
def test_further_images_leave_the_old_ones_in_their_splits(count: int, more: set[int]) -> None:
    # 25 images have one in each natural split; smaller classes may need one moved.
    old = [f"c/{index}.png" for index in range(count)]
    before = drawn_split(old)
    after = drawn_split([*(f"c/{index}.png" for index in more), *old])
    assert {path: after[path] for path in old} == before
    fewer = drawn_split(old[:25])
    assert fewer == {path: before[path] for path in old[:25]}


def test_another_share_or_a_test_split_that_comes_leaves_validation_as_it_is(
    tmp_path: Path,
) -> None:
    def validation(**shares: float) -> set[str]:
        return {
            path for path, part in split_of(read_mine(tmp_path, **shares)).items() if part == "val"
        }

    write_images(tmp_path, [f"train/{name}/{i}.png" for name in "ab" for i in range(30)])
    before = validation()
    assert validation(test_share=0.1) == before
    assert validation(val_share=0.3) > before
    write_images(tmp_path, [f"test/{name}/{i}.png" for name in "ab" for i in range(3)])
    assert validation() == before


def test_a_path_has_its_place_in_either_unicode_form() -> None:
    assert place_of("K\u00e4fer/1.png", 0) == place_of("Ka\u0308fer/1.png", 0)
    assert place_of("a", 0) != place_of("a", 1)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.floats(0, 0.6), st.floats(0, 0.39))
def test_every_class_has_an_image_in_every_split(
    sizes: list[int], test_share: float, val_share: float
) -> None:
    labels = [f"c{index}" for index, size in enumerate(sizes) for _ in range(size)]
    rows = listing_rows([str(row) for row in range(len(labels))], labels, [None] * len(labels))
    drawn = draw_splits(rows, {"test": test_share, "val": val_share}, seed=3)
    assert drawn.select("path", "label").equals(rows.select("path", "label"))
    for index, size in enumerate(sizes):
        found = drawn.filter(label=f"c{index}")["split"].to_list()
        assert found.count("train") >= 1
        assert (found.count("test") > 0) == (test_share > 0 and size > 1)
        left = size - 1 - (test_share > 0)
        assert (found.count("val") > 0) == (val_share > 0 and left > 0)


def test_split_folders_are_found_and_a_missing_split_is_drawn(tmp_path: Path) -> None:
    names = [
        f"{part}/{name}/{index}.png"
        for part in ("Train", "validation", "test")
        for name in ("bolt", "screw")
        for index in range(5)
    ]
    data = read_mine(write_images(tmp_path, names))
    assert not data.notes
    assert split_of(data) == {
        name: {"Train": "train", "validation": "val", "test": "test"}[name.split("/")[0]]
        for name in names
    }
    for path in (tmp_path / "validation").rglob("*.png"):
        path.unlink()
    for folder in ("validation/bolt", "validation/screw", "validation"):
        (tmp_path / folder).rmdir()
    fewer = split_of(read_mine(tmp_path))
    assert [split for path, split in fewer.items() if path.startswith("test")] == ["test"] * 10
    assert sorted(split for path, split in fewer.items() if path.startswith("Train")) == [
        *["train"] * (10 - sum(split == "val" for split in fewer.values())),
        *["val"] * sum(split == "val" for split in fewer.values()),
    ]


def test_a_class_called_train_is_a_class_among_others(tmp_path: Path) -> None:
    assert read_mine(class_folders(tmp_path, train=4, bus=4)).class_names == ["bus", "train"]


def test_folders_below_a_class_belong_to_it_and_links_are_followed(tmp_path: Path) -> None:
    write_images(tmp_path / "elsewhere", ["a/1.png", "a/deep/2.png", "a/3.png"])
    class_folders(tmp_path / "mine", bolt=3)
    (tmp_path / "mine" / "screw").symlink_to(tmp_path / "elsewhere" / "a")
    paths = set(split_of(read_mine(tmp_path / "mine")))
    assert {"screw/1.png", "screw/deep/2.png", "screw/3.png"} < paths


def test_other_files_are_told_and_hidden_ones_passed_over(tmp_path: Path) -> None:
    class_folders(tmp_path, bolt=3)
    for name in ("notes.txt", ".DS_Store", "._000.png", "Makefile"):
        (tmp_path / "bolt" / name).write_bytes(b"")
    data = read_mine(tmp_path)
    assert len(data.samples) == 3
    assert "2 files that are no images by their ending: .txt, no ending" in data.notes


def test_numbered_classes_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    assert sorted_labels(["10", "9", "2"]) == ["2", "9", "10"]
    assert sorted_labels(["10", "9", "x"]) == ["10", "9", "x"]
    assert sorted_labels(["010", "9"]) == ["010", "9"]
    assert read_mine(class_folders(tmp_path, **{"10": 2, "9": 2})).class_names == ["9", "10"]


CLASSES = """
template: a photo of a {}, a fastener.
names:
  hex_m8: hexagon bolt
  "0012": flanged nut
"""


def test_labels_are_read_as_they_are_written(tmp_path: Path) -> None:
    root = class_folders(tmp_path, **{"007": 3, "yes": 3, "1.0": 3, "2020-01-01": 3})
    (root / "classes.yaml").write_text("names: {007: bond, yes: no, 1.0: on, 2020-01-01: day}\n")
    assert read_mine(root).class_names == ["bond", "on", "day", "no"]
    (root / "classes.yaml").write_text("names:\n  yes: one\n  yes: two\n")
    assert "'yes' stands there twice" in refusal(read_mine, root)


def test_split_folders_without_class_folders_are_named(tmp_path: Path) -> None:
    root = write_images(tmp_path, ["train/1.png", "train/2.png", "test/1.png", "test/2.png"])
    assert "test, train hold no class folders" in refusal(read_mine, root)


def test_names_and_template_come_from_a_small_file(tmp_path: Path) -> None:
    root = class_folders(tmp_path, hex_m8=3, screw=3)
    class_folders(root, **{"0012": 3})
    (root / "classes.yaml").write_text(CLASSES)
    data = read_mine(root)
    assert data.class_names == ["flanged nut", "hexagon bolt", "screw"]
    assert data.template == "a photo of a {}, a fastener."
    (root / "other.yaml").write_text("names: {screw: wood screw}")
    assert read_mine(root, classes="other.yaml").class_names == ["0012", "hex_m8", "wood screw"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: {hex_m9: x}", "no class is labelled 'hex_m9'; did you mean 'hex_m8'?"),
        ("names: {hex_m8: '  '}", "names: hex_m8: expected a name"),
        ("names: {hex_m8: }", "names: hex_m8: expected a name"),
        ("names: {hex_m8: [a, b]}", "names: hex_m8: expected a name"),
        ("names: {hex_m8: Wood screw, screw: wood_screw}", "classes 0 and 1 are both called"),
        ("names: [a, b]", "expected lines of the form"),
        ("name: {hex_m8: x}", "expected the keys names and template"),
        ("template: a photo", "expected exactly one {}"),
        ("names: {", "not valid YAML"),
    ],
)
def test_a_wrong_class_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (class_folders(tmp_path, hex_m8=3, screw=3) / "classes.yaml").write_text(text)
    assert message in refusal(read_mine, tmp_path)


def test_a_class_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "data.classes: names.yaml" in refusal(
        read_mine, class_folders(tmp_path, a=3), classes="names.yaml"
    )


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["a.png", "b.png"], "put each into a folder named for its class"),
        (["bolt/notes.txt"], "no images found"),
        (["bolt/notes.txt", "nut/1.png", "nut/2.png"], "class 'bolt' has no images"),
        (["bolt/1.png", "bolt/2.png", "screw/1.png"], "class 'screw' has a single image"),
        (["hex_bolt/1.png", "hex_bolt/2.png", "Hex Bolt/1.png", "Hex Bolt/2.png"], "both called"),
        (
            ["cafe\u0301/1.png", "cafe\u0301/2.png", "caf\u00e9/1.png", "caf\u00e9/2.png"],
            "both called",
        ),
        (["train/a/1.png", "val/a/1.png", "valid/a/2.png"], "two folders stand for one split"),
    ],
)
def test_what_cannot_be_listed_is_refused(tmp_path: Path, paths: list[str], message: str) -> None:
    refused = refusal(read_mine, write_images(tmp_path / "mine", paths))
    assert message in refused
    assert str(tmp_path / "mine") in refused


def test_nothing_at_all_is_refused(tmp_path: Path) -> None:
    assert "neither class folders" in refusal(read_mine, tmp_path)
    missing = refusal(read_mine, tmp_path / "nowhere")
    assert "no such file or folder; give the folder of your images" in missing
    assert "neither a folder nor a file" in refusal(read_mine, Path("/dev/null"))
    (tmp_path / "list.txt").write_text("")
    assert "expected a folder, or a file ending in" in refusal(read_mine, tmp_path / "list.txt")


def test_too_small_classes_can_be_left_out(tmp_path: Path) -> None:
    write_images(tmp_path, ["bolt/1.png", "bolt/2.png", "screw/1.png"])
    (tmp_path / "empty").mkdir()
    data = read_mine(tmp_path, on_bad_image="quarantine")
    assert data.class_names == ["bolt"]
    assert data.rejected.select("path", "class_id", "class_name").rows() == [
        ("empty", None, "empty"),
        ("screw/1.png", None, "screw"),
    ]
