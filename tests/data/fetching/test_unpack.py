"""Unpacking: what is wanted lands in its place, what is hostile lands nowhere."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capt_core.data.fetching import download, unpack
from capt_core.errors import CaptError
from tests.data.fetching.server import tar_of, zip_of
from tests.refusals import refusal

FILES = {
    "dtd/images/banded/1.jpg": b"one",
    "dtd/images/dotted/2.jpg": b"two",
    "dtd/labels/x.txt": b"labels",
    "dtd/imdb.mat": b"not wanted",
}
PLACES = {"dtd/images/": "images/", "dtd/labels/x.txt": "labels.txt"}
ARCHIVES: dict[str, Callable[[Mapping[str, bytes]], bytes]] = {
    "a.tar": lambda files: tar_of(files, "w"),
    "a.tar.gz": tar_of,
    "a.tgz": tar_of,
    "a.zip": zip_of,
}


def run(folder: Path, name: str, content: bytes, places: Mapping[str, str] = PLACES) -> int:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return unpack.unpack(folder / name, folder, places)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("a.")
    }


def refused(folder: Path, name: str, content: bytes, places: Mapping[str, str] = PLACES) -> str:
    message = refusal(run, folder, name, content, places)
    assert files(folder) == {}
    assert {path.name for path in folder.iterdir()} == {name}
    return message


@pytest.mark.parametrize("name", ARCHIVES)
def test_members_land_in_their_places(tmp_path: Path, name: str) -> None:
    assert run(tmp_path, name, ARCHIVES[name](FILES)) == 3
    assert files(tmp_path) == {
        "images/banded/1.jpg": b"one",
        "images/dotted/2.jpg": b"two",
        "labels.txt": b"labels",
    }


def test_what_is_there_is_replaced_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "images/banded").mkdir(parents=True)
    (tmp_path / "images/banded/1.jpg").write_bytes(b"damaged")
    (tmp_path / "images/banded/mine.jpg").write_bytes(b"mine")
    run(tmp_path, "a.tgz", tar_of(FILES))
    found = files(tmp_path)
    assert found["images/banded/1.jpg"] == b"one"
    assert found["images/banded/mine.jpg"] == b"mine"
    assert found["images/dotted/2.jpg"] == b"two"


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize(
    "member",
    ["../evil.jpg", "/evil.jpg", "dtd/images/../../../evil.jpg", "dtd\\..\\..\\evil", "C:/x"],
)
def test_a_member_that_would_leave_the_folder_is_refused(
    tmp_path: Path, name: str, member: str
) -> None:
    content = ARCHIVES[name]({**FILES, member: b"evil"})
    message = refused(tmp_path / "data", name, content)
    assert "would leave the folder" in message
    assert [path.name for path in tmp_path.rglob("*evil*")] == []


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
def test_a_doubled_slash_makes_no_absolute_path(tmp_path: Path, name: str) -> None:
    evil = tmp_path / "evil.jpg"
    content = ARCHIVES[name]({f"dtd/data/{evil}": b"evil"})
    assert run(tmp_path / "data", name, content, {"dtd/data/": ""}) == 1
    assert not evil.exists()
    assert files(tmp_path / "data") == {evil.relative_to("/").as_posix(): b"evil"}


def test_a_doubled_slash_in_a_class_archive_makes_no_absolute_path(tmp_path: Path) -> None:
    evil, folder = tmp_path / "evil.jpg", tmp_path / "data"
    folder.mkdir()
    inner = tar_of({f"./{evil}": b"evil"}, "w")
    (folder / "a.tar").write_bytes(tar_of({"n01.tar": inner}, "w"))
    assert unpack.unpack_class_archives(folder / "a.tar", folder, "train") == 1
    assert not evil.exists()
    assert files(folder) == {f"train/n01{evil}": b"evil"}
    (folder / "a.tar").write_bytes(tar_of({"...tar": tar_of({"x": b"evil"}, "w")}, "w"))
    with pytest.raises(CaptError, match="would leave the folder"):
        unpack.unpack_class_archives(folder / "a.tar", folder, "train")


@pytest.mark.parametrize("name", ["a.tgz", "a.zip"])
def test_a_bomb_is_refused_before_the_disk_is_full(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = ARCHIVES[name]({f"dtd/images/{index}.jpg": bytes(2**21) for index in range(4)})
    assert len(content) * unpack.BOMB_RATIO < 4 * 2**21
    monkeypatch.setattr(unpack, "_ALWAYS_ALLOWED", 0)
    assert "unpacks to more than 100 times its size" in refused(tmp_path / "a", name, content)


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".a.tgz.unpacking").mkdir()
    (tmp_path / ".a.tgz.unpacking/old.jpg").write_bytes(b"old")
    assert run(tmp_path, "a.tgz", tar_of(FILES)) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"a.tgz", "images", "labels.txt"}


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "images/banded/1.jpg").mkdir(parents=True)
    with pytest.raises(CaptError, match="a folder is where a file belongs; move it away"):
        run(tmp_path, "a.tgz", tar_of(FILES))


def test_links_give_the_content_of_members_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    run(tmp_path / "one", "a.tgz", tar_of(FILES, **{"dtd/images/l.jpg": "banded/1.jpg"}))
    assert files(tmp_path / "one")["images/l.jpg"] == b"one"
    assert not (tmp_path / "one/images/l.jpg").is_symlink()
    for target in ("../../../secret.jpg", str(tmp_path / "secret.jpg"), "l.jpg", "..", "banded"):
        content = tar_of(FILES, **{"dtd/images/l.jpg": target})
        assert "refused" in refused(tmp_path / "two", "a.tgz", content)


def test_a_folder_that_is_a_link_leads_nowhere(tmp_path: Path) -> None:
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        link = tarfile.TarInfo("dtd/images/out")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "elsewhere")
        archive.addfile(link)
        member = tarfile.TarInfo("dtd/images/out/evil.jpg")
        member.size = 4
        archive.addfile(member, BytesIO(b"evil"))
    (tmp_path / "elsewhere").mkdir()
    assert "refused" in refused(tmp_path / "data", "a.tgz", stream.getvalue())
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_devices_are_refused(tmp_path: Path) -> None:
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("dtd/images/pipe")
        member.type = tarfile.FIFOTYPE
        archive.addfile(member)
    assert "is not a regular file" in refused(tmp_path / "data", "a.tar", stream.getvalue())


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize("keep", [0.31, 0.72])
def test_a_damaged_archive_leaves_nothing(tmp_path: Path, name: str, keep: float) -> None:
    many = {f"dtd/images/c/{index}.jpg": bytes([index]) * 3000 for index in range(20)}
    content = ARCHIVES[name](many)
    message = refused(tmp_path / "data", name, content[: int(len(content) * keep)])
    assert any(
        part in message
        for part in ("cannot be unpacked", "another archive", "without its end mark")
    )


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_an_archive_cut_off_between_members_is_refused(tmp_path: Path, name: str) -> None:
    whole = tar_of(FILES, "w")
    cut = whole[: 2 * 1024]  # header and content of two members
    content = cut if name == "a.tar" else gzip.compress(cut)
    assert "ends without its end mark" in refused(tmp_path / "data", name, content)


def members(**contents: bytes) -> bytes:
    """A plain tar of files below ``dtd/images/``, without its end mark: 1,024 bytes each."""
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"dtd/images/{name}.jpg")
            info.size = len(content)
            archive.addfile(info, BytesIO(content))
        return stream.getvalue()[: 1024 * len(contents)]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (members(a=b"1") + b"\x01" * 512 + members(b=b"2") + bytes(1024), "header at byte 1024"),
        (members(a=b"1") + bytes(1024) + members(b=b"2") + bytes(1024), "after its end mark"),
        (members(a=b"1") + bytes(1024) + b"garbage", "goes on after its end mark"),
        (members(a=b"1") + b"garbage", "without its end mark"),
        (members(a=b"1"), "without its end mark"),
        (members(a=b"1")[:1000], "cannot be unpacked"),
        (b"", "cannot be unpacked"),
    ],
)
def test_an_archive_is_read_to_its_end(
    tmp_path: Path, content: bytes, said: str, packed: bool
) -> None:
    content = gzip.compress(content) if packed else content
    assert said in refused(tmp_path / "data", "a.tar.gz" if packed else "a.tar", content)


def test_one_bit_of_a_header_in_the_middle(tmp_path: Path) -> None:
    content = bytearray(members(a=b"1", b=b"2", c=b"3") + bytes(1024))
    assert run(tmp_path / "whole", "a.tar", bytes(content)) == 3
    content[1024 + 2] ^= 1
    message = refused(tmp_path / "data", "a.tar", bytes(content))
    assert "damaged header at byte 1024" in message
    assert "delete it, then run the same command again" in message


def test_a_long_name_that_is_lost_is_no_member_to_pass_over(tmp_path: Path) -> None:
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in ("dtd/images/" + "x" * 120, "dtd/images/y"):
            archive.addfile(tarfile.TarInfo(name))
    lost = bytearray(stream.getvalue())
    lost[512:1024] = bytes(512)
    assert "a file without a name" in refused(tmp_path / "data", "a.tar", bytes(lost))


def test_damage_behind_the_gzip_content_is_found(tmp_path: Path) -> None:
    content = bytearray(tar_of(FILES))
    content[-6] ^= 1  # its checksum, which nobody reads who stops at the end mark
    assert "CRC" in refused(tmp_path / "a", "a.tgz", bytes(content))
    assert "cannot be unpacked" in refused(tmp_path / "b", "a.tgz", tar_of(FILES) + b"garbage")
    assert run(tmp_path / "c", "a.tgz", tar_of(FILES) + bytes(500)) == 3  # padding of a tape


def test_the_first_of_two_zip_files_is_not_passed_over(tmp_path: Path) -> None:
    two = zip_of(FILES) + zip_of({"dtd/images/x.jpg": b"x"})
    assert "begins with another file" in refused(tmp_path / "data", "a.zip", two)


def test_a_tar_file_that_ends_with_a_zip_file_is_a_tar_file(tmp_path: Path) -> None:
    assert run(tmp_path, "a.tar", tar_of({**FILES, "x.zip": zip_of({"y": b"y"})}, "w")) == 3


def test_a_member_may_come_twice_but_not_with_other_content(tmp_path: Path) -> None:
    twice = members(p=b"1") + members(q=b"2") + members(p=b"1") + bytes(1024)
    assert run(tmp_path / "same", "a.tar", twice) == 3
    assert files(tmp_path / "same") == {"images/p.jpg": b"1", "images/q.jpg": b"2"}
    other = members(a=b"1") + members(a=b"2") + bytes(1024)
    assert "two files that would both be 'images/a.jpg'" in refused(tmp_path / "x", "a.tar", other)
    nested = tar_of({"dtd/images/a": b"1", "dtd/images/a/b": b"2"}, "w")
    assert "a file and a folder that would both be" in refused(tmp_path / "y", "a.tar", nested)


@pytest.mark.parametrize("size", ["-512", "-1024", "999999999999999999999999"])
def test_sizes_that_lead_astray_are_refused(tmp_path: Path, size: str) -> None:
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("dtd/images/a.jpg")
        info.pax_headers = {"size": size}
        archive.addfile(info)
        archive.addfile(tarfile.TarInfo("dtd/images/b.jpg"))
    assert "cannot be unpacked" in refused(tmp_path / "data", "a.tar", stream.getvalue())


def test_what_is_in_the_way_is_found_before_anything_is_moved(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(b"a file")
    message = refusal(run, tmp_path, "a.tgz", tar_of(FILES), {"dtd/": ""})
    assert "a file is where a folder belongs; move it away" in message
    assert files(tmp_path) == {"images": b"a file"}


def test_another_archive_is_refused(tmp_path: Path) -> None:
    assert "holds nothing below" in refused(tmp_path / "a", "a.zip", zip_of({"x/y.jpg": b""}))
    assert "cannot be unpacked" in refused(tmp_path / "b", "a.tgz", b"<html>")


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "RESERVE", 10**18)
    assert "free some space" in refused(tmp_path / "one", "a.zip", zip_of(FILES))
    monkeypatch.setattr(download, "RESERVE", 0)
    monkeypatch.setattr(unpack, "RESERVE", 10**18)
    assert "no room left" in refused(tmp_path / "two", "a.tgz", tar_of(FILES))


def test_an_archive_of_class_archives(tmp_path: Path) -> None:
    inner = {name: tar_of({f"{name}_1.JPEG": name.encode()}, "w") for name in ("n01", "n02")}
    outer = tmp_path / "a.tar"
    outer.write_bytes(tar_of({f"{name}.tar": content for name, content in inner.items()}, "w"))
    assert unpack.unpack_class_archives(outer, tmp_path, "images/train") == 2
    assert files(tmp_path) == {
        "images/train/n01/n01_1.JPEG": b"n01",
        "images/train/n02/n02_1.JPEG": b"n02",
    }
    evil = tar_of({"../../../evil.JPEG": b"evil"}, "w")
    outer.write_bytes(tar_of({"n03.tar": evil}, "w"))
    with pytest.raises(CaptError, match="would leave the folder"):
        unpack.unpack_class_archives(outer, tmp_path, "images/train")
    outer.write_bytes(tar_of({"readme.txt": b""}, "w"))
    with pytest.raises(CaptError, match="holds no class archives"):
        unpack.unpack_class_archives(outer, tmp_path, "images/train")


_PARTS = st.sampled_from(["..", ".", "a", "b", "", "images", "x.jpg", "..."])


@given(st.lists(st.lists(_PARTS, min_size=1, max_size=5).map("/".join), max_size=5, unique=True))
def test_whatever_the_names_nothing_leaves_the_folder(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    base = tmp_path_factory.mktemp("any")
    folder = base / "deep" / "data"
    folder.mkdir(parents=True)
    (folder / "a.tar").write_bytes(tar_of({name: b"x" for name in names if name}, "w"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        try:
            unpack.unpack(folder / "a.tar", folder, {"": ""})
        except CaptError as error:
            message = str(error)
        else:
            message = ""
    assert "\n" not in message
    assert {path.name for path in base.iterdir()} == {"deep"}
    assert {path.name for path in (base / "deep").iterdir()} == {"data"}
