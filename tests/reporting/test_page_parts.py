"""The parts that the page is made of: pictures, matrix, answers, map, words."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from capt_core.artifacts.report_tables import IMAGE_MAP, RELIABILITY
from capt_core.reporting import charts, words
from capt_core.reporting.findings import PairedDifference
from capt_core.reporting.gallery import (
    NOTHING,
    Gallery,
    error_answers,
    gallery_of,
    interleaved,
    wanted_images,
)
from capt_core.reporting.matrix import confusion_counts, matrices, most_confused
from capt_core.reporting.pictures import LEVELS, thumbnails
from tests.reporting.made_findings import Answers, findings


def _photographs(folder: Path, count: int, size: tuple[int, int] = (200, 150)) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [folder / f"{index}.png" for index in range(count)]
    for path in paths:
        pixels = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


def _size(text: str) -> tuple[int, int]:
    return Image.open(BytesIO(base64.b64decode(text))).size


def test_thumbnails_are_as_large_as_there_is_room(tmp_path: Path) -> None:
    paths = _photographs(tmp_path, 6)
    large = thumbnails(paths, 10**6)
    assert (large.side, large.left_out, large.unreadable) == (112, 0, 0)
    assert {_size(text) for text in large.encoded.values()} == {(112, 84)}
    used = sum(map(len, large.encoded.values()))
    small = thumbnails(paths, used // 3)
    assert small.side < 112
    assert len(small.encoded) == 6
    assert sum(map(len, small.encoded.values())) <= used // 3
    assert thumbnails(paths, used // 3) == small


def test_the_first_pictures_stay_where_there_is_too_little_room(tmp_path: Path) -> None:
    paths = _photographs(tmp_path, 6)
    assert thumbnails(paths, 1).left_out == 6
    some = thumbnails(paths, 1500)
    assert some.side == LEVELS[-1][0]
    assert list(some.encoded) == paths[: len(some.encoded)]
    assert some.left_out == 6 - len(some.encoded) > 0


def test_small_images_keep_their_size_and_bad_ones_are_counted(tmp_path: Path) -> None:
    small = _photographs(tmp_path, 1, (20, 30))
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n")
    Image.new("F", (8, 8)).save(tmp_path / "deep.tif")
    bad = [tmp_path / name for name in ("bad.png", "deep.tif", "missing.png", "a\nb.png")]
    found = thumbnails([*bad, *small, tmp_path], 10**6)
    assert [_size(text) for text in found.encoded.values()] == [(20, 30)]
    assert (found.unreadable, found.left_out) == (5, 0)
    assert thumbnails([], 10**6).encoded == {}


BY_HAND = {
    1: Answers([0, 0, 0, 1], [1, 1, 0, 1], [1, 0, 0, 0]),
    2: Answers([0, 0, 0, 1], [1, 1, 0, 1], [1, 2, 0, 1]),
}
NAMES = ("a", "b", "c")


def test_counts_are_means_over_seeds() -> None:
    found = findings(BY_HAND, names=NAMES)
    counts = confusion_counts(found.errors, 2)
    assert counts == {(0, 1): (2.0, 1.0), (0, 2): (0.0, 0.5), (1, 0): (0.0, 0.5)}
    (matrix,) = matrices(found)
    assert (matrix.before, matrix.after, matrix.restricted) == (2.0, 2.0, False)
    assert [line.before for line in matrix.lines] == [2.0, 0.0, 0.0]
    # Rates of 2 of 3 and 1 of 3 images; shades are roots of their ratio to the largest.
    cell = matrix.lines[0].cells[1]
    assert cell.shade_before == 1
    assert cell.shade_after == pytest.approx(0.5**0.5)


def test_most_confused_classes_come_with_their_partners() -> None:
    counts = {(0, 3): (1.0, 0.0), (1, 2): (5.0, 2.0), (2, 3): (0.0, 3.0)}
    assert most_confused(counts, [0, 1, 2, 3], 4) == [0, 1, 2, 3]
    assert most_confused(counts, [0, 1, 2, 3], 3) == [1, 2, 3]
    assert most_confused(counts, [0, 1, 2, 3], 2) == [1, 2]


def test_equal_answers_of_several_seeds_are_one() -> None:
    found = findings(BY_HAND, names=NAMES)
    gallery = gallery_of(found)
    answers = error_answers(found, gallery)
    told = [(gallery.paths[a.image], a.before, a.after, a.outcome, a.seeds) for a in answers]
    assert told == [
        ("a/1.png", 1, 2, 2, 1),
        ("a/1.png", 1, 0, 0, 1),
        ("a/0.png", 1, 1, 1, 2),
        ("b/3.png", 1, 0, 3, 1),
    ]
    assert answers[0].before_confidence == 51


def test_images_and_names_have_one_number() -> None:
    gallery = Gallery(["a", "b"])
    assert [gallery.image(p) for p in ("x/1.png", "y.png", "x/1.png", None)] == [0, 1, 0, NOTHING]
    assert [gallery.name(text) for text in ("b", "new", "new", None)] == [1, 2, 2, NOTHING]
    assert gallery.files() == (["x/", ""], [(0, "1.png"), (1, "y.png")])


def test_suspects_and_errors_come_before_representatives() -> None:
    found = findings(BY_HAND, names=NAMES)
    gallery = gallery_of(found)
    suspect = gallery.image("odd.png")
    answers = error_answers(found, gallery)
    paths = [gallery.paths[number] for number in wanted_images([suspect], answers, [])]
    assert paths == ["odd.png", "a/1.png", "a/0.png", "b/3.png"]
    r, s = Path("r"), Path("s")
    turns = interleaved([(r, gallery, [0, 1]), (None, gallery, [0]), (s, gallery, [0])])
    assert turns == [r / "odd.png", s / "odd.png", r / gallery.paths[1]]


def test_map_keeps_every_error(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"sample_id": i, "path": f"{i}.png", "class_id": i % 2, "class_name": "ab"[i % 2]}
        | {"x": i / 10, "y": 0.25}
        for i in range(10)
    ]
    wrong = pl.DataFrame({"sample_id": [9, 4]})
    points = charts.map_points(IMAGE_MAP.frame(rows), wrong)
    assert points.height == 10
    assert points.row(9) == ("9.png", 1, "b", 900, 750, True)
    first, second = charts.map_classes(points)
    assert first.errors == "M400 750h0"
    assert second.points.count("h0") == 5
    monkeypatch.setattr(charts, "MOST_POINTS", 5)
    assert charts.map_points(IMAGE_MAP.frame(rows), wrong)["path"].to_list() == [
        *("4.png", "9.png", "0.png", "3.png", "7.png")
    ]


def test_reliability_leaves_out_empty_bins() -> None:
    rows = [
        {"model": "base", "lower": low, "upper": low + 0.5, "images": images}
        | {"confidence": 0.8, "accuracy": 0.5}
        for low, images in ((0.0, 0), (0.5, 4))
    ]
    (chart,) = charts.reliability_charts(RELIABILITY.frame(rows))
    assert chart.path == "M80.0 50.0"
    assert chart.markers == [(80.0, 50.0, 5.0)]


def test_intervals_by_hand() -> None:
    # Wilson for 5 of 10: (0.5 + z²/20 ± z sqrt(0.025 + z²/400)) / (1 + z²/10), z = 1.96.
    found = words.share(5, 10)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2366, 0.7634)
    assert (words.share(0, 0).low, words.share(0, 0).high) == (0, 1)


def test_words_and_numbers() -> None:
    counts = (3, 3.04, 2 / 3, 12345.0)
    assert [words.count(value) for value in counts] == ["3", "3", "0.7", "12,345"]
    assert [words.exact(value) for value in (3, 2 / 3, 1200.0)] == ["3", "0.6667", "1200"]
    assert [words.points(value) for value in (0.051, -0.02, 0.0)] == ["+5.1", "−2.0", "0.0"]
    told = [words.p_value(p) for p in (1e-9, 0.0312, 0.42)]
    assert told == ["p < 0.001", "p = 0.031", "p = 0.42"]
    assert "significantly worse" in words.verdict(PairedDifference(-0.1, -0.2, -0.01, 0.01))
    assert "may be chance" in words.verdict(PairedDifference(0.1, -0.2, 0.3, 0.3))
    assert words.verdict(None) == ""
