"""Decoding: bounds hold before pixels are decoded, deep images keep their greys, all is silent."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from capt_core.data import decoding
from capt_core.data.image_checks import check_image
from capt_core.data.images import open_image
from tests.data.own_images import photo_bytes
from tests.refusals import refusal


def png(width: int, height: int, pixels: bytes = b"") -> bytes:
    """A grey PNG that declares a size, whatever it holds."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def tiff(entries: dict[int, int], pixels: bytes) -> bytes:
    """A little-endian TIFF of one strip with these tags, each a LONG."""
    offset = 8 + 2 + 12 * (len(entries) + 2) + 4
    entries = {**entries, 273: offset, 279: len(pixels)}
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, entries[tag]) for tag in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + rows + bytes(4) + pixels


GREY = {256: 2, 257: 2, 258: 8, 259: 1, 262: 1, 277: 1}


def problem(path: Path, content: bytes) -> str:
    """Why a file cannot be used; the check and opening it agree."""
    path.write_bytes(content)
    check, found = refusal(open_image, path), check_image(path, "decode").problem
    assert found is not None
    assert found.removeprefix("unreadable: ") in check
    assert len(found) < 200
    return found


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ((60000, 1), "60000 x 1 pixels: one side is more than 100 times the other"),
        ((2, 201), "2 x 201 pixels: one side"),
        ((20000, 20000), "400000000 pixels: more than the 178 million"),
        ((2**31 - 1, 2**31 - 1), "pixels: more than the 178 million"),
        ((0, 5), "damaged PNG"),
    ],
)
def test_a_size_out_of_bounds_is_refused(tmp_path: Path, size: tuple[int, int], said: str) -> None:
    assert said in problem(tmp_path / "x.png", png(*size))


def test_what_the_bounds_allow_is_used(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png(100, 1, bytes(101)))
    assert open_image(tmp_path / "x.png").size == (100, 1)
    decoding.check_sides((13377, 13377))
    assert "million" in refusal(decoding.check_sides, (13378, 13377))


def test_a_jpeg_of_countless_passes_is_not_decoded(tmp_path: Path) -> None:
    buffer = BytesIO()
    Image.linear_gradient("L").save(buffer, format="JPEG", progressive=True)
    content = buffer.getvalue()
    start = content.rindex(b"\xff\xda")  # of the last pass, which ends with the file
    (tmp_path / "usual.jpg").write_bytes(content)
    assert open_image(tmp_path / "usual.jpg").size == (256, 256)
    repeated = content[:-2] + content[start:-2] * 200 + content[-2:]
    assert "206 passes" in problem(tmp_path / "x.jpg", repeated)
    # Bytes behind the picture, such as the film of a moving photograph, are no passes.
    (tmp_path / "film.jpg").write_bytes(content + b"\xff\xda\x00\xff" * 200)
    assert open_image(tmp_path / "film.jpg").size == (256, 256)


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.png"
    path.write_bytes(b"")
    os.truncate(path, 400 * 10**9)
    for level in ("decode", "exists"):
        assert check_image(path, level).problem == (
            "unreadable: 400.0 GB, more than the 1.1 GB that an image may take"
        )


def test_a_tile_is_bounded_though_its_image_is_small(tmp_path: Path) -> None:
    tags = {**GREY, 259: 8, 322: 40000, 323: 40000, 324: 8, 325: 9}
    assert "40000 x 40000 pixels in one tile" in problem(tmp_path / "x.tif", tiff(tags, b"x" * 9))


@pytest.mark.parametrize(
    ("bits", "photometric", "values", "expected"),
    [
        (16, 1, (0, 257, 32896, 65535), [0, 1, 128, 255]),
        (16, 0, (0, 257, 32896, 65535), [255, 254, 127, 0]),
        (12, 1, (0, 4095, 2056, 4080), [0, 255, 128, 254]),
    ],
)
def test_deep_greys_are_scaled_by_their_bits(
    tmp_path: Path, bits: int, photometric: int, values: tuple[int, ...], expected: list[int]
) -> None:
    if bits == 16:
        pixels = struct.pack("<4H", *values)
    else:  # two values in three bytes, each row of two begins a byte
        pairs = (values[:2], values[2:])
        pixels = b"".join((one << 12 | two).to_bytes(3) for one, two in pairs)
    (tmp_path / "x.tif").write_bytes(tiff({**GREY, 258: bits, 262: photometric}, pixels))
    assert np.asarray(open_image(tmp_path / "x.tif"))[..., 1].ravel().tolist() == expected


def test_greys_of_a_portable_map_are_scaled(tmp_path: Path) -> None:
    (tmp_path / "x.pgm").write_bytes(b"P5 2 1 65535\n" + struct.pack(">2H", 65535, 32896))
    assert np.asarray(open_image(tmp_path / "x.pgm"))[..., 0].tolist() == [[255, 128]]
    assert check_image(tmp_path / "x.pgm", "decode").remarks == ("16-bit",)


@pytest.mark.parametrize(("brightest", "remarks"), [(4095, True), (4112, False)])
def test_deep_images_that_come_out_black_are_remarked(
    tmp_path: Path, brightest: int, remarks: bool
) -> None:
    # Twelve bits of a camera in a file that declares sixteen.
    Image.fromarray(np.full((3, 3), brightest, np.uint16)).save(tmp_path / "x.png")
    found = check_image(tmp_path / "x.png", "decode").remarks
    assert found == (("nearly black", "16-bit") if remarks else ("16-bit",))


def test_values_of_unknown_range_are_refused(tmp_path: Path) -> None:
    for kind, tags in (("signed", {258: 8, 339: 2}), ("32-bit or signed", {258: 32})):
        content = tiff({**GREY, **tags}, bytes(16))
        assert f"{kind} pixels" in problem(tmp_path / "x.tif", content)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jpg", b"<!DOCTYPE html>", "a web page"),
        ("a.jpg", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.png", b'<?xml version="1.0"?><svg xmlns="x">', "SVG"),
        ("a.jpg", b"\0\0\0\x18ftypheic" + bytes(20), "HEIC"),
        ("a.jpg", b"\0\0\0\x18ftypisom" + bytes(20), "a video"),
        ("a.jpg", b"8BPS\0\1", "Photoshop"),
        ("a.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        ("a.jpg", bytes(100), "nothing but zero bytes"),
        ("a.jpg", b"\xff\xd8\xff\xe0", "damaged JPEG"),
        ("a.jpg", b"abc", "not an image"),
        ("a.nef", tiff(GREY, bytes(4)), ".nef files are not supported"),
        ("a.tif", tiff({**GREY, 50706: 1}, bytes(4)), "raw photograph (DNG)"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    assert said in problem(tmp_path / name, content)


def test_a_wrong_suffix_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "photo.heic").write_bytes(photo_bytes(0, 8, "JPEG"))
    assert open_image(tmp_path / "photo.heic").size == (8, 8)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_of_several_frames_is_used(tmp_path: Path, kind: str) -> None:
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("#f00", "#00f"))
    red.save(tmp_path / "x", kind, save_all=True, append_images=[blue], lossless=True)
    assert open_image(tmp_path / "x").getpixel((1, 1)) == (255, 0, 0)
    assert "animated" in check_image(tmp_path / "x", "decode").remarks


def test_damage_after_the_pixels_does_not_matter(tmp_path: Path) -> None:
    stream, exif = BytesIO(), Image.Exif()
    exif[0x10F] = "a maker"
    Image.new("RGB", (8, 8)).save(stream, "JPEG", exif=exif)
    at = stream.getvalue().index(b"MM\0*")
    for damage in (b"\xff" * 4, b"XX\xff\xff"):
        content = stream.getvalue()[:at] + damage + stream.getvalue()[at + 4 :]
        (tmp_path / "x.jpg").write_bytes(content)
        assert check_image(tmp_path / "x.jpg", "decode").problem is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x" * 300 + ".png", "File name too long"),
        ("a\0b.png", "NUL character"),
        ("loop.png", "Too many levels of symbolic links"),
        ("pipe.png", "not a file"),
        ("photo.png/x.png", "missing"),
        ("dangling.png", "missing"),
    ],
)
def test_names_that_the_system_refuses_are_named(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "photo.png").write_bytes(photo_bytes(0))
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "dangling.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    for level in ("decode", "exists"):
        assert said in str(check_image(tmp_path / name, level).problem)
    assert said in refusal(open_image, tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(photo_bytes(0))
    (tmp_path / "x.png").chmod(0)
    assert "Permission denied" in str(check_image(tmp_path / "x.png", "decode").problem)


_SILENT = """
import sys
from pathlib import Path
from capt_core.data.image_checks import check_image
for name in sys.argv[1:]:
    print(check_image(Path(name), "decode").problem)
"""


def test_decoders_print_nothing(tmp_path: Path) -> None:
    palette = Image.new("RGB", (9, 9)).quantize(4)
    palette.save(tmp_path / "palette.png", transparency=bytes([0, 128, 255, 255]))
    many = tiff({**GREY, 262: 2, 277: 1000}, bytes(4))  # Pillow logs an error
    (tmp_path / "samples.tif").write_bytes(many)
    broken = tiff({**GREY, 259: 8}, b"no deflated data")  # libtiff prints one
    (tmp_path / "deflate.tif").write_bytes(broken)
    (tmp_path / "large.png").write_bytes(png(10000, 10000))  # Pillow warns of a bomb
    stream, exif = BytesIO(), Image.Exif()
    exif[0x10F] = "a maker"
    Image.new("RGB", (8, 8)).save(stream, "JPEG", exif=exif)
    cut = stream.getvalue().replace(b"\0\0\0\x08\0\1", b"\0\0\0\x08\0\7")  # too few entries: warns
    (tmp_path / "exif.jpg").write_bytes(cut)
    names = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", _SILENT, *names],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    said = dict(zip((Path(name).name for name in names), done.stdout.splitlines(), strict=True))
    assert said["palette.png"] == said["exif.jpg"] == "None"
    assert all(said[name] != "None" for name in ("samples.tif", "deflate.tif", "large.png"))
