"""Features kept in parts: what is encoded again, by whom, and that no bit depends on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from threading import Event
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from capt_core.artifacts.feature_parts import FeatureParts, Features
from capt_core.artifacts.provenance import Provenance
from capt_core.backbone.extraction import (
    WHOLE,
    Effort,
    Images,
    PixelEncoder,
    Share,
    encode_parts,
    rows_of_pass,
)
from capt_core.backbone.loading import Backbone
from capt_core.data.images import Preprocess, normalised
from capt_core.data.images import test_transform as transform_of
from capt_core.data.loading import GONE, Loaded, PixelReader, load_ahead, touched
from capt_core.errors import CaptError
from capt_core.reporter import Reporter, reporting_to
from tests.backbone.test_encoding import WordTokenizer
from tests.data.own_images import photo_bytes
from tests.refusals import refusal
from tests.toys import small_clip

STYLE = Preprocess(32, (0.5, 0.4, 0.3), (0.3, 0.2, 0.1))
ORIGIN = Provenance("mine", "", "small@0", "key")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(
        identity="small@0",
        clip=small_clip(),
        tokenizer=WordTokenizer(),
        preprocess=STYLE,
        device=torch.device("cpu"),
        autocast=None,
        untrained=False,
    )


def photos(folder: Path, names: Sequence[str]) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(photo_bytes(int(name.partition(".")[0]), side=40))


def listed(folder: Path) -> Images:
    names = sorted(path.name for path in folder.iterdir())
    files = [folder / name for name in names]
    return Images(pl.Series(names), files, pl.Series([touched(file) for file in files]))


Extract = Callable[..., tuple[Effort, Features]]


@pytest.fixture
def extract(tmp_path: Path, backbone: Backbone) -> Extract:
    """Encode a folder, with parts of four images in batches of three."""
    photos(tmp_path / "photos", [f"{number}.png" for number in range(10, 20)])

    def run(store: str = "parts", share: Share = WHOLE) -> tuple[Effort, Features]:
        parts = FeatureParts(tmp_path / store, ORIGIN)
        found = listed(tmp_path / "photos")
        effort, images = encode_parts(found, parts, backbone, 3, 4, workers=1, share=share)
        known = parts.known(images.paths, images.touched)
        if not known.all():
            return effort, np.empty((0, 0), dtype=np.float32)
        ((_, features),) = parts.in_order(images.paths, images.touched)
        parts.drop_unused(images.paths, images.touched)
        return effort, features

    return run


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_features_are_those_of_the_test_view(
    extract: Extract, tmp_path: Path, backbone: Backbone
) -> None:
    effort, features = extract()
    assert effort.encoded == 10
    assert 0 <= effort.waited <= effort.seconds
    transform = transform_of(STYLE)
    images = [
        transform(Image.open(path).convert("RGB"))
        for path in sorted((tmp_path / "photos").iterdir())
    ]
    with torch.no_grad():
        expected = backbone.clip.encode_image(torch.stack(images))
    expected = torch.nn.functional.normalize(expected, dim=-1).numpy()
    np.testing.assert_allclose(features, expected, atol=1e-5)
    assert len(list((tmp_path / "parts").iterdir())) == 3


def test_nothing_is_encoded_twice(extract: Extract, tmp_path: Path) -> None:
    _, first = extract()
    kept = files(tmp_path / "parts")
    assert extract()[0].encoded == 0
    # Touched, renamed or there twice: what counts is the content.
    os.utime(tmp_path / "photos/12.png")
    (tmp_path / "photos/19.png").rename(tmp_path / "photos/20.png")
    (tmp_path / "photos/21.png").write_bytes((tmp_path / "photos/10.png").read_bytes())
    effort, again = extract()
    assert effort.encoded == 0
    assert np.array_equal(again, np.concatenate([first, first[:1]]))
    assert kept.keys() <= files(tmp_path / "parts").keys()


def test_only_new_and_changed_images_are_encoded(extract: Extract, tmp_path: Path) -> None:
    extract()
    photos(tmp_path / "photos", ["05.png", "145.png"])
    (tmp_path / "photos/17.png").write_bytes(photo_bytes(99, side=40))
    effort, features = extract()
    assert effort.encoded == 3
    assert np.array_equal(features, extract("fresh")[1])


def test_a_damaged_part_is_made_anew(extract: Extract, tmp_path: Path) -> None:
    _, first = extract()
    kept = files(tmp_path / "parts")
    damaged = sorted(kept)[1]
    content = bytearray(kept[damaged])
    content[len(content) // 2] ^= 1
    (tmp_path / "parts" / damaged).write_bytes(content)
    (tmp_path / "parts" / ("0" * 16 + ".parquet")).write_bytes(b"no table")
    warnings = list[str]()
    with reporting_to(Reporter(warn=warnings.append)):
        effort, again = extract()
    assert len(warnings) == 2
    assert all("its images are encoded again" in line for line in warnings)
    assert 0 < effort.encoded <= 4
    assert np.array_equal(again, first)
    assert files(tmp_path / "parts") == kept


def test_parts_that_no_image_needs_are_removed(extract: Extract, tmp_path: Path) -> None:
    extract()
    for number in range(14, 18):
        (tmp_path / f"photos/{number}.png").unlink()
    extract()
    assert len(files(tmp_path / "parts")) == 2


@pytest.mark.parametrize("count", [2, 3, 7])
def test_shares_together_give_the_same_bytes(extract: Extract, tmp_path: Path, count: int) -> None:
    _, whole = extract()
    efforts = [extract("shared", Share(index, count)) for index in reversed(range(count))]
    assert sum(effort.encoded for effort, _ in efforts) == 10
    assert [len(features) for _, features in efforts] == [0] * (count - 1) + [10]
    assert np.array_equal(efforts[-1][1], whole)
    assert files(tmp_path / "shared") == files(tmp_path / "parts")


def test_a_bad_image_is_named_and_finished_parts_are_kept(extract: Extract, tmp_path: Path) -> None:
    (tmp_path / "photos/19.png").write_bytes(b"no image")
    message = refusal(extract)
    assert "19.png: not a readable image" in message
    photos(tmp_path / "photos", ["19.png"])
    assert extract()[0].encoded == 2
    (tmp_path / "photos/30.png").symlink_to("nowhere")
    assert "30.png: image missing" in refusal(extract)


def test_parts_of_other_settings_are_not_taken(extract: Extract, tmp_path: Path) -> None:
    extract()
    other = FeatureParts(tmp_path / "parts", Provenance("mine", "", "small@0", "other"))
    assert other.index.is_empty()


@settings(max_examples=20)
@given(count=st.integers(1, 3), beside=st.integers(0, 2), seed=st.integers(0, 9))
def test_neighbours_change_no_bit(backbone: Backbone, count: int, beside: int, seed: int) -> None:
    encoder = PixelEncoder(backbone, 32)
    pixels = np.random.default_rng(seed).integers(0, 256, (3 + beside, 3, 32, 32), dtype=np.uint8)
    all_of_them = encoder.finish(encoder.start(list(pixels)))
    some = encoder.finish(encoder.start(list(pixels[:count])))
    assert np.array_equal(some, all_of_them[:count])


def test_short_batches_are_filled_up() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [rows_of_pass(images, 128, cpu) for images in (1, 32, 33, 128)] == [32, 32, 33, 128]
    assert rows_of_pass(1, 8, cpu) == 8
    assert rows_of_pass(1, 128, gpu) == 128


def test_pixels_are_normalised_to_the_bit() -> None:
    image = Image.open(BytesIO(photo_bytes(3, side=50))).crop((0, 0, 50, 41))
    read = PixelReader(32)._pixels(image)
    expected = transform_of(STYLE)(image)
    channels = STYLE.channels(torch.device("cpu"))
    assert torch.equal(normalised(torch.from_numpy(read)[None], *channels)[0], expected)


@pytest.mark.parametrize("sides", [(50, 41), (41, 90), (32, 32), (300, 200)])
def test_fast_reading_is_a_level_off_at_most(tmp_path: Path, sides: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*sides, 3), dtype=np.uint8)
    path = tmp_path / "noise.png"
    Image.fromarray(noise).save(path)
    exact, fast = (PixelReader(32, fast)(path).pixels for fast in (False, True))
    assert exact is not None
    assert fast is not None
    assert fast.shape == exact.shape == (3, 32, 32)
    difference = np.abs(fast.astype(int) - exact.astype(int))
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.05


def test_fast_reading_decodes_large_jpegs_at_a_fraction(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    ramp = np.linspace(0, 255, 640).astype(np.uint8)
    Image.fromarray(np.tile(ramp[:, None, None], (1, 480, 3))).save(path)
    exact, fast = (PixelReader(32, fast)(path) for fast in (False, True))
    assert exact.digest == fast.digest
    assert exact.pixels is not None
    assert fast.pixels is not None
    assert np.abs(fast.pixels.astype(int) - exact.pixels).max() <= 8


@pytest.mark.parametrize("processes", [False, True])
def test_images_come_in_order_and_known_ones_without_pixels(
    tmp_path: Path, processes: bool
) -> None:
    photos(tmp_path, [f"{number}.png" for number in range(10, 16)])
    paths = [*sorted(tmp_path.iterdir()), tmp_path / "gone.png"]
    known = PixelReader(32)(paths[2]).digest
    found = list(load_ahead(paths, PixelReader(32, known={known}), 2, 4, processes))
    assert [image.pixels is None for image in found] == [
        False,
        False,
        True,
        False,
        False,
        False,
        True,
    ]
    assert found[2] == Loaded(known)
    assert "gone.png: image missing" in found[6].problem
    one = PixelReader(32)(paths[5])
    assert one.pixels is not None
    assert found[5].pixels is not None
    assert found[5].digest == one.digest
    assert np.array_equal(found[5].pixels, one.pixels)
    assert touched(paths[6]) == GONE


def test_reading_ahead_can_be_given_up_in_a_thread_that_reads() -> None:
    go, gone, failed = Event(), Event(), list[RuntimeError]()

    def read(path: Path) -> Path:
        if path.name == "second":
            go.wait(10)
            try:
                reading.close()
            except RuntimeError as error:
                failed.append(error)
            gone.set()
        return path

    paths = [Path("first"), Path("second")]
    reading: Any = load_ahead(paths, cast(Any, read), workers=1, ahead=2, processes=False)
    assert next(reading) == paths[0]
    go.set()
    assert gone.wait(10)
    assert failed == []


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "parts").write_text("a file")
    with pytest.raises(CaptError, match="parts"):
        FeatureParts(tmp_path / "parts", ORIGIN)
