"""Comparing files with the split: every kind of trouble, and wrong layouts."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from capt_core.data.class_counts import ClassCount, class_counts, class_lines
from capt_core.data.inspection import Inspection, inspect_files, list_files
from capt_core.data.layout_hints import layout_hints
from capt_core.data.readers import read_split
from capt_core.data.registry import dataset_spec
from capt_core.diagnosis import check_files, files_summary
from capt_core.errors import CaptError
from capt_core.params import Data
from tests.data.own_images import dtd, photo_bytes, write_images


def inspect(root: Path, name: str = "dtd") -> Inspection:
    spec = dataset_spec(name)
    split, images = list_files(spec, Data(root=str(root)))
    return inspect_files(spec, split, images, "decode")


def found(inspection: Inspection) -> dict[str, list[str]]:
    rows = inspection.findings.group_by("kind", maintain_order=True).agg("path")
    return dict(rows.iter_rows())


def test_sound_files_give_nothing(tmp_path: Path) -> None:
    inspection = inspect(dtd(tmp_path))
    assert found(inspection) == {}
    assert not inspection.failed
    assert files_summary("dtd", inspection) == (
        "dtd: 12 of 12 images in 2 classes can be used; 1 note on the listing"
    )


def test_every_kind_of_trouble_is_found(tmp_path: Path) -> None:
    root = dtd(tmp_path)
    images = root / "dtd/images"
    (images / "banded/banded_0.jpg").unlink()
    (images / "banded/banded_1.jpg").write_bytes(b"")
    content = (images / "banded/banded_2.jpg").read_bytes()
    (images / "banded/banded_2.jpg").write_bytes(content[: len(content) // 2])
    Image.new("CMYK", (9, 9)).save(images / "banded/banded_3.jpg", "JPEG")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (9, 9), "red").save(images / "banded/banded_4.jpg", "JPEG", exif=exif)
    Image.new("P", (9, 9)).save(images / "banded/banded_5.jpg", "PNG")
    Image.new("I;16", (9, 9), 65535).save(images / "dotted/dotted_0.jpg", "PNG")
    Image.new("RGBA", (9, 9)).save(images / "dotted/dotted_1.jpg", "PNG")
    frames = [Image.new("L", (9, 9), shade) for shade in (0, 255)]
    frames[0].save(images / "dotted/dotted_2.jpg", "GIF", save_all=True, append_images=frames[1:])
    write_images(images, ["dotted/more.jpg"])
    (images / "dotted/dotted_4.jpg").write_bytes((images / "dotted/dotted_3.jpg").read_bytes())
    inspection = inspect(root)
    assert found(inspection) == {
        "missing": ["banded/banded_0.jpg"],
        "empty": ["banded/banded_1.jpg"],
        "unreadable": ["banded/banded_2.jpg"],
        "in two splits": ["dotted/dotted_3.jpg", "dotted/dotted_4.jpg"],
        "extra": ["dotted/more.jpg"],
        "EXIF-rotated": ["banded/banded_4.jpg"],
        "animated": ["dotted/dotted_2.jpg"],
        "transparent": ["dotted/dotted_1.jpg"],
        "CMYK": ["banded/banded_3.jpg"],
        "16-bit": ["dotted/dotted_0.jpg"],
        "palette": ["banded/banded_5.jpg", "dotted/dotted_2.jpg"],
    }
    assert inspection.failed
    summary = files_summary("dtd", inspection)
    assert summary.startswith("dtd: 9 of 12 images in 2 classes can be used; missing 1, empty 1, ")
    findings = {finding.check: finding for finding in check_files(inspection, SPEC, str(root))}
    assert findings["missing"].state == "fail"
    assert f"capt-stage fetch --dataset dtd --root {root}" in findings["missing"].remedy
    assert "same bytes as dotted/dotted_4.jpg (test)" in findings["in two splits"].detail
    assert findings["CMYK images"].state == "note"


SPEC = dataset_spec("dtd")


def test_a_class_that_lies_elsewhere_is_found_among_the_missing(tmp_path: Path) -> None:
    root = dtd(tmp_path)
    move(root, "dtd/images/banded", "more/banded")
    findings = {finding.check: finding for finding in check_files(inspect(root), SPEC, str(root))}
    assert findings["missing"].detail.startswith("6: banded/banded_0.jpg; ")
    assert findings["layout"].remedy.endswith(f"ln -s {root}/more/banded {root}/dtd/images/banded")


def test_the_same_bytes_in_one_split(tmp_path: Path) -> None:
    images = dtd(tmp_path) / "dtd/images"
    (images / "banded/banded_1.jpg").write_bytes((images / "banded/banded_0.jpg").read_bytes())
    (images / "dotted/dotted_2.jpg").write_bytes((images / "banded/banded_2.jpg").read_bytes())
    assert found(inspect(tmp_path)) == {
        "two labels": ["banded/banded_2.jpg", "dotted/dotted_2.jpg"],
        "twice": ["banded/banded_0.jpg", "banded/banded_1.jpg"],
    }


def test_what_the_split_repeats_is_listed(tmp_path: Path) -> None:
    path = dtd(tmp_path) / "dtd/split_zhou_DescribableTextures.json"
    path.write_text(path.read_text().replace("banded_1.jpg", "../../x.jpg"))
    inspection = inspect(tmp_path)
    assert found(inspection)["listing"] == ["banded/../../x.jpg"]
    assert inspection.failed


def remedies(root: Path, name: str = "dtd") -> list[str]:
    """Run the commands that the hints give; returns the problems they named."""
    hints = layout_hints(dataset_spec(name), root)
    for hint in hints:
        subprocess.run(hint.command, shell=True, check=True, cwd=root)
    return [hint.problem for hint in hints]


def move(root: Path, source: str, target: str) -> None:
    (root / target).parent.mkdir(parents=True, exist_ok=True)
    (root / source).rename(root / target)


@pytest.mark.parametrize(
    "moves",
    [
        [("dtd/images", "dtd/dtd/images")],  # torchvision's layout
        [("dtd", "data of mine/dtd-r1.0.1/dtd")],
        [("dtd/images", "Images")],
        [("dtd/images", "x"), ("x", "dtd/images/images")],
        [("dtd/split_zhou_DescribableTextures.json", "split_zhou_DescribableTextures.json")],
        [("dtd/images/banded", "more/banded")],
        [("dtd/images/banded", "dtd/banded"), ("dtd/images/dotted", "dtd/dotted")],
        [("dtd/images", "x"), ("x/banded", "dtd/banded"), ("x/dotted", "dtd/dotted")],
        [("dtd/images/banded", "dtd/images/Banded")],
        [("dtd/images/banded", "Images/Banded"), ("dtd/images/dotted", "Images/DOTTED")],
        [("dtd/images", "x"), ("x/banded", "banded"), ("x/dotted", "dotted")],
    ],
)
def test_a_wrong_layout_is_mended_by_the_command_given(
    tmp_path: Path, moves: list[tuple[str, str]]
) -> None:
    root = dtd(tmp_path)
    for source, target in moves:
        move(root, source, target)
    assert remedies(root)
    assert found(inspect(root)) == {}
    inside = [path for path in root.rglob("*") if path.is_symlink()]
    assert not any(path.resolve() in path.parents for path in inside), "a link makes a loop"


def test_a_damaged_split_file_is_got_anew(tmp_path: Path) -> None:
    split = dtd(tmp_path) / "dtd" / str(SPEC.split)
    split.write_text(split.read_text()[:50])
    (hint,) = layout_hints(SPEC, tmp_path)
    assert hint.problem == f"{split} cannot be used"
    assert hint.command == (
        f"rm {split} && capt-stage fetch --dataset dtd --root {tmp_path} --only {SPEC.split}"
    )


def test_an_empty_image_folder_is_replaced(tmp_path: Path) -> None:
    root = dtd(tmp_path)
    move(root, "dtd/images", "elsewhere")
    (root / "dtd/images").mkdir()
    assert remedies(root) == [f"the images are in {root / 'elsewhere'}"]
    assert found(inspect(root)) == {}


def test_the_data_set_itself_as_root_is_mended(tmp_path: Path) -> None:
    root = dtd(tmp_path) / "dtd"
    assert remedies(root)
    assert found(inspect(root)) == {}


def test_folders_doubled_by_a_mirror_are_mended(tmp_path: Path) -> None:
    spec = dataset_spec("stanford_cars")
    paths = [f"cars_{part}/{index:05d}.jpg" for part in ("train", "test") for index in range(2)]
    rows = [[path, 0, "2012 Audi"] for path in paths]
    split = {"train": rows[:2], "val": [], "test": rows[2:]}
    write_images(tmp_path / spec.folder, [f"{path.split('/')[0]}/{path}" for path in paths])
    (tmp_path / spec.folder / str(spec.split)).write_text(json.dumps(split))
    assert len(remedies(tmp_path, "stanford_cars")) == 2
    assert found(inspect(tmp_path, "stanford_cars")) == {}


def test_what_cannot_be_mended_by_a_link_names_fetch(tmp_path: Path) -> None:
    root = dtd(tmp_path)
    images = root / "dtd/images"
    for path in list(images.rglob("*.jpg")):
        path.rename(images / path.name)
    (hint,) = layout_hints(SPEC, root)
    assert "without their class folders" in hint.problem
    assert "capt-stage fetch --dataset dtd" in hint.command
    (root / "dtd" / str(SPEC.split)).unlink()
    (hint,) = layout_hints(SPEC, root)
    assert hint.command.endswith(f"--only {SPEC.split}")


def test_the_lists_of_aircraft_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "fgvc-aircraft-2013b/data"
    write_images(folder, [f"images/{index}.jpg" for index in range(3)])
    (folder / "variants.txt").write_text("A300\n")
    for index, part in enumerate(("train", "val", "test")):
        (folder / f"images_variant_{part}.txt").write_text(f"{index} A300\n")
    assert remedies(tmp_path, "fgvc_aircraft")
    assert found(inspect(tmp_path, "fgvc_aircraft")) == {}


def test_imagenet_as_it_is_unpacked_elsewhere(tmp_path: Path) -> None:
    kaggle = tmp_path / "ILSVRC/Data/CLS-LOC"
    write_images(kaggle, ["train/n01440764/a.JPEG", "val/ILSVRC2012_val_00000001.JPEG"])
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "imagenet/classnames.txt").write_text("n01440764 tench\n")
    train, val = layout_hints(dataset_spec("imagenet"), tmp_path)
    assert train.command == (
        f"mkdir -p {tmp_path}/imagenet/images && ln -s {kaggle}/train "
        f"{tmp_path}/imagenet/images/train"
    )
    assert "not sorted into class folders" in val.problem
    move(kaggle, "val/ILSVRC2012_val_00000001.JPEG", "val/n01440764/b.JPEG")
    assert len(remedies(tmp_path, "imagenet")) == 2
    assert len(read_split(dataset_spec("imagenet"), Data(root=str(tmp_path)))[0].samples) == 2


@pytest.mark.parametrize("place", ["imagenet-sketch/sketch", "sketch", "x/y/z"])
def test_the_folder_of_a_variant_is_found(tmp_path: Path, place: str) -> None:
    write_images(tmp_path, [f"{place}/n01440764/a.JPEG"])
    (hint,) = layout_hints(dataset_spec("imagenet_sketch"), tmp_path)
    assert str(tmp_path / place) in hint.command
    assert remedies(tmp_path, "imagenet_sketch")
    assert (tmp_path / "imagenet-sketch/images/n01440764/a.JPEG").is_file()


def test_every_class_is_listed_as_spoken_with_its_images(tmp_path: Path) -> None:
    names = {"001.Black_footed_Albatross": 3, "x" * 60: 2, "owl": 4}
    paths = [f"train/{name}/{index}.png" for name, n in names.items() for index in range(n)]
    write_images(tmp_path, [*paths, "test/owl/9.png", "val/owl/8.png"])
    split, _ = list_files(dataset_spec("mine"), Data(root=str(tmp_path)))
    counted = class_counts(split, ["base", "base", "novel"])
    assert counted[1] == ClassCount(1, "owl", "base", train=4, val=1, test=1)
    assert [line.split() for line in class_lines(counted)] == [
        ["id", "class", "train", "val", "test", "group"],
        ["0", "Black", "footed", "Albatross", "3", "0", "0", "base"],
        ["1", "owl", "4", "1", "1", "base"],
        ["2", "x" * 45 + "...", "2", "0", "0", "novel"],
    ]
    assert len({len(line.rstrip("abenoslvgrup")) for line in class_lines(counted)}) == 1
    assert list(class_lines([])) == []


def test_own_images_are_inspected_too(tmp_path: Path) -> None:
    write_images(tmp_path, [f"{name}/{index}.png" for name in ("a", "b") for index in range(4)])
    (tmp_path / "a/new\nline.png").write_bytes(photo_bytes(99))
    (tmp_path / "a/0.png").write_bytes(b"no image")
    write_images(tmp_path, ["beside.png", "lonely/9.png"])
    inspection = inspect(tmp_path, "mine")
    assert found(inspection) == {
        "listing": ["lonely/9.png"],
        "unreadable": ["a/0.png"],
        "extra": ["beside.png"],
    }
    for finding in check_files(inspection, dataset_spec("mine"), str(tmp_path)):
        assert "\n" not in finding.detail + finding.remedy
    with pytest.raises(CaptError):
        list_files(dataset_spec("mine"), Data(root=str(tmp_path / "nowhere")))
