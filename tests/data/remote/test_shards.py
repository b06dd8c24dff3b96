"""Tar shards: what they hold, hostile members, damage, and reading parts."""

from __future__ import annotations

import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capt_core.data.remote import shards, windows
from capt_core.data.remote.braces import expanded
from capt_core.data.remote.shards import open_shard, place_of, read_member
from capt_core.errors import CaptError
from tests.data.fetching.server import Hostile
from tests.data.own_images import photo_bytes
from tests.data.remote.conftest import Bucket
from tests.data.remote.wds import shard, tar


def written(folder: Path, content: bytes) -> Path:
    path = folder / "x.tar"
    path.write_bytes(content)
    return path


def members_of(content: bytes) -> bytes:
    """A tar file of one image without its end mark."""
    size = 512 + len(photo_bytes(0))
    return content[: size + -size % 512]


def header(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, link
    return found


def test_members_and_labels(tmp_path: Path) -> None:
    found = open_shard(written(tmp_path, shard(3, 2, "cls txt json")))
    assert list(found.images) == ["0003.png", "0004.png"]
    assert found.labels["0003"] == {"cls": "1", "txt": "odd one", "json": {"label": "1!"}}
    assert (found.problems, found.cut) == ([], None)
    assert read_member(tmp_path / "x.tar", "0004.png") == photo_bytes(4)
    assert place_of(tmp_path / "x.tar" / "a" / "b.png") == (tmp_path / "x.tar", "a/b.png")
    assert place_of(tmp_path / "folder.tar" / "b.png") is None
    with pytest.raises(FileNotFoundError):
        read_member(tmp_path / "x.tar", "0005.png")


HOSTILE = {
    "../up.png": header("../up.png"),
    "/etc/up.png": header("/etc/up.png"),
    "a//b.png": header("a//b.png"),
    "link.png": header("link.png", tarfile.SYMTYPE, "/etc/passwd"),
    "hard.png": header("hard.png", tarfile.LNKTYPE, "0.png"),
    "pipe.png": header("pipe.png", tarfile.FIFOTYPE),
    "device.png": header("device.png", tarfile.CHRTYPE),
    "0.png": header("0.png"),
}


def test_hostile_members_are_named_and_never_followed(tmp_path: Path) -> None:
    content = tar([("0.png", photo_bytes(0)), *HOSTILE.values(), ("1.png", photo_bytes(1))])
    found = open_shard(written(tmp_path, content))
    assert list(found.images) == ["0.png", "1.png"]
    assert [name for name, _ in found.problems] == list(HOSTILE)
    assert read_member(tmp_path / "x.tar", "0.png") == photo_bytes(0)


def test_an_impossible_size(tmp_path: Path) -> None:
    huge = tarfile.TarInfo("huge.png")
    huge.size = 2 << 40
    content = members_of(tar([("0.png", photo_bytes(0))])) + huge.tobuf(tarfile.GNU_FORMAT)
    found = open_shard(written(tmp_path, content + bytes(1024)))
    assert found.cut == "it ends within 'huge.png'"
    assert list(found.images) == ["0.png"]


@pytest.mark.parametrize("size", [-512, -(1 << 40)])
def test_a_negative_size_ends(tmp_path: Path, size: int) -> None:
    back = tarfile.TarInfo("back.png")
    back.size = 1 << 33
    block = bytearray(back.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" + size.to_bytes(11, "big", signed=True)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    content = members_of(tar([("0.png", photo_bytes(0))]))
    found = open_shard(written(tmp_path, content + bytes(block) + bytes(1024)))
    assert "header" in str(found.cut)


@given(st.integers(0, 6000))
@settings(max_examples=15, deadline=None)
def test_a_shard_that_ends_early_is_cut(tmp_path_factory: pytest.TempPathFactory, end: int) -> None:
    whole = shard(0, 3)
    members = 3 * (1024 + 1024)
    path = written(tmp_path_factory.mktemp("cut"), whole[: min(end, members)])
    shards._opened.clear()
    if end < 512:
        with pytest.raises(CaptError, match="no tar file"):
            open_shard(path)
        return
    found = open_shard(path)
    assert found.cut is not None
    assert len(found.images) <= 3


@given(st.binary(max_size=2000), st.integers(0, 4000))
@settings(max_examples=25, deadline=None)
def test_damage_raises_nothing_but_a_line(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    whole = bytearray(shard(0, 3, "cls txt"))
    whole[at : at + len(noise)] = noise
    path = written(tmp_path_factory.mktemp("noise"), bytes(whole))
    shards._opened.clear()
    with suppress(CaptError):
        found = open_shard(path)
        assert all(".." not in name.split("/") for name in found.images)
        assert all(0 <= start < len(whole) for start, _ in found.images.values())


def test_compressed_shards_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("0.png"))
    with pytest.raises(CaptError, match=r"x\.tar: no tar file .* unpack a compressed one"):
        open_shard(path)


@pytest.mark.parametrize("behaviour", ["ranges", "plain"])
def test_a_remote_shard_is_read_in_few_requests(
    server: Hostile, behaviour: str, tmp_path: Path
) -> None:
    address = server.put("x.tar", shard(0, 20), behaviour)
    path = Path(address)
    names = list(open_shard(path).images)
    assert [read_member(path, name) for name in names] == [photo_bytes(at) for at in range(20)]
    assert len(server.asked) < 8
    shards._opened.clear()
    before = len(server.asked)
    open_shard(path)
    assert len(server.asked) == before, "what was found is kept"
    server.put("x.tar", shard(5, 3), behaviour)
    shards._opened.clear()
    windows._WINDOWS._kept.clear()
    assert list(open_shard(path).images) == ["0005.png", "0006.png", "0007.png"]


def test_nothing_secret_is_kept(server: Hostile, tmp_path: Path) -> None:
    from capt_core.addresses import remember

    address = server.put("x.tar", shard(0, 2), "signed")
    open_shard(Path(remember(f"{address}?key=SECRET")))
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert kept
    assert not any("SECRET" in path.read_text() + str(path) for path in kept)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{08..10}.tar", ["a-08.tar", "a-09.tar", "a-10.tar"]),
        ("{a,b-{0..1}}.tar", ["a.tar", "b-0.tar", "b-1.tar"]),
        ("{9..11}.tar", ["9.tar", "10.tar", "11.tar"]),
    ],
)
def test_braces(text: str, names: list[str]) -> None:
    assert expanded(text) == names


@pytest.mark.parametrize("text", ["a{.tar", "a{1}.tar", "a{3..1}.tar", "{0..999999999}.tar", "}{"])
def test_braces_that_mean_nothing(text: str) -> None:
    with pytest.raises(CaptError, match="expected"):
        expanded(text)


def test_too_many_names() -> None:
    with pytest.raises(CaptError, match="more than 100000 names"):
        expanded("{0..999}{0..999}.tar")


def test_a_shard_in_a_store(bucket: Bucket) -> None:
    path = Path(bucket.put("deep/x.tar", shard(0, 3)))
    assert read_member(path, "0002.png") == photo_bytes(2)
