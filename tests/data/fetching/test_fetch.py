"""Fetching whole benchmarks from a local server, and what must be got by hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from capt_core.data.fetching.download import Patience, exclusive
from capt_core.data.fetching.fetch import Fetcher, read_files
from capt_core.data.registry import DATASETS, DatasetSpec, RemoteFile, dataset_spec
from capt_core.errors import CaptError
from tests.data.fetching.server import Hostile, remote, tar_of, zip_of
from tests.data.own_images import photo_bytes
from tests.pipeline.commands import command
from tests.refusals import refusal

QUICK = Patience(attempts=4, pause=0.0, timeout=5.0)
SPLIT = {
    "train": [["banded/1.jpg", 0, "banded"], ["dotted/1.jpg", 1, "dotted"]],
    "val": [],
    "test": [["banded/2.jpg", 0, "banded"], ["dotted/2.jpg", 1, "dotted"]],
}
PATHS = [str(row[0]) for rows in SPLIT.values() for row in rows]


@contextmanager
def no_progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda count: None


def fetcher(
    spec: DatasetSpec, root: Path, said: list[str] | None = None, mirror: str | None = None
) -> Fetcher:
    lines = [] if said is None else said
    return Fetcher(spec, root, no_progress, lines.append, mirror, QUICK)


def dtd(server: Hostile, behaviour: str = "ranges") -> DatasetSpec:
    """DTD as declared, but small and served locally."""
    archive = tar_of({f"dtd/images/{path}": photo_bytes(row) for row, path in enumerate(PATHS)})
    split = json.dumps(SPLIT).encode()
    real = dataset_spec("dtd")
    files = []
    for declared, content in zip(real.files, (archive, split), strict=True):
        url = server.put(declared.name, content, behaviour)
        files.append(remote(declared.name, content, **{"from": url, "unpack": declared.unpack}))
    return real.model_copy(update={"files": files})


@pytest.mark.parametrize("behaviour", ["plain", "ranges", "drops", "busy", "unsized"])
def test_a_benchmark_arrives_in_its_layout(server: Hostile, tmp_path: Path, behaviour: str) -> None:
    said: list[str] = []
    mine = fetcher(dtd(server, behaviour), tmp_path, said)
    assert mine.missing() is not None
    mine.fetch()
    assert mine.missing() is None
    assert "licence" in said[0]
    asked = len(server.asked)
    mine.fetch()  # nothing is left to do
    assert len(server.asked) == asked
    assert "not needed, the images are in place" in said[-1]


def test_lost_images_come_back_and_an_archive_placed_by_hand_is_used(
    server: Hostile, tmp_path: Path
) -> None:
    spec = dtd(server)
    fetcher(spec, tmp_path).fetch()
    (tmp_path / "dtd/images/banded/1.jpg").unlink()
    (tmp_path / "dtd/images/dotted/2.jpg").write_bytes(b"")
    mine = fetcher(spec, tmp_path)
    assert mine.missing() == "2 of 4 images are missing, such as banded/1.jpg"
    archive = tmp_path / "dtd" / spec.files[0].name
    archive.rename(tmp_path / spec.files[0].name)
    asked = len(server.asked)
    mine.fetch()
    assert mine.missing() is None
    assert len(server.asked) == asked


def test_two_fetches_do_not_write_into_one_folder(server: Hostile, tmp_path: Path) -> None:
    spec = dtd(server)
    mine = fetcher(spec, tmp_path)
    (tmp_path / "dtd").mkdir()
    with exclusive(tmp_path / "dtd"), pytest.raises(CaptError, match="another fetch"):
        mine.fetch()
    assert server.asked == []
    mine.fetch()
    assert mine.missing() is None


def test_a_mirror_serves_every_file_by_its_name(server: Hostile, tmp_path: Path) -> None:
    spec = dtd(server)
    elsewhere = [
        file.model_copy(update={"url": None, "by_hand": "the host is gone"}) for file in spec.files
    ]
    mine = fetcher(spec.model_copy(update={"files": elsewhere}), tmp_path, mirror=server.address)
    mine.fetch()
    assert mine.missing() is None


def test_a_damaged_file_placed_by_hand_is_refused(server: Hostile, tmp_path: Path) -> None:
    spec = dtd(server)
    (tmp_path / "dtd").mkdir()
    (tmp_path / "dtd" / spec.files[0].name).write_bytes(b"short")
    with pytest.raises(CaptError, match=r"5 bytes, expected .*; delete it"):
        fetcher(spec, tmp_path).fetch()


def test_what_needs_a_login_says_which_file_goes_where(tmp_path: Path) -> None:
    real = dataset_spec("imagenet")
    spec = real.model_copy(update={"files": [f for f in real.files if f.url is None]})
    said: list[str] = []
    name = "ILSVRC2012_img_train.tar"
    message = refusal(fetcher(spec, tmp_path, said).fetch)
    assert f"{name}, ILSVRC2012_img_val.tar must be got by hand" in message
    facts = "147897477120 bytes, md5 1d675b47d978889d74fa0da5fadfb00e"
    place = f"put {name} ({facts}) at {tmp_path}/imagenet/{name}: image-net.org asks for a login"
    assert any(line.startswith(place) for line in said)


def test_archives_within_archives(server: Hostile, tmp_path: Path) -> None:
    real = dataset_spec("caltech101")
    inner = tar_of({"101_ObjectCategories/face/1.jpg": photo_bytes(1)})
    outer = zip_of({"caltech-101/101_ObjectCategories.tar.gz": inner, "caltech-101/x.tar": b""})
    rows = [["face/1.jpg", 0, "face"]]
    split = json.dumps({"train": rows, "val": [], "test": []}).encode()
    files = []
    for declared, content in zip(real.files, (outer, inner, split), strict=True):
        changes = {"unpack": declared.unpack, "inside": declared.inside}
        url = None if declared.inside else server.put(declared.name, content)
        files.append(remote(declared.name, content, **{"from": url, **changes}))
    mine = fetcher(real.model_copy(update={"files": files}), tmp_path)
    mine.fetch()
    assert mine.missing() is None
    wrong = files[1].model_copy(update={"sha256": "0" * 64})
    spec = real.model_copy(update={"files": [files[0], wrong, files[2]]})
    with pytest.raises(CaptError, match=r"its sha256 is .* get caltech-101\.zip again"):
        fetcher(spec, tmp_path).fetch(again=True)


def devkit() -> bytes:
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(2, "n02", "goldfish", 0), (1, "n01", "tench", 0), (3, "n03", "fish", 2)]
    stream = BytesIO()
    savemat(stream, {"synsets": np.array(rows, dtype=kind)})
    folder = "ILSVRC2012_devkit_t12/data"
    return tar_of(
        {
            f"{folder}/meta.mat": stream.getvalue(),
            f"{folder}/ILSVRC2012_validation_ground_truth.txt": b"2\n1\n2\n",
        }
    )


def test_imagenet_from_archives_placed_by_hand(tmp_path: Path) -> None:
    real = dataset_spec("imagenet")
    classes = {
        f"{wnid}.tar": tar_of({f"{wnid}_1.JPEG": photo_bytes(1)}, "w") for wnid in ("n01", "n02")
    }
    contents = {
        "ILSVRC2012_img_train.tar": tar_of(classes, "w"),
        "ILSVRC2012_img_val.tar": tar_of(
            {f"ILSVRC2012_val_0000000{row}.JPEG": photo_bytes(row) for row in (1, 2, 3)}, "w"
        ),
        "ILSVRC2012_devkit_t12.tar.gz": devkit(),
        "classnames.txt": b"n01 tench\nn02 goldfish\n",
    }
    files = []
    for declared in real.files:
        content = contents[declared.name]
        (tmp_path / declared.name).write_bytes(content)
        changes = {"size": len(content), "md5": hashlib.md5(content).hexdigest()}
        files.append(declared.model_copy(update=changes))
    spec = real.model_copy(update={"files": files, "classes": 2})
    mine = fetcher(spec, tmp_path)
    mine.fetch()
    assert mine.missing() is None
    images = tmp_path / "imagenet" / "images"
    assert sorted(path.relative_to(images).as_posix() for path in images.rglob("*.JPEG")) == [
        "train/n01/n01_1.JPEG",
        "train/n02/n02_1.JPEG",
        "val/n01/ILSVRC2012_val_00000002.JPEG",
        "val/n02/ILSVRC2012_val_00000001.JPEG",
        "val/n02/ILSVRC2012_val_00000003.JPEG",
    ]


def test_only_one_file_and_names_that_are_not_known(server: Hostile, tmp_path: Path) -> None:
    spec = dtd(server)
    fetcher(spec, tmp_path).fetch(only=[str(spec.split)])
    assert [name for name, _ in server.asked] == [spec.split]
    with pytest.raises(CaptError, match=r"no file 'x\.json'; known: dtd-r1"):
        fetcher(spec, tmp_path).fetch(only=["x.json"])
    with pytest.raises(CaptError, match="no files are declared"):
        fetcher(dataset_spec("mine"), tmp_path).fetch()


def test_the_command_from_end_to_end(server: Hostile, tmp_path: Path) -> None:
    spec = dtd(server, "drops_once")
    entries = [
        {**file.model_dump(exclude_none=True, exclude={"url"}), "from": file.url}
        for file in spec.files
    ]
    (tmp_path / "files.yaml").write_text(json.dumps(entries))
    words = ["fetch", "--dataset", "dtd", "--root", str(tmp_path / "data")]
    done = command([*words, "--files", str(tmp_path / "files.yaml")])
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == f"dtd: complete in {tmp_path}/data/dtd"
    server.behaviour = dict.fromkeys(server.behaviour, "404")
    (tmp_path / "data/dtd" / spec.files[1].name).unlink()
    done = command([*words, "--files", str(tmp_path / "files.yaml")])
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {server.address}/{spec.files[1].name}: the server answ")
    for unknown, message in (("dtdd", "did you mean dtd?"), ("proctex", "draws it itself")):
        done = command(["fetch", "--dataset", unknown, "--root", str(tmp_path)])
        assert (done.returncode, message in done.stderr) == (2, True)


def test_a_root_that_cannot_be_written(server: Hostile, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(CaptError, match="cannot write"):
        fetcher(dtd(server), tmp_path / "taken").fetch()


def test_a_file_that_comes_from_nowhere_is_named(server: Hostile, tmp_path: Path) -> None:
    spec = dtd(server)
    lost = [file.model_copy(update={"url": None}) for file in spec.files]
    said: list[str] = []
    with pytest.raises(CaptError, match="must be got by hand"):
        fetcher(spec.model_copy(update={"files": lost}), tmp_path, said).fetch()
    assert any("its entry says nowhere where it comes from" in line for line in said)


def test_a_list_of_files_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "files.yaml"
    for text, message in (
        ("- {name: x, md5: 12}", "0: md5: "),
        ("- {nam: x}", "0: name: "),
        ("{", "not valid YAML"),
        ("x: 1", "list"),
        ("- 2026-02-30", "a date to some readers"),
        ("- !!int abc", "!!int"),
        ("[" * 3000, "nested"),
        ("- {name: [" + "x, " * 500 + "]}", "0: name: "),
    ):
        path.write_text(text)
        with pytest.raises(CaptError, match=message) as caught:
            read_files(path)
        assert len(str(caught.value)) < len(str(path)) + 300


def test_a_file_that_may_not_be_looked_at_is_named(server: Hostile, tmp_path: Path) -> None:
    spec = dtd(server)
    named = [file.model_copy(update={"name": "x" * 300}) for file in spec.files]
    with pytest.raises(CaptError, match=r"cannot be read .*File name too long"):
        fetcher(spec.model_copy(update={"files": named}), tmp_path).fetch()


def test_declared_addresses_and_checksums_are_torchvisions() -> None:
    from torchvision import datasets
    from torchvision.datasets import imagenet

    declared: dict[str, RemoteFile] = {
        file.name: file for spec in DATASETS.values() for file in spec.files
    }
    flowers = datasets.Flowers102
    image, md5 = flowers._file_dict["image"]
    for name, known_url, known_md5 in (
        ("dtd-r1.0.1.tar.gz", datasets.DTD._URL, datasets.DTD._MD5),
        ("food-101.tar.gz", datasets.Food101._URL, datasets.Food101._MD5),
        ("fgvc-aircraft-2013b.tar.gz", datasets.FGVCAircraft._URL, None),
        ("SUN397.tar.gz", None, datasets.SUN397._DATASET_MD5),
        ("102flowers.tgz", flowers._download_url_prefix + image, md5),
        ("images.tar.gz", *datasets.OxfordIIITPet._RESOURCES[0]),
    ):
        assert declared[name].url == known_url
        assert known_md5 in (None, declared[name].md5)
    for name, md5 in imagenet.ARCHIVE_META.values():
        assert declared[name].md5 == md5
