"""What is classified: files, folders and tables, with what is wrong with each image."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from capt_core.data.image_lists import ImageList, list_images
from capt_core.data.images import read_image
from tests.data.own_images import class_folders
from tests.refusals import refusal


def paths(found: ImageList) -> list[str | None]:
    return [image.path for image in found.block(0, len(found))]


def test_files_and_folders_keep_their_order(tmp_path: Path) -> None:
    root = class_folders(tmp_path, bolt=2, nut=1)
    single = next(iter((root / "nut").iterdir()))
    found = list_images([single, root, single])
    below = sorted(str(path) for path in root.rglob("*") if path.is_file())
    assert paths(found) == [str(single), *below, str(single)]
    assert all(image.file == Path(str(image.path)) for image in found.block(0, 9))
    assert [image.path for image in found.block(1, 3)] == below[:2]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("column", ["path", "File Name"])
def test_paths_of_a_table_are_relative_to_it_or_to_the_root(
    ending: str, column: str, tmp_path: Path
) -> None:
    table, frame = tmp_path / f"list{ending}", pl.DataFrame({"n": [1, 2], column: ["a/b.jpg", "é"]})
    if ending == ".jsonl":
        frame.write_ndjson(table)
    elif ending == ".parquet":
        frame.write_parquet(table)
    else:
        frame.write_csv(table, separator="," if ending == ".csv" else "\t")
    found = list_images([table])
    assert paths(found) == ["a/b.jpg", "é"]
    assert found.block(0, 1)[0].file == tmp_path / "a/b.jpg"
    assert list_images([table], tmp_path / "x").block(0, 1)[0].file == tmp_path / "x/a/b.jpg"


def test_a_row_without_a_path_is_a_problem(tmp_path: Path) -> None:
    table = tmp_path / "list.parquet"
    pl.DataFrame({"path": ["a.jpg", None, " "]}).write_parquet(table)
    images = list_images([table]).block(0, 3)
    assert [image.problem for image in images] == [None, *["the row names no image"] * 2]
    assert images[1].path is None


def test_a_table_may_hold_its_images(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), (200, 0, 0)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    table = tmp_path / "held.parquet"
    pl.DataFrame({"image": [{"bytes": content, "path": "a.png"}] * 2}).write_parquet(table)
    found = list_images([table])
    assert paths(found) == [f"{table}/{row:08d}" for row in (0, 1)]
    assert read_image(found.block(1, 2)[0].file).getpixel((0, 0)) == (200, 0, 0)
    before = found.digest()
    os.utime(table, (1, 1))
    assert list_images([table]).digest() != before
    assert "--root: there is no table" in refusal(list_images, [table], tmp_path)
    two = tmp_path / "two.parquet"
    pl.DataFrame({"image": [content], "img": [content]}).write_parquet(two)
    assert "columns image, img hold images" in refusal(list_images, [two])


def test_names_that_are_no_text_are_problems(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(folder)
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    named = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    for given in ([named], [tmp_path]):
        images = list_images(given).block(0, 9)
        assert images[0].path == f"{tmp_path}/caf\\xe9.png"
        assert "not valid UTF-8" in str(images[0].problem)
    Image.new("RGB", (9, 9)).save(Path(os.fsdecode(folder)) / "b.png")
    (inside,) = list_images([Path(os.fsdecode(folder))]).block(0, 9)
    assert inside.path == f"{tmp_path}/\\xff/b.png"
    assert inside.problem is None
    assert len(list_images([Path(os.fsdecode(folder))]).digest()) == 64


def test_a_digest_tells_lists_apart(tmp_path: Path) -> None:
    root = class_folders(tmp_path, bolt=2, nut=1)
    first = list_images([root]).digest()
    assert list_images([root]).digest() == first
    assert list_images([root / "bolt", root / "nut"]).digest() != first
    (root / "nut/more.png").write_bytes(b"")
    assert list_images([root]).digest() != first


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path\n", "a table without rows"),
        ("label,n\na,1\n", "no column path with the image files; its columns are label, n"),
        ("path,path\na,b\n", "two columns are called"),
        ("", "an empty table"),
    ],
)
def test_tables_that_name_no_images_are_refused(text: str, says: str, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text(text)
    assert says in refusal(list_images, [table])


def test_folders_without_images_and_needless_roots_are_refused(tmp_path: Path) -> None:
    assert "no images in this folder" in refusal(list_images, [tmp_path])
    (tmp_path / "a.png").write_bytes(b"")
    assert "leave it out" in refusal(list_images, [tmp_path / "a.png"], tmp_path)
