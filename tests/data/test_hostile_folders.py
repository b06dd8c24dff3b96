"""Folders as bad as they come: every file is used or rejected, or one line says why not."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from capt_core.data.image_checks import check_image
from capt_core.data.preparation import Prepared, Source, prepare_dataset
from capt_core.data.readers import read_split
from capt_core.data.registry import dataset_spec
from capt_core.errors import CaptError
from capt_core.params import Data
from tests.data.own_images import class_folders, photo_bytes, read_mine, write_images
from tests.refusals import refusal

NAMES = (
    "a b",
    "été",
    "new\nline",
    "..x",
    "x..",
    "{}",
    "[b]",
    "%s",
    "-rf",
    "日本",
    "\u202etxt",
    "tab\t",
)
_numbers = itertools.count()


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def animated() -> bytes:
    frames = [Image.new("RGB", (5, 5), (shade, 0, next(_numbers) % 256)) for shade in (0, 255)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


# Kinds of files: what is written, and whether Pillow can make an image of it.
FILES: dict[str, tuple[Callable[[], bytes], bool]] = {
    "photo": (lambda: photo_bytes(next(_numbers)), True),
    "jpeg": (lambda: photo_bytes(next(_numbers), 9, "JPEG"), True),
    "grey": (lambda: encoded(Image.new("L", (next(_numbers) % 7 + 1, 4)), "PNG"), True),
    "transparent": (lambda: encoded(Image.new("RGBA", (4, 4)), "PNG"), True),
    "animated": (animated, True),
    "truncated": (lambda: photo_bytes(next(_numbers), 20)[:-90], False),
    "empty": (lambda: b"", False),
    "text": (lambda: b"<html>404</html>", False),
    "float": (lambda: encoded(Image.new("F", (4, 4)), "TIFF"), False),
}


@st.composite
def trees(draw: st.DrawFn) -> dict[str, list[tuple[str, str]]]:
    """Class folder to its files: name and kind."""
    folders = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    name = st.tuples(st.sampled_from(NAMES), st.sampled_from([".png", ".JPG", ".gif", ".txt"]))
    kinds = st.sampled_from([*FILES, "photo", "photo", "photo", "loop", "dangling", "folder"])
    return {
        folder: draw(
            st.lists(st.tuples(name.map("".join), kinds), max_size=6, unique_by=lambda x: x[0])
        )
        for folder in folders
    }


def plant(root: Path, tree: dict[str, list[tuple[str, str]]]) -> None:
    for folder, files in tree.items():
        (root / folder).mkdir(parents=True)
        for name, kind in files:
            path = root / folder / name
            if kind == "loop":
                path.symlink_to(path.name)
            elif kind == "dangling":
                path.symlink_to("nowhere.png")
            elif kind == "folder":
                path.symlink_to("..")
            else:
                path.write_bytes(FILES[kind][0]())


def prepare(root: Path, quarantine: bool = True, **choices: object) -> Prepared:
    mode = "quarantine" if quarantine else "error"
    data = Data.model_validate({"root": str(root), "on_bad_image": mode, **choices})
    source = Source(*read_split(dataset_spec("mine"), data))
    return prepare_dataset(dataset_spec("mine"), source, data, "decode")


def attempt(root: Path, quarantine: bool) -> Prepared | str:
    """What is prepared, or the one line that says why nothing is; the folder is removed."""
    try:
        return prepare(root, quarantine, layout="class_folders")
    except CaptError as error:
        message = str(error)
    finally:
        shutil.rmtree(root)
    assert "\n" not in message
    return message


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(trees())
def test_no_file_is_lost_and_no_error_is_strange(
    tmp_path: Path, tree: dict[str, list[tuple[str, str]]]
) -> None:
    root = tmp_path / str(next(_numbers))
    plant(root, tree)
    prepared = attempt(root, quarantine=False)
    if isinstance(prepared, str) and "nothing can be confused with" in prepared:
        return
    # Without quarantine the first bad file is named.
    assert str(root) in prepared if isinstance(prepared, str) else not len(prepared.rejected)
    plant(root, tree)
    prepared = attempt(root, quarantine=True)
    if isinstance(prepared, str):
        # Even with quarantine there must be a class to train on.
        assert any(
            why in prepared for why in ("no images", "training images", "nothing can be confused")
        )
        return
    kept = set(prepared.dataset.samples["path"])
    rejected = prepared.rejected["path"].to_list()
    for folder, files in tree.items():
        for name, kind in files:
            path = f"{folder}/{name}"
            hidden = path.startswith(".") or name.startswith(".")
            if kind == "folder" or name.endswith(".txt") or hidden:
                assert path not in kept  # hidden, no image by its ending, or a folder
                continue
            shown = path.replace("\n", "\\n").replace("\t", "\\t")
            good = kind in FILES and FILES[kind][1]
            assert (path in kept) != (path in rejected or shown in rejected), (path, kind)
            assert good or path not in kept, (path, kind)
    assert all(reason and "\n" not in reason for reason in prepared.rejected["reason"])
    ids = prepared.dataset.samples["class_id"].unique().to_list()
    assert set(ids) <= set(prepared.dataset.classes["class_id"])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(photo_bytes(0, 20))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 250)
    assert check_image(path, "decode").problem is None  # up to twice the limit, as cameras need
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    problem = check_image(path, "decode").problem
    assert problem is not None
    assert "more than the 178 million pixels" in problem


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert check_image(tmp_path / "pipe.png", "decode").problem == "unreadable: not a file"


@pytest.mark.parametrize("name", ["labels.csv", "split.json", "classes.yaml", "x.parquet"])
def test_a_pipe_in_the_place_of_a_list_is_not_waited_for(tmp_path: Path, name: str) -> None:
    class_folders(tmp_path, bolt=3, nut=3)
    os.mkfifo(tmp_path / name)
    assert f"{name}: a pipe" in refusal(read_mine, tmp_path)


@pytest.mark.parametrize("name", ["cow", "test", "cat/more"])
def test_a_link_that_may_have_been_a_class_is_named(tmp_path: Path, name: str) -> None:
    class_folders(tmp_path, cat=3, dog=3)
    (tmp_path / name).symlink_to(tmp_path / "unmounted")
    assert f"{tmp_path / name}: a link to something that does not exist" in refusal(
        read_mine, tmp_path
    )
    left = read_mine(tmp_path, on_bad_image="quarantine")
    assert left.class_names == ["cat", "dog"]
    assert left.rejected["path"].to_list() == [name]


def test_a_link_within_a_split_that_may_have_been_a_class_is_named(tmp_path: Path) -> None:
    write_images(
        tmp_path,
        [f"{part}/{n}/{i}.png" for part in ("train", "test") for n in "ab" for i in (1, 2)],
    )
    (tmp_path / "train" / "c").symlink_to(tmp_path / "unmounted")
    assert "train/c: a link to something" in refusal(read_mine, tmp_path)


def test_a_photograph_that_pillow_cannot_open_is_explained(tmp_path: Path) -> None:
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0 ftypheic" + bytes(40))
    problem = check_image(tmp_path / "IMG_1.HEIC", "decode").problem
    assert problem == "unreadable: .HEIC files are not supported, save as JPEG"


def test_a_name_of_undecodable_bytes_is_named(tmp_path: Path) -> None:
    class_folders(tmp_path, bolt=3, nut=3)
    try:
        os.link(tmp_path / "bolt/000.png", os.fsencode(tmp_path / "bolt") + b"/\xff\xfe.png")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    with pytest.raises(CaptError, match="not valid UTF-8") as caught:
        prepare(tmp_path, quarantine=False)
    assert str(caught.value).encode()  # printable in any terminal
    rejected = prepare(tmp_path).rejected
    assert rejected["reason"].to_list() == ["a file name that is not valid UTF-8"]


def test_a_folder_that_links_to_itself_ends(tmp_path: Path) -> None:
    class_folders(tmp_path, bolt=3, nut=3)
    (tmp_path / "bolt/again").symlink_to("..")
    with pytest.raises(CaptError, match="a link that leads back to a folder above it"):
        prepare(tmp_path, quarantine=False)
    prepared = prepare(tmp_path)
    assert len(prepared.dataset.samples) == 6 + 3
    assert prepared.rejected["path"].to_list() == ["bolt/again/bolt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    class_folders(tmp_path, bolt=3)
    (tmp_path / "bolt").chmod(0)
    try:
        assert "cannot be listed" in refusal(prepare, tmp_path)
    finally:
        (tmp_path / "bolt").chmod(0o755)


def test_remarks_name_the_first_file(tmp_path: Path) -> None:
    class_folders(tmp_path, bolt=4, nut=4)
    for index in (0, 2):
        Image.new("RGBA", (index + 3, 4)).save(tmp_path / f"bolt/{index:03d}.png")
    (tmp_path / "bolt/003.png").write_bytes((tmp_path / "bolt/001.png").read_bytes())
    notes = prepare(tmp_path, val_share=0.0, test_share=0.5).notes
    (remark,) = [note for note in notes if "transparent" in note]
    assert remark.startswith("2 images are transparent (bolt/00")
    split = prepare(tmp_path, test_share=0.5).dataset.samples
    parts = split.filter(split["path"].is_in(["bolt/001.png", "bolt/003.png"]))["split"]
    assert any("in more than one split" in note for note in notes) == (parts.n_unique() > 1)


def test_a_protocol_that_cannot_work_is_refused_at_once(tmp_path: Path) -> None:
    # Otherwise the user hears of it five stages later.
    roots = {count: tmp_path / str(count) for count in (1, 2, 3)}
    for count, root in roots.items():
        write_images(root, [f"{label}/{i}.png" for label in range(count) for i in range(3)])

    def groups(count: int, **choices: object) -> list[str]:
        prepared = prepare(roots[count], True, layout="class_folders", **choices)
        return prepared.dataset.classes["group"].to_list()

    assert "one class" in refusal(groups, 1)
    assert groups(2) == ["base", "base"]
    assert "protocol=all_classes" in refusal(groups, 2, protocol="base_to_novel")
    assert groups(3, protocol="base_to_novel") == ["base", "base", "novel"]
    assert groups(3, base_classes=["2", "1"]) == ["novel", "base", "base"]
    assert "no class is called '7'" in refusal(groups, 3, base_classes=["7"])
    assert "leaves no novel half" in refusal(groups, 3, base_classes=["0", "1", "2"])
    both = {"protocol": "all_classes", "base_classes": ["1", "2"]}
    assert "all_classes has no base half" in refusal(groups, 3, **both)


def test_other_fewshot_lists_than_the_published_ones_are_noted(tmp_path: Path) -> None:
    rows = [[f"{name}/{i}.jpg", label, name] for label, name in enumerate("abc") for i in range(3)]
    (tmp_path / "dtd").mkdir()
    split = {"train": rows, "val": [], "test": []}
    (tmp_path / "dtd/split_zhou_DescribableTextures.json").write_text(json.dumps(split))
    write_images(tmp_path / "dtd/images", [str(row[0]) for row in rows])
    data = Data(root=str(tmp_path), on_bad_image="quarantine")
    source = Source(*read_split(dataset_spec("dtd"), data))
    note = "with training images left out, few-shot lists are not the published ones"
    assert note not in prepare_dataset(dataset_spec("dtd"), source, data, "decode").notes
    (tmp_path / "dtd/images/a/1.jpg").write_bytes(b"")
    assert note in prepare_dataset(dataset_spec("dtd"), source, data, "decode").notes
