"""Data sets and lists of images behind addresses: the same as on a disk."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

import polars as pl
import pytest

from capt_core.addresses import remember
from capt_core.artifacts.layout import Layout
from capt_core.data import dataset as datasets
from capt_core.data.folder import open_dataset, open_folder
from capt_core.data.image_checks import check_image
from capt_core.data.image_lists import list_images
from capt_core.data.images import read_image
from capt_core.data.remote import listed, stores
from capt_core.data.remote.opening import modified, read_elsewhere
from capt_core.data.remote.state import state_of
from capt_core.errors import CaptError
from tests.data.fetching.server import Hostile
from tests.data.own_images import class_folders, dtd, photo_bytes
from tests.data.remote.conftest import Bucket
from tests.data.remote.wds import shard, tar


def test_class_folders_of_a_store(tmp_path: Path, bucket: Bucket) -> None:
    class_folders(tmp_path, ant=4, bee=5)
    (tmp_path / "classes.yaml").write_text("names: {ant: big ant}\n")
    bucket.put_folder(tmp_path)
    here, there = open_folder(tmp_path), open_folder(bucket.address)
    assert there.fingerprint == here.fingerprint
    assert there.class_names == ["big ant", "bee"]
    assert list(there.notes) == list(here.notes)
    first = there.paths(pl.Series([0]))[0]
    assert read_image(first).size == (8, 8)


def test_what_is_said_of_a_folder_has_its_address(tmp_path: Path, bucket: Bucket) -> None:
    class_folders(tmp_path / "all", ant=4, bee=5)
    bucket.put_folder(tmp_path)
    (note, *_) = open_folder(bucket.address).notes
    assert note == f"read as class_folders: the 2 folders in 'memory:///{bucket.name}/all'"


def test_a_benchmark_in_a_store_and_over_http(
    tmp_path: Path, bucket: Bucket, server: Hostile
) -> None:
    names = ("a", "b", "c", "d")
    root = dtd(tmp_path, names)
    bucket.put_folder(root)
    for path in root.rglob("*.*"):
        server.put(path.relative_to(root).as_posix(), path.read_bytes())
    here = open_dataset("dtd", root)
    assert open_dataset("dtd", bucket.address).fingerprint == here.fingerprint
    assert open_dataset("dtd", server.address).fingerprint == here.fingerprint
    with pytest.raises(CaptError, match=r"nowhere/dtd: cannot be listed \(there is no such"):
        open_dataset("dtd", f"{bucket.address}/nowhere")
    with pytest.raises(CaptError, match=r"food-101/split.*cannot be read \(there is no such file"):
        open_dataset("food101", server.address)


@pytest.mark.parametrize("labels", ["cls", "txt", "json", "cls txt"])
def test_shards_on_a_disk_in_a_store_and_over_http(
    tmp_path: Path, bucket: Bucket, server: Hostile, labels: str
) -> None:
    for number in range(2):
        content = shard(6 * number, 6, labels)
        name = f"train-{number}.tar"
        (tmp_path / name).write_bytes(content)
        bucket.put(name, content)
        server.put(name, content)
    here = open_folder(tmp_path)
    assert len(here.samples) == 12
    assert here.class_names == (["even one", "odd one"] if "txt" in labels else here.class_names)
    for root in (tmp_path, bucket.address, server.address):
        assert open_folder(f"{root}/train-{{0..1}}.tar").fingerprint == here.fingerprint
    assert open_folder(bucket.address).fingerprint == here.fingerprint


@pytest.mark.parametrize("name", ["train-0.tar", "train-{0..0}.tar"])
def test_folders_beside_named_shards_are_not_told_of(tmp_path: Path, name: str) -> None:
    (tmp_path / "train-0.tar").write_bytes(shard(0, 6))
    class_folders(tmp_path / "holiday", beach=2)
    assert not [note for note in open_folder(tmp_path / name).notes if "left out" in note]


def test_shards_that_cannot_be_used(tmp_path: Path, server: Hostile) -> None:
    good = shard(0, 8)
    cases = {
        "cut": (good[:9000], "cut off; get it again, or leave"),
        "bare": (shard(0, 8, ""), "no labels beside the images"),
        "two": (tar([("0.png", b"x"), ("0.jpg", b"y"), ("0.cls", b"1")]), "several images"),
        "up": (tar([("../0.png", photo_bytes(0)), ("1.png", b"x")]), "leads out of the shard"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / f"{name}.tar").write_bytes(content)
        with pytest.raises(CaptError, match=message):
            open_folder(tmp_path / f"{name}.tar")
    with pytest.raises(CaptError, match=r"missing\.tar: cannot be read \(the server answers 404"):
        open_folder(f"{server.address}/missing.tar")
    with pytest.raises(CaptError, match="https lists no folders"):
        open_folder(server.address)


def table_of(server: Hostile, folder: Path, query: str = "") -> Path:
    # Splits would be drawn by addresses, and a server's port is another each time.
    rows = ["path,label,split"]
    for number, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 2):
        label = "ab"[number % 2]
        behaviour = "signed" if query else "ranges"
        address = server.put(f"{label}{number}.png", photo_bytes(number), behaviour)
        rows.append(f"{address}{query},{label},{split}")
    table = folder / "labels.csv"
    table.write_text("\n".join(rows) + "\n")
    return table


def test_a_table_of_signed_addresses(tmp_path: Path, server: Hostile) -> None:
    table = table_of(server, tmp_path, "?key=SECRET")
    found = open_folder(table)
    assert found.samples["path"].str.starts_with(server.address).all()
    assert not found.samples["path"].str.contains("SECRET").any()
    # Another process, which has prepared tables and settings alone.
    with patch.dict("capt_core.addresses._private", clear=True):
        root = datasets.image_root(Layout(tmp_path, "mine"), str(table))
        assert read_image(root / found.samples["path"][0]).size == (8, 8)


def test_a_remote_table_with_paths_beside_it(tmp_path: Path, server: Hostile) -> None:
    rows = [f"images/{number}.png,{'ab'[number % 2]}" for number in range(8)]
    for number in range(8):
        server.put(f"set/images/{number}.png", photo_bytes(number))
    address = server.put("set/labels.csv", "\n".join(["path,label", *rows]).encode())
    found = open_folder(address)
    assert sorted(found.samples["path"])[0] == "images/0.png"
    server.behaviour["set/images/3.png"] = "404"
    with pytest.raises(CaptError, match=r"http://127.*/set/images/3.png: missing"):
        open_folder(address)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("file:///etc/passwd", "not read from a list"),
        ("memory://x/y.png", "not read from a list"),
        ("ftp://h/y.png", "not read from a list"),
        ("http://localhost:1/y.png", "into a private net"),
        ("http://169.254.169.254/y.png", "into a private net"),
        ("https://h//y.png", "other names"),
    ],
)
def test_what_a_table_from_elsewhere_may_not_name(server: Hostile, cell: str, message: str) -> None:
    address = server.put("labels.csv", f"path,label\n{cell},a\n".encode())
    with pytest.raises(CaptError, match=message):
        open_folder(address)


def test_names_that_no_disk_has_are_passed_over(bucket: Bucket) -> None:
    for seed, name in enumerate(("ant/1.png", "ant/2.png", "bee/1.png", "bee/2.png")):
        bucket.put(name, photo_bytes(seed))
    bucket.put("ant/3\n.png", b"x")
    bucket.put(f"ant/{'x' * 300}.png", b"x")
    assert len(open_folder(bucket.address, test_share=0.5).samples) == 4


def test_a_store_whose_client_is_missing() -> None:
    def without(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    stores._file_system.cache_clear()
    with (
        patch("fsspec.filesystem", without),
        pytest.raises(CaptError, match=r"s3:// needs the extra \[remote\]"),
    ):
        open_folder("s3://bucket/x")
    stores._file_system.cache_clear()


def test_lists_of_images(tmp_path: Path, bucket: Bucket, server: Hostile) -> None:
    class_folders(tmp_path / "set", ant=2, bee=1)
    bucket.put_folder(tmp_path / "set")
    single = server.put("one.png", photo_bytes(7), "signed")
    (tmp_path / "x.tar").write_bytes(shard(0, 2))
    given = [
        Path(bucket.address),
        Path(f"{single}?key=SECRET"),
        tmp_path / "x.tar",
        Path(server.put("x.tar", shard(5, 2))),
        table_of(server, tmp_path),
    ]
    found = list_images(given)
    images = found.block(0, 99)
    assert len(images) == 3 + 1 + 2 + 2 + 8
    assert images[0].path == f"memory:///{bucket.name}/ant/000.png"
    assert images[3].path == single
    assert "SECRET" not in str(images)
    assert [read_image(image.file).size for image in images] == [(8, 8)] * len(images)
    before = found.digest()
    bucket.put("ant/000.png", photo_bytes(99))
    assert list_images(given).digest() != before


def test_lists_that_cannot_be_used(tmp_path: Path, server: Hostile) -> None:
    table = tmp_path / "t.csv"
    table.write_text("path\nhttps://h.org/i?id=1\nhttps://h.org/i?id=2\n")
    with pytest.raises(CaptError, match=r"h\.org/i only behind the \?"):
        list_images([table])
    table.write_text("path\nfile:///etc/passwd\n")
    assert "not read from a list" in str(list_images([table]).block(0, 1)[0].problem)
    with pytest.raises(CaptError, match=r"x\.csv: cannot be read \(there is no such file"):
        list_images([Path(f"{server.address}/x.csv")])


def test_what_stands_for_size_and_time(bucket: Bucket, server: Hostile, tmp_path: Path) -> None:
    first, other = photo_bytes(1), photo_bytes(2)
    for place in (bucket.put, server.put):
        path = Path(place("a.png", first))
        digest = check_image(path, "exists").digest
        assert check_image(path, "exists").digest == digest
        place("a.png", other)
        assert check_image(path, "exists").digest != digest
        assert check_image(path.with_name("none.png"), "exists").problem == "missing"
    assert modified(Path(server.put("b.png", first))) is None
    (tmp_path / "x.tar").write_bytes(shard(0, 1))
    assert modified(tmp_path / "x.tar" / "0000.png") == (tmp_path / "x.tar").stat().st_mtime
    state = state_of(bucket.address)
    assert state_of(bucket.address) == state
    bucket.put("deep/b.png", first)
    assert state_of(bucket.address) != state


def test_a_failing_server_makes_a_bad_image(tmp_path: Path, server: Hostile) -> None:
    table = table_of(server, tmp_path)
    server.behaviour["a4.png"] = "503"
    with pytest.raises(CaptError, match=r"/a4\.png: unreadable: the server answers 503 \(3 att"):
        open_folder(table)
    with pytest.warns(UserWarning, match="1 images are left out"):
        assert len(open_folder(table, on_bad_image="quarantine").samples) == 7


def test_an_empty_answer_is_no_image(server: Hostile) -> None:
    with pytest.raises(CaptError, match="empty, 0 bytes"):
        read_elsewhere(Path(server.put("a.png", b"")))


def test_listed_addresses_are_remembered_whole() -> None:
    shown = listed.listed_address(" HTTPS://me:SECRET@h.org/a.jpg?x=1#y ", Path("t.csv"))
    assert shown == "https://h.org/a.jpg"
    assert remember(shown) == shown


def test_a_split_file_with_a_folder_of_images(tmp_path: Path, server: Hostile) -> None:
    split = {
        part: [[f"im/{label}{index}.png", label, "ab"[label]] for label in (0, 1) for index in rows]
        for part, rows in {"train": (0, 1), "val": (2,), "test": (3,)}.items()
    }
    names = [name for rows in split.values() for name, _, _ in rows]
    for seed, name in enumerate(names):
        server.put(f"set/{name}", photo_bytes(seed))
    address = server.put("set/split_x.json", json.dumps(split).encode())
    assert len(open_folder(address).samples) == 8
