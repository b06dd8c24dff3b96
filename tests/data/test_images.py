"""Images: every common kind opens as RGB, every damaged one is named, batches keep their order."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from capt_core.data import (
    image_checks,
    images,  # the module: pytest would collect a bare `test_transform`
)
from capt_core.data.image_checks import ImageCheck, check_image, check_images
from capt_core.data.images import Preprocess, image_batches, open_image
from capt_core.errors import CaptError
from tests.refusals import refusal

STYLE = Preprocess(8, (0.5, 0.5, 0.5), (0.25, 0.5, 1.0))


def photo(folder: Path, name: str = "photo.jpg", side: int = 40) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    path = folder / name
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "expected"),
    [
        ("RGB", (200, 100, 50), "png", (200, 100, 50)),
        ("L", 200, "png", (200, 200, 200)),
        ("1", 1, "png", (255, 255, 255)),
        ("LA", (200, 0), "png", (200, 200, 200)),
        ("RGBA", (200, 100, 50, 128), "png", (200, 100, 50)),
        ("CMYK", (0, 0, 0, 0), "tiff", (255, 255, 255)),
        ("CMYK", (0, 255, 0, 0), "tiff", (255, 0, 255)),
    ],
)
def test_every_kind_of_image_opens_as_rgb(
    tmp_path: Path, mode: str, colour: int | tuple[int, ...], suffix: str, expected: tuple[int, ...]
) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.new(mode, (5, 4), colour).save(path)
    image = open_image(path)
    assert (image.mode, image.size) == ("RGB", (5, 4))
    assert image.getpixel((2, 2)) == expected
    assert check_image(path, "decode").problem is None


def test_a_preprocess_makes_a_tensor_of_any_image() -> None:
    preprocess = Preprocess(2, (0.5, 0.5, 0.5), (0.25, 0.5, 1.0))
    pixels = preprocess(Image.new("L", (6, 4), 255))
    assert pixels.shape == (3, 2, 2)
    assert pixels[:, 0, 0].tolist() == [2.0, 1.0, 0.5]
    assert preprocess == Preprocess(2, (0.5, 0.5, 0.5), (0.25, 0.5, 1.0))
    with pytest.raises(CaptError, match="whose range is not known"):
        preprocess(Image.new("F", (6, 4)))
    with pytest.raises(CaptError, match="60000 x 1 pixels"):
        preprocess(Image.new("L", (60000, 1)))


def test_palette_images_open_in_their_colours(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 4), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    image.save(tmp_path / "image.gif")
    assert open_image(tmp_path / "image.gif").getpixel((1, 1)) == (10, 200, 30)


def test_deep_grey_images_keep_their_contrast(tmp_path: Path) -> None:
    # 16 bits per pixel, as microscopes and satellites write them: a ramp must not open as white.
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    opened = np.asarray(open_image(tmp_path / "ramp.png"))[..., 0]
    assert 100 < opened.mean() < 155


def open_refusal(path: Path) -> str:
    message = refusal(open_image, path)
    assert message.startswith(f"{path}: ")
    return message


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    assert "image missing" in open_refusal(tmp_path / "gone.jpg")
    assert check_image(tmp_path / "gone.jpg", "decode").problem == "missing"
    assert check_image(tmp_path / "gone.jpg", "exists").problem == "missing"


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\xff\xd8\xff" + b"\x00" * 50])
def test_a_file_that_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    assert "not a readable image" in open_refusal(path)
    problem = check_image(path, "decode").problem
    assert problem is not None
    assert problem.startswith("unreadable")
    assert "0x" not in problem  # no address of a buffer, which would differ from run to run


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png"])
def test_a_truncated_image_is_named(tmp_path: Path, name: str) -> None:
    path = photo(tmp_path, name)
    path.write_bytes(path.read_bytes()[:-200])
    assert "quarantine" in open_refusal(path)
    check = check_image(path, "decode")
    assert check.problem is not None
    assert check.digest == ""
    # Only decoding finds it.
    assert check_image(path, "exists").problem is None


@given(st.data())
def test_what_passes_the_check_can_be_opened(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    stream = BytesIO()
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]))
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    content = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.image"
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    # Whatever the damage: no error of another type leaves either of them.
    passed = check_image(path, "decode").problem is None
    try:
        opened = open_image(path).mode == "RGB"
    except CaptError:
        opened = False
    assert opened or not passed


def test_the_closeness_of_a_look_decides_what_is_seen(tmp_path: Path) -> None:
    path, gone = photo(tmp_path), tmp_path / "gone.jpg"
    assert check_image(path, "exists") == ImageCheck(None, str(path.stat().st_size))
    assert check_image(path, "none") == check_image(gone, "none") == ImageCheck(None, "")
    assert len(check_image(path, "decode").digest) == 64


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    assert "not a readable image" in open_refusal(tmp_path)
    assert check_image(tmp_path, "decode").problem is not None


def test_the_digest_follows_the_bytes(tmp_path: Path) -> None:
    one, two = photo(tmp_path, "one.png"), photo(tmp_path, "two.png")
    assert check_image(one, "decode") == check_image(two, "decode")
    assert check_image(one, "decode").digest != check_image(photo(tmp_path), "decode").digest


def test_many_checks_keep_their_order(tmp_path: Path) -> None:
    good = photo(tmp_path)
    paths = [good, tmp_path / "gone.jpg", good, tmp_path / "gone.jpg"] * 5
    for workers in (0, 1, 3):
        checks = list(check_images(paths, "decode", workers=workers))
        assert [check.problem for check in checks] == [None, "missing", None, "missing"] * 5


def test_checks_span_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capt_core.data.image_checks._CHUNK", 3)
    sizes = [10, 11, 12, 13, 14, 15, 16]
    paths = [photo(tmp_path, f"{side}.bmp", side) for side in sizes]
    found = [check.digest for check in check_images(paths, "exists", workers=2)]
    assert found == [str(path.stat().st_size) for path in paths]


def first_pixel(image: Image.Image) -> torch.Tensor:
    return torch.tensor(image.getpixel((0, 0)), dtype=torch.float32)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize(
    ("count", "batch_size", "shapes"),
    [(7, 3, [3, 3, 1]), (6, 3, [3, 3]), (2, 5, [2]), (5, 1, [1] * 5), (0, 4, [])],
)
def test_batches_keep_the_order_of_the_paths(
    tmp_path: Path, workers: int, count: int, batch_size: int, shapes: list[int]
) -> None:
    paths = []
    for index in range(count):
        paths.append(tmp_path / f"{index}.png")
        side = 200 if index == 0 else 2  # the first takes longest
        Image.new("RGB", (side, side), (index, 0, 0)).save(paths[-1])
    batches = list(image_batches(paths, first_pixel, batch_size, workers))
    assert [len(batch) for batch in batches] == shapes
    assert [int(row[0]) for batch in batches for row in batch] == list(range(count))


def test_batches_are_streamed(tmp_path: Path) -> None:
    good = photo(tmp_path)
    batches = image_batches([good] * 8 + [tmp_path / "gone.jpg"], first_pixel, 2, 2)
    # The bad image is far behind: what comes before it is served.
    assert len(next(batches)) == 2
    batches.close()  # type: ignore[attr-defined]


def test_at_most_two_batches_are_decoded_ahead(tmp_path: Path) -> None:
    opened: list[int] = []

    def note(image: Image.Image) -> torch.Tensor:
        opened.append(1)
        return first_pixel(image)

    batches = image_batches([photo(tmp_path)] * 20, note, 2, 2)
    next(batches)
    batches.close()  # type: ignore[attr-defined]  # waits for what was begun
    assert len(opened) <= 6


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_in_a_worker_keeps_its_type_and_message(tmp_path: Path, workers: int) -> None:
    good, bad = photo(tmp_path), tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    with pytest.raises(CaptError, match=r"bad\.jpg: not a readable image"):
        list(image_batches([good, good, good, bad], first_pixel, 2, workers))

    def broken(_: Image.Image) -> torch.Tensor:
        raise ZeroDivisionError("a bug in a transform")

    with pytest.raises(ZeroDivisionError, match="a bug in a transform"):
        list(image_batches([good], broken, 2, workers))


def test_the_test_transform_resizes_crops_and_normalises(tmp_path: Path) -> None:
    image = Image.new("RGB", (64, 16), (0, 0, 255))
    image.paste((255, 0, 255), (24, 0, 40, 16))  # the middle square
    tensor = images.test_transform(STYLE)(image)
    assert tensor.shape == (3, 8, 8)
    # (1 - 0.5) / 0.25, (0 - 0.5) / 0.5, (1 - 0.5) / 1 in the centre.
    torch.testing.assert_close(tensor[:, 4, 4], torch.tensor([2.0, -1.0, 0.5]))


def test_the_train_transform_repeats_under_a_seed(tmp_path: Path) -> None:
    image = open_image(photo(tmp_path))
    transform = images.train_transform(STYLE)
    torch.manual_seed(1)
    first, second = transform(image), transform(image)
    torch.manual_seed(1)
    assert torch.equal(transform(image), first)
    assert first.shape == (3, 8, 8)
    assert not torch.equal(first, second)


def test_unseen_images_cost_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_checks, "ThreadPoolExecutor", None)
    found = list(check_images([Path("nowhere.jpg")] * 3, "none", workers=2))
    assert found == [ImageCheck(None, "")] * 3
